"""`cmdcm features`: an event log -> labelled point-in-time examples."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.datasets.log import open_event_log
from cmdcm.features.columns import LABELS
from cmdcm.features.pipeline import build_dataset

EXAMPLE = "cmdcm features --events out/events --output out/examples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--events", type=Path, required=True, help="event log (directory)")
    parser.add_argument("--output", type=Path, required=True, help="directory of examples to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Makes the examples and prints rows and labels by promotion."""
    log = open_event_log(args.events)
    manifest = build_dataset(log, args.output, config, overwrite=args.overwrite)
    print(f"{manifest['rows']:,} examples of {len(manifest['days'])} days in {args.output}")
    print(f"{'promotion':24} {'days':>22} {'rows':>10} " + " ".join(f"{n:>10}" for n in LABELS))
    for name, entry in manifest["promotions"].items():
        days = f"{entry['first_day']}..{entry['last_day'][5:]}"
        labels = " ".join(f"{entry[label]:>10,}" for label in LABELS)
        print(f"{name:24} {days:>22} {entry['rows']:>10,} {labels}")
    for name, pairs in manifest["pairs"].items():
        print(
            f"{name}: {pairs['intents']:,} (user, item) pairs with a {config.labels.intent} in the "
            f"window, {pairs['open_intents']:,} of them open at its end, "
            f"{pairs['intents_bought']:,} bought on the promotion days"
        )
    return 0
