"""`cmdcm simulate`: writes a simulated event log, and the truth about it beside the log."""

import argparse
import time
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.progress import track_progress
from cmdcm.datasets import simulator
from cmdcm.datasets.events import EVENT_KINDS

EXAMPLE = "cmdcm simulate --preset world_shifted --output out/world --set simulate.events=200000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "--output", type=Path, required=True, help="directory that gets events/ and truth/"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace events/ and truth/ in the output"
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Runs the command; returns its exit code."""
    began = time.monotonic()
    summary = simulator.simulate(
        args.output,
        config,
        overwrite=args.overwrite,
        track=lambda chunks: track_progress(chunks, "simulate", total=len(chunks)),
    )
    lines = [
        ("events", f"{summary['rows']:,}"),
        *((f"  {kind}", f"{summary['rows_by_kind'].get(kind, 0):,}") for kind in EVENT_KINDS),
        ("users", f"{summary['users']:,}"),
        ("items", f"{summary['items']:,}"),
        ("promotions", ", ".join(summary["promotions"])),
        ("pre-promotion clicks", f"{summary['pre_promotion_clicks']:,}"),
        *((f"  {label}", f"{100 * rate:.2f} %") for label, rate in summary["rates"].items()),
        ("seconds", f"{time.monotonic() - began:.1f}"),
        ("event log", str(args.output / simulator.EVENTS)),
        ("truth", f"{args.output / simulator.TRUTH} (for evaluation alone)"),
    ]
    for name, value in lines:
        print(f"{name:<22}{value}")
    return 0
