"""Streams of chunks: against one pass over all rows, and the error of the grid."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.model import metrics
from cmdcm.model.bootstrap import Bootstrap, UserBootstrap
from cmdcm.model.streaming import MetricStream
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.model.test_bootstrap import numbers, sample

BOOT = Bootstrap(replicates=6, seed=4)


def streamed(boot, users, labels, p, chunks, weights=None, **settings):
    """Adds each chunk of rows to a stream of its own and merges them."""
    result = MetricStream(boot, **settings)
    for rows in chunks:
        stream = MetricStream(boot, **settings)
        part = None if weights is None else weights[rows]
        stream.add(users[rows], labels[rows], p[rows], part)
        result.merge(stream)
    return result


def same(a, b):
    """Checks that two results are equal up to rounding."""
    for name in metrics.METRICS:
        values, expected = (
            np.array([of.estimates[name], *of.replicates[name]], float) for of in (a, b)
        )
        np.testing.assert_allclose(values, expected, 1e-9, 1e-12, err_msg=name)
    np.testing.assert_allclose(a.bin_rates, b.bin_rates, 1e-9, 1e-12)
    for field in ("weight", "mean_prediction", "mean_label"):
        np.testing.assert_allclose(getattr(a.bins, field), getattr(b.bins, field), 1e-9)


@st.composite
def chunked(draw):
    """Rows with predictions in different cells, and the chunk of each user."""
    rows = draw(st.integers(1, 30))

    def column(values):
        return np.array(draw(st.lists(values, min_size=rows, max_size=rows)))

    users = column(st.integers(0, 6))
    chunk_of_user = np.array(draw(st.lists(st.integers(0, 2), min_size=7, max_size=7)))
    order = np.array(draw(st.permutations(range(rows))))
    by_user = [order[chunk_of_user[users[order]] == chunk] for chunk in range(3)]
    by_row = np.array_split(order, draw(st.integers(1, 4)))
    return (
        users,
        column(st.integers(0, 1)),
        column(st.integers(0, 8)) / 8,
        column(st.integers(0, 3)),
        by_user,
        by_row,
    )


@given(chunked())
def test_chunks_in_any_order_are_one_pass(given_rows):
    users, labels, p, weights, by_user, by_row = given_rows
    whole = UserBootstrap(users, 6, 4).metrics(labels, p, bins=3, weights=weights)
    stream = streamed(BOOT, users, labels, p, by_user, weights, whole_users=True)
    same(stream.result(bins=3), whole)
    # Chunks that split users lose GAUC and nothing else.
    split = streamed(BOOT, users, labels, p, by_row, weights).result(bins=3)
    nothing = replace(
        whole,
        estimates={**whole.estimates, "gauc": None},
        replicates={**whole.replicates, "gauc": np.full(6, np.nan)},
    )
    same(split, nothing)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 1), st.sampled_from((0, 0.3, 1, 7))),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 60),
)
def test_the_grid_errs_by_no_more_than_its_bound(rows, cells):
    p, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    stream = MetricStream(BOOT, cells=cells)
    stream.add(np.arange(len(p)), labels, p, weights)
    estimates, errors = stream.result().estimates, stream.errors()
    for name, exact in (
        ("auc", metrics.auc(labels, p, weights)),
        ("pr_auc", metrics.pr_auc(labels, p, weights)),
    ):
        estimate, error = estimates[name], errors[name]
        assert (estimate is None) == (error is None) == (exact is None), name
        if exact is not None and estimate is not None and error is not None:
            assert abs(estimate - exact) <= error + 1e-9, name


def test_the_bounds_are_reached():
    """Two rows of one step in the wrong order: the exact AUC is 0, the exact PR-AUC 1/2."""
    wrong = MetricStream(BOOT, cells=1)
    wrong.add([1, 2], [1, 0], [0.25, 0.5])
    assert wrong.result().estimates["auc"] == 0.5
    assert wrong.errors() == {"auc": 0.5, "pr_auc": 0.5}
    # A positive alone at the top is certain; the others tie with a negative.
    stream = MetricStream(BOOT, cells=2)
    stream.add([1, 2, 3], [1, 1, 0], [0.9, 0.2, 0.1])
    assert stream.result().estimates["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    worst = 1 - np.log(3 / 2)
    assert stream.errors()["pr_auc"] == pytest.approx(max(1 - 2 / 3, 2 / 3 - worst) / 2)


def test_the_default_grid_is_fine_enough_to_compare_models():
    random = np.random.default_rng(5)
    logits = random.normal(-3, 1.2, 20_000)
    p = 1 / (1 + np.exp(-logits))
    labels = random.random(20_000) < p
    other = 1 / (1 + np.exp(-logits - random.normal(0, 0.5, 20_000)))
    users = random.integers(0, 4_000, 20_000)
    held, boot = UserBootstrap(users, 50, 1), Bootstrap(50, 1)
    exact, results = [], []
    for chunks, predicted in ((3, p), (5, other)):  # pairing needs no equal chunks
        rows = np.array_split(random.permutation(20_000), chunks)
        stream = streamed(boot, users, labels, predicted, rows)
        assert stream.errors()["auc"] < 0.001
        assert stream.errors()["pr_auc"] < 0.005
        exact.append(held.metrics(labels, predicted))
        results.append(stream.result())
        assert results[-1].estimates["auc"] == pytest.approx(exact[-1].estimates["auc"], abs=5e-5)
    (a, b), (exact_a, exact_b) = results, exact
    for name in ("auc", "pr_auc", "log_loss", "normalised_entropy"):
        expected = numbers(held.difference(exact_a, exact_b, name))
        # A twentieth of the interval's width.
        tolerance = (expected[2] - expected[1]) / 20
        assert numbers(boot.difference(a, b, name)) == pytest.approx(expected, abs=tolerance)
        p_value = held.p_value(exact_a, exact_b, name)
        assert boot.p_value(a, b, name) == pytest.approx(p_value, rel=0.2, abs=1e-12)
    difference = boot.difference(a, b, "log_loss").to_json()
    assert difference == pytest.approx(held.difference(exact_a, exact_b, "log_loss").to_json())


def test_adding_up_in_one_stream_is_merging():
    users, labels, p = sample()
    stream = MetricStream(BOOT)
    chunks = np.array_split(np.arange(len(p)), 4)
    for rows in chunks:
        stream.add(users[rows], labels[rows], p[rows])
    merged = streamed(BOOT, users, labels, p, chunks[::-1])
    same(stream.result(), merged.result())


def test_a_stream_without_rows_defines_nothing():
    result = MetricStream(BOOT).result()
    assert set(result.estimates.values()) == {None}
    assert len(result.bins.weight) == len(result.bin_rates) == 0
    assert MetricStream(BOOT).errors() == {"auc": None, "pr_auc": None}


def test_bad_chunks_are_refused_and_leave_the_stream_as_it_was():
    stream = MetricStream(BOOT, whole_users=True)
    stream.add([1, 1, 2], [0, 1, 1], [0.25, 0.5, 0.5])
    before = stream.result()
    for chunk, message in (
        (([1], [0, 1], [0.5, 0.5]), "user ids should have 2 rows"),
        (([1, 2], [0, 2], [0.5, 0.5]), "labels should be 0 or 1"),
        (([1, 2], [0, 1], [0.5, 1.5]), r"probabilities should lie in \[0, 1\]"),
        (([1, 2], [0, 1], [0.5, np.nan]), "scores should be finite"),
        (([1, 2], [0, 1], [0.5, 0.5], [1, -1]), "weights should be finite and at least 0"),
    ):
        with pytest.raises(DataError, match=message):
            stream.add(*chunk)
    same(stream.result(), before)


@pytest.mark.parametrize(
    "other",
    [
        MetricStream(Bootstrap(7, 4)),
        MetricStream(Bootstrap(6, 5)),
        MetricStream(BOOT, cells=9),
        MetricStream(BOOT, whole_users=True),
    ],
)
def test_streams_with_other_settings_do_not_add_up(other):
    with pytest.raises(DataError, match="other settings do not add up"):
        MetricStream(BOOT).merge(other)
    with pytest.raises(DataError, match="at least one cell"):
        MetricStream(BOOT, cells=0)


def test_the_example_of_the_handbook():
    page = ROOT / "docs" / "evaluation.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert failed == 0
    assert tried > 10
