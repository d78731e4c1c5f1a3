"""`cmdcm report`: writes the HTML report of an evaluation."""

import argparse
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import read_json
from cmdcm.jobs.report import EVALUATION, write_report
from cmdcm.model.evaluation import load_evaluation

EXAMPLE = "cmdcm report --evaluation out/evaluation --output out/report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this subcommand."""
    parser.add_argument(
        "--evaluation",
        type=Path,
        required=True,
        help="directory with evaluation.json and, optionally, training.json, data.json and "
        "config.json; or an evaluation.json alone",
    )
    parser.add_argument("--output", type=Path, required=True, help="the HTML file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Writes the report; the configuration that it shows is the evaluation's own."""
    source: Path = args.evaluation
    evaluation = load_evaluation(source / EVALUATION if source.is_dir() else source)
    beside = args.output.with_name(EVALUATION)
    if not args.overwrite:
        taken = args.output.exists() or (beside.exists() and load_evaluation(beside) != evaluation)
        if taken:
            raise OutputError(
                f"{args.output} or another {EVALUATION} beside it exists; pass --overwrite or "
                "another path"
            )
    write_report(
        args.output,
        evaluation=evaluation,
        training=_optional(source, "training"),
        data=_optional(source, "data"),
        config=_optional(source, "config"),
        title=f"CM-DCM evaluation: {', '.join(evaluation['data']['promotions'])}",
    )
    data = evaluation["data"]
    print(f"models    {', '.join(evaluation['model_names'])}")
    print(f"clicks    {data['rows']:,} of {data['users']:,} users")
    for note in evaluation["notes"]:
        print(f"note      {note}")
    print(f"report    {args.output}")
    print(f"numbers   {beside}")
    return 0


def _optional(source: Path, name: str) -> dict[str, Any]:
    """Reads NAME.json of an evaluation's directory; nothing when it is not there."""
    path = source / f"{name}.json"
    if not source.is_dir() or not path.exists():
        return {}
    value = read_json(path, name)
    if not isinstance(value, dict):
        raise DataError(f"{path} should hold a JSON object. Received: {type(value).__name__}")
    return value
