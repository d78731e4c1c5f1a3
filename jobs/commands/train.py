"""`cmdcm train`: examples -> a trained model; goes on with an interrupted run."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import PreemptedError
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.mlflow_run import trackers
from cmdcm.model.observers import Observer
from cmdcm.model.trained import MODEL, load_history
from cmdcm.model.training import summary, train

EXAMPLE = "cmdcm train --examples out/examples --output out/runs/cmdcm --set model.name=cmdcm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--examples", type=Path, required=True, help="directory of examples")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory of the run; an interrupted run goes on",
    )
    parser.add_argument("--overwrite", action="store_true", help="start a run there anew")


class _Begun(Observer):
    """Is told that a run has taken the place of what was there."""

    told = False

    def started(self, taken: int) -> None:
        self.told = True


def run(args: argparse.Namespace, config: Config) -> int:
    """Trains the model and prints its validation metrics."""
    data = ExampleSet.open(args.examples, config.split)
    if data.split.note:
        print(data.split.note)
    for part in ("train", "validation", "test"):
        days = getattr(data.split, part)
        print(f"{part:10} {data.total(part):>10,} examples, {days[0]}..{days[-1]}")
    begun = _Begun()
    try:
        train(
            data,
            args.output,
            config,
            overwrite=args.overwrite,
            observers=[begun, *trackers(data, args.output, config)],
        )
    except PreemptedError as error:
        if args.overwrite and begun.told:  # before, what is there may still be the earlier run
            raise PreemptedError(f"{error}, but without --overwrite") from error
        raise
    history = load_history(args.output / MODEL)
    best = min(history, key=lambda record: record["val_log_loss_conversion"])
    last = history[-1]["epoch"]
    print(f"{config.model.name}: best epoch {best['epoch']:.0f} of {last:.0f}: {summary(best)}")
    print(f"model in {args.output / MODEL}")
    return 0
