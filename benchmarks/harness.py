"""What every benchmark shares: repeats, medians, targets and the last line of its output.

A benchmark prints what it likes and ends with the line `RESULT {json}`: its name, its figures, and
each target with its value, its bound and whether it was met. A missed target exits with 1.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUILD = Path(__file__).resolve().parents[1] / "build" / "benchmarks"
"""Where a benchmark keeps what the next run can use again."""

BENCH = BUILD / "bench"
"""Worlds and trials of the benchmarks that train models; they share what is equal."""


@dataclass(frozen=True)
class Target:
    """A figure that has to reach a bound.

    Attributes:
        value: What was measured.
        at_least: Lower bound, if any.
        at_most: Upper bound, if any.
    """

    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the value keeps its bounds."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


def timed(
    function: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Returns a measure: it runs `function` and returns the seconds that this took.

    Args:
        function: What to time.
        clock: `time.process_time` counts the processor time of this process instead.
    """

    def measure() -> float:
        start = clock()
        function()
        return clock() - start

    return measure


def medians(*measures: Callable[[], float], repeats: int = 5) -> list[float]:
    """Returns the median of `repeats` values of each measure, after one that does not count.

    The measures take turns, so that a disturbance of the machine meets all of them.
    """
    rounds = [[measure() for measure in measures] for _ in range(repeats + 1)]
    return [statistics.median(values) for values in zip(*rounds[1:], strict=True)]


def report(bench: str, figures: Mapping[str, Any], targets: Mapping[str, Target]) -> int:
    """Prints figures, targets and the RESULT line; returns the exit code."""
    for name, value in figures.items():
        print(f"{name:36} {_text(value)}")
    for name, target in targets.items():
        bound = (
            f"at least {target.at_least:,g}"
            if target.at_least is not None
            else f"at most {target.at_most:,g}"
        )
        print(f"{name:36} {_text(target.value)} ({bound}): {'met' if target.met else 'MISSED'}")
    result = {
        "bench": bench,
        "figures": {"cores": os.cpu_count(), **figures},
        "targets": {
            name: {k: v for k, v in asdict(target).items() if v is not None} | {"met": target.met}
            for name, target in targets.items()
        },
    }
    print(f"RESULT {json.dumps(_finite(result), allow_nan=False)}", flush=True)
    return 0 if all(target.met for target in targets.values()) else 1


def _finite(value: Any) -> Any:
    """Returns a value for JSON, which knows neither infinity nor NaN: they become null."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
