"""`cmdcm stream`: delayed-feedback models on a stream of clicks; resumable."""

import argparse
import shutil
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import OutputError
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.stream import MARK, methods, run_streams

EXAMPLE = "cmdcm stream --examples out/examples --output out/stream --model es_dfm --model ulc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--examples", type=Path, required=True, help="directory of examples")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory of the streams; interrupted ones go on",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew")
    parser.add_argument(
        "--model",
        action="append",
        choices=methods(),
        help="a method; may be repeated (default: all of them)",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Goes through the streams that are missing and prints the table."""
    if args.overwrite and args.output.exists():
        if any(args.output.iterdir()) and not (args.output / MARK).exists():
            raise OutputError(f"{args.output} exists and holds no streams; choose another --output")
        shutil.rmtree(args.output)
    data = ExampleSet.open(args.examples, config.split)
    run_streams(data, args.model or methods(), args.output, config)
    print((args.output / "results.md").read_text(encoding="utf-8"))
    print(f"results in {args.output}")
    return 0
