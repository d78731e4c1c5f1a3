"""When calls are due."""

import numpy as np
import pytest

from cmdcm.core.errors import ConfigError
from cmdcm.jobs.loadtest.arrivals import arrival_times


def test_constant_gaps():
    times = arrival_times("constant", rate=50.0, seconds=2.0, seed=0)
    assert len(times) == 100
    np.testing.assert_allclose(np.diff(times), 0.02)
    assert times[0] == 0


def test_poisson_arrivals_have_exponential_gaps():
    times = arrival_times("poisson", rate=100.0, seconds=100.0, seed=3)
    gaps = np.diff(times)
    assert abs(len(times) - 10_000) < 5 * 100  # five standard deviations
    assert times[0] >= 0 and times[-1] < 100 and (gaps >= 0).all()
    # An exponential gap has a standard deviation equal to its mean, and exceeds it with 1 / e.
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05
    assert abs((gaps > gaps.mean()).mean() - np.exp(-1)) < 0.03


def test_arrivals_depend_on_the_seed_alone():
    def times(seed):
        return arrival_times("poisson", rate=10.0, seconds=10.0, seed=seed).tolist()

    assert times(1) == times(1)
    assert times(1) != times(2)


def test_rates_that_cannot_be_used():
    with pytest.raises(ConfigError, match=r"positive\. Received: 0\.0, 1\.0"):
        arrival_times("poisson", 0.0, 1.0, 0)
    with pytest.raises(ConfigError, match="no call is due"):
        arrival_times("poisson", 1e-9, 1.0, 0)
