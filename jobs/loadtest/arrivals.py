"""When the calls of an open loop are due: fixed before the test, whatever the server does."""

from typing import Literal, get_args

import numpy as np

from cmdcm.core.errors import ConfigError

Arrivals = Literal["poisson", "constant"]
ARRIVALS: tuple[Arrivals, ...] = get_args(Arrivals)


def arrival_times(arrivals: Arrivals, rate: float, seconds: float, seed: int) -> np.ndarray:
    """Returns the times at which calls are due.

    Args:
        arrivals: `poisson` for independent users, whose gaps are exponential; `constant` for equal
            gaps.
        rate: Mean calls a second.
        seconds: Length of the test.
        seed: Seed of the gaps.

    Returns:
        Ascending seconds from the start, float64 [calls], all below `seconds`.

    Raises:
        ConfigError: Rate or length is not positive, or no call is due.

    Example:
        >>> arrival_times("constant", rate=4.0, seconds=1.0, seed=0)
        array([0.  , 0.25, 0.5 , 0.75])
    """
    if rate <= 0 or seconds <= 0:
        raise ConfigError(f"rate and seconds should be positive. Received: {rate}, {seconds}")
    if arrivals == "constant":
        times = np.arange(np.ceil(rate * seconds)) / rate
    else:
        random = np.random.default_rng(seed)
        # A Poisson process in an interval: so many points, each anywhere in it.
        times = np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))
    if not len(times):
        raise ConfigError(f"no call is due at {rate:g} a second in {seconds:g} s; raise either")
    return times
