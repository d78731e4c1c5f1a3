"""Latency percentiles, throughput and errors of a load test.

A percentile is a latency that was recorded: the least that so many percent of the calls did not
exceed. A call that failed was never answered: it counts as infinitely late, so that neither quick
refusals nor calls cut off at their deadline make percentiles look better.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmdcm.core.errors import DataError
from cmdcm.jobs.loadtest.driver import Calls

OK = "OK"
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
_CURVE_POINTS_A_DECADE = 10


@dataclass(frozen=True)
class Latency:
    """Latencies of some calls, in milliseconds; infinite where too many failed.

    Attributes:
        calls: Number of calls.
        percentiles: Latency by percentile.
        curve: (percentile, latency) from the median to the maximum, as HdrHistogram plots them:
            evenly spaced in the logarithm of 1 / (1 - percentile / 100).
    """

    calls: int
    percentiles: Mapping[float, float]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Summary:
    """One measurement, its warm-up left out.

    Attributes:
        seconds: Length without warm-up.
        offered: Calls due a second.
        answered: Calls answered a second, within the measured time.
        errors: Calls that failed, by code.
        latency: Of all calls, from the time they were due.
        by_size: Of the calls with so many candidates.
        send_delay_ms: 99th percentile of the time from due to sent: what the client is late.
        client_cpu_ms: CPU time of this process, a call.
        server_cpu_ms: CPU time of the server's, a call; None if it was not watched.
    """

    seconds: float
    offered: float
    answered: float
    errors: Mapping[str, int]
    latency: Latency
    by_size: Mapping[int, Latency]
    send_delay_ms: float
    client_cpu_ms: float
    server_cpu_ms: float | None

    @property
    def error_share(self) -> float:
        """Share of the calls that failed."""
        return sum(self.errors.values()) / self.latency.calls


def percentile(values: np.ndarray, percent: float) -> float:
    """Returns the least of `values` that `percent` of them do not exceed.

    Example:
        >>> values = np.array([3.0, 1.0, 2.0, np.inf])
        >>> percentile(values, 50), percentile(values, 75), percentile(values, 76)
        (2.0, 3.0, inf)
    """
    return _recorded(np.sort(values), percent)


def _recorded(ordered: np.ndarray, percent: float) -> float:
    # Rounded first: 99.9 % of 1000 is 999, not the 1000 of a sum that binary fractions overshoot.
    rank = math.ceil(round(percent / 100 * len(ordered), 9))
    return float(ordered[max(rank, 1) - 1])


def latency(milliseconds: np.ndarray) -> Latency:
    """Returns the percentiles of latencies, float64 [calls]."""
    calls, ordered = len(milliseconds), np.sort(milliseconds)
    decades = math.log10(calls) if calls > 1 else 0.0
    steps = np.arange(math.log10(2), decades, 1 / _CURVE_POINTS_A_DECADE)
    percents = [*(100 * (1 - 10**-steps)).tolist(), 100.0]
    return Latency(
        calls,
        {percent: _recorded(ordered, percent) for percent in PERCENTILES},
        tuple((percent, _recorded(ordered, percent)) for percent in percents),
    )


def summarize(
    calls: Calls,
    sizes: np.ndarray,
    *,
    warmup: float,
    seconds: float,
    client_cpu: float = 0.0,
    server_cpu: float | None = None,
) -> Summary:
    """Summarises the calls that were due after the warm-up.

    Args:
        calls: All calls.
        sizes: Candidates of each, int64 [calls].
        warmup: Seconds to leave out at the front.
        seconds: Length of the test with its warm-up.
        client_cpu: CPU seconds of this process after the warm-up.
        server_cpu: CPU seconds of the server's process after the warm-up.

    Raises:
        DataError: No call was due after the warm-up.
    """
    measured = calls.due >= warmup
    count = int(measured.sum())
    if not count:
        raise DataError("no call was due after the warm-up; raise --seconds or the rate")
    codes = calls.codes[measured]
    waited = np.where(codes == OK, calls.ended[measured] - calls.due[measured], np.inf) * 1e3
    late = (calls.sent - calls.due)[measured] * 1e3
    window = seconds - warmup
    in_window = (calls.codes == OK) & (calls.ended >= warmup) & (calls.ended < seconds)
    return Summary(
        seconds=window,
        offered=count / window,
        answered=int(in_window.sum()) / window,
        errors=dict(sorted(Counter(codes[codes != OK].tolist()).items())),
        latency=latency(waited),
        by_size={
            int(size): latency(waited[sizes[measured] == size])
            for size in np.unique(sizes[measured])
        },
        send_delay_ms=percentile(late, 99),
        client_cpu_ms=client_cpu / count * 1e3,
        server_cpu_ms=None if server_cpu is None else server_cpu / count * 1e3,
    )
