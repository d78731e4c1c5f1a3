"""The entries of a stream: none before its label is known, none lost, none twice but by policy."""

from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.features.arrivals import Policy, entries

POLICIES = [
    Policy(waits, again)
    for waits, again in product((True, False), get_args(Policy.__annotations__["again"]))
]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=str)


@st.composite
def click_lists(draw):
    """Clicks with a delay (-1 for none) and the time that the label stays open."""
    clicks, delays, known = [], [], []
    for _ in range(draw(st.integers(0, 12))):
        click, horizon = draw(st.integers(0, 50)), draw(st.integers(0, 40))
        clicks.append(click)
        delays.append(draw(st.integers(-1, horizon)))
        known.append(click + horizon)
    return tuple(np.array(values, np.int64) for values in (clicks, delays, known))


@every_policy
@given(click_lists(), st.integers(0, 30))
def test_no_entry_before_its_label_is_knowable_and_none_lost_or_doubled(policy, clicks, waiting):
    times, delays, known = clicks
    made = entries(times, delays, known, waiting, policy)
    assert (np.diff(made.time_ms) >= 0).all()
    seen: dict[int, list[int]] = {row: [] for row in range(len(times))}
    for row, time, observed, repeat in zip(
        made.row.tolist(), made.time_ms.tolist(), made.observed, made.repeat, strict=True
    ):
        click, delay = times[row], delays[row]
        assert time >= click
        if observed:
            assert delay >= 0 and time >= click + delay
        if repeat:
            # The second entry is the last word.
            assert observed == (delay >= 0)
            assert observed or time >= known[row]
        elif policy.waits:
            assert time == min(click + waiting, known[row])
            assert observed == (0 <= delay <= time - click)
        else:
            assert time == click and not observed
        assert repeat == len(seen[row])
        seen[row].append(int(observed))
    for row, labels in seen.items():
        late = delays[row] >= 0 and not labels[0]
        expected = {"none": 1, "late": 1 + late, "all": 2}[policy.again]
        assert len(labels) == expected


@given(click_lists(), st.integers(0, 30))
def test_the_oracle_knows_final_labels_at_the_times_of_vanilla(clicks, waiting):
    oracle = entries(clicks[0], clicks[1], clicks[2], waiting, Policy(final=True))
    vanilla = entries(clicks[0], clicks[1], clicks[2], waiting, Policy())
    np.testing.assert_array_equal(oracle.time_ms, vanilla.time_ms)
    np.testing.assert_array_equal(oracle.row, vanilla.row)
    np.testing.assert_array_equal(oracle.observed, clicks[1][oracle.row] >= 0)


@given(click_lists(), st.integers(0, 30), st.integers(1, 7))
def test_steps_part_the_stream(clicks, waiting, step):
    made = entries(clicks[0], clicks[1], clicks[2], waiting, Policy(again="all"))
    parts = [made.between(t, t + step) for t in range(0, 200, step)]
    for name in ("row", "time_ms", "observed", "repeat"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(part, name) for part in parts]), getattr(made, name)
        )


def test_by_hand():
    # Window of 5: in time, late, never; final at 20.
    clicks = np.array([0, 1, 2]), np.array([4, 9, -1]), np.array([20, 20, 20])
    late = entries(clicks[0], clicks[1], clicks[2], 5, Policy(again="late"))
    assert late.row.tolist() == [0, 1, 2, 1]
    assert late.time_ms.tolist() == [5, 6, 7, 10]
    assert late.observed.tolist() == [1, 0, 0, 1]
    assert late.repeat.tolist() == [0, 0, 0, 1]
    everything = entries(clicks[0], clicks[1], clicks[2], 5, Policy(again="all"))
    assert everything.row.tolist() == [0, 1, 2, 1, 0, 2]
    assert everything.time_ms.tolist() == [5, 6, 7, 10, 20, 20]
    at_once = entries(clicks[0], clicks[1], clicks[2], 5, Policy(waits=False, again="late"))
    assert at_once.time_ms.tolist() == [0, 1, 2, 4, 10]
    assert at_once.observed.tolist() == [0, 0, 0, 1, 1]


def test_a_conversion_after_the_final_label_is_refused():
    with pytest.raises(DataError, match="click 1 converts at 30, after its label is final at 20"):
        entries(np.array([0, 0]), np.array([-1, 30]), np.array([20, 20]), 5, Policy())
