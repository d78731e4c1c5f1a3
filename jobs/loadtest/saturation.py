"""The highest rate that a server sustains: raised until a bound breaks, then narrowed down."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cmdcm.core.errors import ConfigError
from cmdcm.jobs.loadtest.statistics import Summary


@dataclass(frozen=True)
class Bounds:
    """What a server should keep to.

    Attributes:
        p99_ms: 99th percentile of latency, in milliseconds, at most.
        error_share: Share of failed calls, at most.
    """

    p99_ms: float
    error_share: float = 0.0

    def __post_init__(self) -> None:
        if self.p99_ms <= 0 or not 0 <= self.error_share < 1:
            raise ConfigError(
                "the bound of p99 should be positive and that of errors from 0 to below 1. "
                f"Received: {self.p99_ms}, {self.error_share}"
            )

    def kept(self, summary: Summary) -> bool:
        """Returns whether a measurement stays within the bounds."""
        return (
            summary.latency.percentiles[99.0] <= self.p99_ms
            and summary.error_share <= self.error_share
        )


@dataclass(frozen=True)
class Saturation:
    """What a search found.

    Attributes:
        steps: (rate, measurement, whether it kept the bounds) in the order of measuring.
        sustained: Highest rate that kept them; None if none did.
        broken: Lowest rate above it that broke them; None if none did.
    """

    steps: tuple[tuple[float, Summary, bool], ...]
    sustained: float | None
    broken: float | None


def find_saturation(
    measure: Callable[[float], Summary],
    bounds: Bounds,
    first: float,
    *,
    least: float = 1.0,
    factor: float = 1.5,
    precision: float = 0.05,
    tries: int = 2,
    max_steps: int = 30,
) -> Saturation:
    """Searches the highest rate at which a server keeps to its bounds.

    The rate is multiplied by `factor` until the bounds break (or divided until they are kept), then
    the gap is halved on the logarithmic scale until it is within `precision`.

    Args:
        measure: Measures at a rate, in an open loop.
        bounds: What is to be kept.
        first: Rate of the first measurement, in calls a second.
        least: Rate below which nothing is measured: the search ends with no sustained rate.
        factor: Step of the rate.
        precision: Gap between sustained and broken rate at which to stop, as a share.
        tries: Measurements in a row that must break the bounds for a rate to count as beyond them,
            so that one disturbance of the machine decides nothing.
        max_steps: Measurements after which no further rate is tried.
    """
    sustained: float | None = None
    broken: float | None = None
    steps: list[tuple[float, Summary, bool]] = []
    rate = first
    while len(steps) < max_steps and rate >= least:
        kept = False
        for _ in range(tries):
            summary = measure(rate)
            kept = bounds.kept(summary)
            steps.append((rate, summary, kept))
            if kept:
                break
        if kept:
            sustained = rate
        else:
            broken = rate
        if sustained is None:
            rate /= factor
        elif broken is None:
            rate *= factor
        elif broken <= sustained * (1 + precision):
            break
        else:
            rate = math.sqrt(sustained * broken)
    return Saturation(tuple(steps), sustained, broken)
