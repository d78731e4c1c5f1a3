"""`cmdcm gate`: decides whether a trained model may be published, and shows why."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, ExportError
from cmdcm.core.files import read_json, staged_directory
from cmdcm.export.gate import override
from cmdcm.export.gate_run import run_gate
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.gate_page import PAGE, headline, write_gate
from cmdcm.jobs.rollout.audit import audit
from cmdcm.jobs.validation_report import JSON as VALIDATION

EXAMPLE = (
    "cmdcm gate --model out/runs/new/model --serving-model out/runs/old/model "
    "--examples out/examples --output out/gate"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--model", type=Path, required=True, help="the trained model (RUN/model)")
    parser.add_argument(
        "--serving-model",
        type=Path,
        help="the trained model that serves; without it bounds of values alone apply",
    )
    parser.add_argument("--examples", type=Path, required=True, help="directory of examples")
    parser.add_argument(
        "--validation", type=Path, help="what cmdcm validate wrote of the examples: drift and skew"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--override", action="store_true", help="accept a refused model; needs --by and --reason"
    )
    parser.add_argument("--by", default="", help="who overrides, for the audit log")
    parser.add_argument("--reason", default="", help="why, for the audit log")


def run(args: argparse.Namespace, config: Config) -> int:
    """Writes gate.json and gate.html; a refused model is exit code 5."""
    if args.override and not (args.by and args.reason):
        raise ConfigError("--override needs --by and --reason")
    data = ExampleSet.open(args.examples, Config.load(args.model / "config.json").split)
    validation = read_json(args.validation / VALIDATION, "validation") if args.validation else None
    result = run_gate(args.model, data, config, args.serving_model, validation)
    if args.override:
        result = override(result, args.by, args.reason)
    with staged_directory(args.output, overwrite=args.overwrite) as staging:
        write_gate(staging, result)
    audit(
        args.output,
        {
            "action": "gate",
            "model": result["model"],
            "result": headline(result),
            "reasons": result["reasons"],
            "override": result["override"],
        },
    )
    for verdict in result["verdicts"]:
        if verdict["outcome"] in ("fail", "warn"):
            print(f"{verdict['outcome']:8}{verdict['reason']}")
    print(f"{headline(result)}; see {args.output / PAGE}")
    return 0 if result["accepted"] else ExportError.exit_code
