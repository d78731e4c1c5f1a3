"""`cmdcm features`: an event log -> labelled point-in-time examples."""

import argparse

from cmdcm.core.config import Config
from cmdcm.core.locations import location
from cmdcm.datasets.log import open_event_log
from cmdcm.features.columns import LABELS, OPTIONAL_LABELS
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.spark import build_dataset_on_spark, spark_session

EXAMPLE = "cmdcm features --events 'logs/{YYYY-MM-DD}' --output out/examples --update"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--events",
        type=location,
        required=True,
        help="event log: a Parquet file, a directory, or a path with {YYYY-MM-DD} for the "
        "directories of its days; local or any URL of fsspec",
    )
    parser.add_argument("--first-day", default="", help="first {YYYY-MM-DD} to read")
    parser.add_argument("--last-day", default="", help="last {YYYY-MM-DD} to read")
    parser.add_argument(
        "--allow-missing-days", action="store_true", help="days may lack between the two"
    )
    parser.add_argument(
        "--output", type=location, required=True, help="directory of examples to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--update",
        action="store_true",
        help="keep the promotions of an existing output that no new or changed file touches",
    )
    parser.add_argument(
        "--runner", choices=("local", "spark"), default="local", help="what runs the partitions"
    )
    parser.add_argument(
        "--master", default="", help="Spark's master; by default what spark-submit says"
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Makes the examples and prints rows and labels by promotion."""
    log = open_event_log(
        args.events, args.first_day, args.last_day, allow_missing_days=args.allow_missing_days
    )
    existing = {"overwrite": args.overwrite, "update": args.update}
    if args.runner == "spark":
        session = spark_session(args.master)
        manifest = build_dataset_on_spark(log, args.output, config, session, **existing)
    else:
        manifest = build_dataset(log, args.output, config, **existing)
    print(f"{manifest['rows']:,} examples of {len(manifest['days'])} days in {args.output}")
    names = [*LABELS, *(name for name in OPTIONAL_LABELS if getattr(config.labels, name))]
    print(f"{'promotion':24} {'days':>22} {'rows':>10} " + " ".join(f"{n:>10}" for n in names))
    for name, entry in manifest["promotions"].items():
        days = f"{entry['first_day']}..{entry['last_day'][5:]}"
        labels = " ".join(f"{entry[label]:>10,}" for label in names)
        print(f"{name:24} {days:>22} {entry['rows']:>10,} {labels}")
    for name, pairs in manifest["pairs"].items():
        print(
            f"{name}: {pairs['intents']:,} (user, item) pairs with a {config.labels.intent} in the "
            f"window, {pairs['open_intents']:,} of them open at its end, "
            f"{pairs['intents_bought']:,} bought on the promotion days"
        )
    return 0
