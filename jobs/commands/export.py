"""`cmdcm export`: a trained model -> the next SavedModel version under a base path."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.files import read_json
from cmdcm.core.locations import location
from cmdcm.export.gate import check_accepted, load_gate
from cmdcm.export.publish import export_model
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.logged_warmup import read_warmup
from cmdcm.model.trained import load_model

EXAMPLE = (
    "cmdcm export --model out/runs/cmdcm/model --examples out/examples --output out/serving/cmdcm"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--model", type=Path, required=True, help="a trained model's directory")
    parser.add_argument(
        "--examples", type=Path, required=True, help="examples that give the warm-up requests"
    )
    parser.add_argument(
        "--output",
        type=location,
        required=True,
        help="base path of the served model: a directory or a URL, as s3://bucket/models/cmdcm",
    )
    parser.add_argument(
        "--evaluation", type=Path, help="evaluation to keep beside it, and for its model card"
    )
    parser.add_argument(
        "--warmup",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="logged requests (TFRecords of PredictionLog) to warm up with, too",
    )
    parser.add_argument(
        "--gate",
        type=Path,
        help="what cmdcm gate wrote of it; a refused model is not published",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Publishes the model and prints the version's path."""
    if args.gate:
        check_accepted(load_gate(args.gate), args.model)
    trained = Config.load(args.model / "config.json")
    config = config.model_copy(
        update={n: getattr(trained, n) for n in ("model", "training", "calibration")}
    )
    evaluation = (
        read_json(args.evaluation / "evaluation.json", "evaluation") if args.evaluation else None
    )
    data = ExampleSet.open(args.examples, trained.split)
    logged = read_warmup(args.warmup, data.spec) if args.warmup else []
    version = export_model(
        load_model(args.model),
        args.output,
        config,
        data,
        evaluation,
        logged=logged,
        trained=args.model,
    )
    print(f"version {version.number} of {config.export.name} in {version.path}")
    print(f"largest difference to the model in memory: {version.largest_difference:.2g}")
    return 0
