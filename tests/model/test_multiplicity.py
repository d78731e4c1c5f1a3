"""Corrected p-values against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import ConfigError
from cmdcm.model.multiplicity import CORRECTIONS, adjusted

P = [0.01, 0.04, 0.03, 0.005]


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("holm", [0.03, 0.06, 0.06, 0.02]),  # .005 * 4, .01 * 3, .03 * 2, then .04 not below it
        ("benjamini_hochberg", [0.02, 0.04, 0.04, 0.02]),  # .005 * 4, .01 * 2, .03 * 4 / 3, .04
        ("none", P),
    ],
)
def test_by_hand(correction, expected):
    assert adjusted(P, correction) == pytest.approx(expected)


def test_undefined_comparisons_do_not_count():
    assert adjusted([None, 0.02, None, 0.5], "holm") == [None, 0.04, None, 0.5]
    assert adjusted([None], "holm") == [None]
    assert adjusted([], "benjamini_hochberg") == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_corrections_raise_p_values_and_keep_their_order(p):
    holm, false_discovery, none = (adjusted(p, correction) for correction in CORRECTIONS)
    assert none == p
    assert None not in (*holm, *false_discovery)
    for values in map(np.array, (holm, false_discovery)):
        assert all(
            p_value <= value + 1e-12 <= 1 + 1e-12 for p_value, value in zip(p, values, strict=True)
        )
        assert (np.diff(values[np.lexsort((values, p))]) >= 0).all()
    assert (np.array(false_discovery) <= np.array(holm) + 1e-12).all()


def test_an_unknown_correction_is_refused():
    with pytest.raises(ConfigError, match="unknown correction 'bonferroni'"):
        adjusted(P, "bonferroni")
