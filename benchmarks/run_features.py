"""Makes the examples of an event log and prints the seconds and the peak memory as JSON.

Usage: python -m cmdcm.benchmarks.run_features EVENTS EXAMPLES
"""

import json
import sys
import time
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.datasets.log import open_event_log
from cmdcm.features.pipeline import build_dataset


def main(events: str, examples: str) -> None:
    """Replaces EXAMPLES by the examples of EVENTS."""
    started = time.perf_counter()
    build_dataset(open_event_log(Path(events)), Path(examples), Config(), overwrite=True)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_gib": _peak_gib()}))


def _peak_gib() -> float:
    """The most memory that this process has held; getrusage would count its parent's as well."""
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(peak) / 2**20


if __name__ == "__main__":
    main(*sys.argv[1:])
