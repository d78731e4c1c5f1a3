"""Typed requests from the feature spec."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import ServingError
from cmdcm.serving.requests import candidate_arrays, chunks, pad_rows, user_arrays
from cmdcm.tests.serving import models

SPEC = models.SPEC


def assert_same(got, want):
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_values_become_the_signatures_arrays():
    assert_same(user_arrays(SPEC, models.user_values()), models.user_arrays())
    values = models.candidate_arrays(5)
    as_lists = {name: array.tolist() for name, array in values.items()}
    as_lists["brand"] = [brand.decode() for brand in as_lists["brand"]]
    assert_same(candidate_arrays(SPEC, as_lists), values)


def test_arrays_of_the_right_shape_stay_as_they_are():
    user = models.user_arrays()
    assert_same(user_arrays(SPEC, user), user)
    assert user_arrays(SPEC, user)["user_counts"] is user["user_counts"]


def test_an_empty_history_is_all_padding():
    user = {**models.user_values(), "clicked_item": [], "clicked_age": []}
    arrays = user_arrays(SPEC, user)
    assert arrays["clicked_item"].tolist() == [[0, 0, 0, 0]]
    assert arrays["clicked_age"].tolist() == [[-1, -1, -1, -1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clicked_itme": [1]}, "unknown user feature 'clicked_itme'.*closest .* 'clicked_item'"),
        ({"price": 1.0}, "unknown user feature 'price'.*one of the item features"),
        ({"direct": 1.0}, "unknown user feature 'direct'.*label"),
        ({"city": None, "hour": None}, "missing user features in the request: city, hour"),
        ({"user_id": "7"}, "'user_id' should be int64. Received: <U1"),
        ({"user_id": 7.5}, "'user_id' should be int64. Received: float64"),
        ({"user_id": 2**63}, "'user_id' exceeds the range of int64"),
        ({"user_id": [7, 8]}, r"'user_id' \(scalar\) should have shape \[1\]. Received: \[2\]"),
        ({"city": 3}, "'city' should be a string tensor: not a string: 3"),
        ({"user_counts": [1.0, 2.0]}, r"'user_counts' .*\[1, 3\]. Received: \[1, 2\]"),
        ({"user_counts": ["a", "b", "c"]}, "'user_counts' should be float32"),
        ({"clicked_item": [1] * 5, "clicked_age": [1] * 5}, r"\[1, 4\]. Received: \[1, 5\]"),
        ({"clicked_item": [1]}, "sequence 'clicked' differ in length: .*'clicked_age': 2"),
        ({"user_counts": [[1.0], [2.0, 3.0]]}, "'user_counts' should be a float32 tensor"),
    ],
)
def test_users_that_do_not_fit(change, message):
    values = {k: v for k, v in {**models.user_values(), **change}.items() if v is not None}
    with pytest.raises(ServingError, match=message):
        user_arrays(SPEC, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": [1, 2, 3]}, "unknown candidate feature 'colour'"),
        ({"price": None}, "missing candidate features in the request: price"),
        ({"price": [1.0, 2.0]}, r"'price' \(scalar\) should have shape \[3\]. Received: \[2\]"),
        ({"price": 1.0}, "'price'"),
        ({"affinity": np.zeros((3, 3))}, r"\[3, 2\]. Received: \[3, 3\]"),
        ({"item_id": [1.0, 2.0, 3.0]}, "'item_id' should be int64"),
    ],
)
def test_candidates_that_do_not_fit(change, message):
    values = {**models.candidate_arrays(3), **change}
    with pytest.raises(ServingError, match=message):
        candidate_arrays(SPEC, {k: v for k, v in values.items() if v is not None})


def test_no_candidates():
    with pytest.raises(ServingError, match="at least one candidate"):
        candidate_arrays(SPEC, models.candidate_arrays(0))


@settings(deadline=None)
@given(st.integers(1, 2000), st.lists(st.integers(1, 600), min_size=1, max_size=5, unique=True))
def test_chunks_cover_all_candidates_in_allowed_sizes(count, sizes):
    sizes = sorted(sizes)
    made = list(chunks(count, sizes))
    assert [start for start, _, _ in made] == [0, *(stop for _, stop, _ in made[:-1])]
    assert made[-1][1] == count
    for start, stop, size in made:
        assert size in sizes
        assert 0 < stop - start <= size
        assert not [s for s in sizes if stop - start <= s < size]
    assert all(size == sizes[-1] == stop - start for start, stop, size in made[:-1])


def test_padding_repeats_the_last_row():
    padded = pad_rows(np.array([[1, 2], [3, 4]]), 4)
    assert padded.tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert pad_rows(np.array([b"a"], object), 2).tolist() == [b"a", b"a"]
