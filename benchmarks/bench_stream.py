"""Delayed-feedback models on streams of the simulator (docs/streaming.md).

Two streams over the last pre-promotion window of one world; history is the windows before it:
`direct`, a steady stream of purchases within hours and days, where each method has what it assumes;
and `conversion`, whose late positives come on the promotion days, after the window, where some do
not. Targets, of `direct` alone: no method is worse than vanilla in log loss, or further than 10 %
from calibrated. It resumes where it was stopped.
"""

import argparse
import sys
from typing import Any

import polars as pl

from cmdcm.benchmarks.harness import BUILD, Target, report
from cmdcm.core.config import load_config
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.main import main as command
from cmdcm.jobs.main import parse
from cmdcm.jobs.stream import VANILLA, methods, run_streams

SETTINGS = (
    "features.user_buckets=20_000",
    "features.item_buckets=20_000",
    "features.clicked_length=20",
    "features.intent_length=10",
    "labels.attribution_days=7",
    "training.batch_size=512",
    "training.epochs=1",
    "tracking.profile_step=0",
)
STREAMS = {"direct": 1.0, "conversion": 24.0}
"""Label -> waiting window in hours."""


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_500_000, help="events of the world")
    parser.add_argument("--model", action="append", choices=methods(), help="a method (all)")
    args = parser.parse_args(arguments)
    folder = BUILD / f"stream-{args.events}"
    settings = [*SETTINGS, f"simulate.events={args.events}"]
    flags = [part for setting in settings for part in ("--set", setting)]
    steps = {
        "world": ["simulate", "--output", str(folder / "world")],
        "examples": [
            "features",
            *("--events", str(folder / "world" / "events"), "--output", str(folder / "examples")),
        ],
    }
    for made, line in steps.items():
        if not (folder / made).exists() and command(parse(["cmdcm", *line, *flags])):
            return 1
    figures: dict[str, Any] = {}
    targets: dict[str, Target] = {}
    for label, hours in STREAMS.items():
        chosen = [f"model.delayed_label={label}", f"model.waiting_hours={hours}"]
        config = load_config(overrides=[*settings, *chosen])
        data = ExampleSet.open(folder / "examples", config.split)
        output = folder / label
        frame = run_streams(data, args.model or methods(), output, config)
        print((output / "results.md").read_text(encoding="utf-8"))
        for row in frame.filter(pl.col("metric") == "log_loss").iter_rows(named=True):
            name = f"{label}.{row['model']}"
            figures[f"{name}.log_loss_difference"] = row["difference_estimate"]
            if label == "direct" and row["model"] in methods():
                difference = Target(row["difference_estimate"], at_most=0.0)
                targets[f"{name}.log_loss - {VANILLA}"] = difference
        for row in frame.filter(pl.col("metric") == "pcoc").iter_rows(named=True):
            name = f"{label}.{row['model']}.pcoc"
            figures[name] = row["estimate"]
            if label == "direct" and row["model"] in methods():
                targets[f"{name} - 1, size"] = Target(abs(row["estimate"] - 1), at_most=0.1)
    return report("stream", figures, targets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
