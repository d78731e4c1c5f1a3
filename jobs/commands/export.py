"""`cmdcm export`: a trained model -> the next SavedModel version under a base path."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.files import read_json
from cmdcm.export.publish import export_model
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.training import load_model

EXAMPLE = (
    "cmdcm export --model out/runs/cmdcm/model --examples out/examples --output out/serving/cmdcm"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--model", type=Path, required=True, help="a trained model's directory")
    parser.add_argument(
        "--examples", type=Path, required=True, help="examples that give the warm-up requests"
    )
    parser.add_argument("--output", type=Path, required=True, help="base path of the served model")
    parser.add_argument("--evaluation", type=Path, help="evaluation directory to keep beside it")


def run(args: argparse.Namespace, config: Config) -> int:
    """Publishes the model and prints the version's path."""
    trained = Config.load(args.model / "config.json")
    config = config.model_copy(
        update={n: getattr(trained, n) for n in ("model", "training", "calibration")}
    )
    metrics = (
        read_json(args.evaluation / "evaluation.json", "evaluation") if args.evaluation else None
    )
    data = ExampleSet.open(args.examples, trained.split)
    version = export_model(
        load_model(args.model), args.output, config, data.files("validation"), metrics
    )
    print(f"version {version.number} of {config.export.name} in {version.path}")
    print(f"largest difference to the model in memory: {version.largest_difference:.2g}")
    return 0
