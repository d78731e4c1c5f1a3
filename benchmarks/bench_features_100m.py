"""One hundred million events, as many as the full Taobao log has, from raw Parquet to TFRecord.

It runs the command `cmdcm features` once, with all defaults, after simulating the world once. It
takes about 45 GB of disk. Not part of CI.
"""

import sys
import tempfile
from pathlib import Path

from cmdcm.benchmarks.bench_features import build, world
from cmdcm.benchmarks.harness import BUILD, Target, report

EVENTS = 100_000_000


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    events = world(EVENTS)
    peaks: list[float] = []
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        seconds, manifest = build(events, Path(folder, "examples"), peaks)
    figures = {
        "examples": float(manifest["rows"]),
        "gigabytes": sum(file["bytes"] for file in manifest["files"].values()) / 1e9,
        "events_per_second": EVENTS / seconds,
    }
    targets = {
        "minutes": Target(seconds / 60, at_most=10),
        "peak_gib": Target(max(peaks), at_most=6),
    }
    return report("features-100m", figures, targets)


if __name__ == "__main__":
    sys.exit(main())
