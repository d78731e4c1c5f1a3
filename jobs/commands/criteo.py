"""`cmdcm criteo`: the public Criteo conversion log -> examples for `cmdcm stream`."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.features.criteo import CriteoDays, read_criteo

EXAMPLE = "cmdcm criteo --input data.txt --output out/criteo --set model.waiting_hours=1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    usual = CriteoDays()
    parser.add_argument("--input", type=Path, required=True, help="the log, plain or gzip")
    parser.add_argument("--output", type=Path, required=True, help="directory of examples to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--history-days",
        type=int,
        default=usual.history,
        help=f"days before the stream (default: {usual.history})",
    )
    parser.add_argument(
        "--validation-days",
        type=int,
        default=usual.validation,
        help=f"the last days of the history, which validate (default: {usual.validation})",
    )
    parser.add_argument(
        "--gap-days",
        type=int,
        default=usual.gap,
        help=f"days left out between history and stream (default: {usual.gap})",
    )
    parser.add_argument(
        "--horizon-days",
        type=float,
        default=usual.horizon,
        help=f"conversions count up to so many days (default: {usual.horizon:g})",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Makes the examples and prints what there is."""
    days = CriteoDays(args.history_days, args.validation_days, args.gap_days, args.horizon_days)
    rows = read_criteo(args.input, args.output, config, days, overwrite=args.overwrite)
    for name, count in rows.items():
        print(f"{name:12} {count:>12,} clicks")
    print(f"examples in {args.output}")
    return 0
