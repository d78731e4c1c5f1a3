"""Metrics against hand-computed numbers and slow, independent references."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.model import metrics


@st.composite
def scored(draw, both_classes=True):
    """Labels, tied scores on a grid in (0, 1), integer weights and users."""
    rows = draw(st.integers(2, 25))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    if both_classes:
        labels[:2] = [0, 1]
    scores = draw(st.lists(st.integers(1, 15), min_size=rows, max_size=rows))
    weights = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    if both_classes:
        weights[:2] = [1, 1]
    users = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    return (
        np.array(labels),
        np.array(scores) / 16,
        np.array(weights),
        np.array(users),
    )


def pairwise_auc(labels, scores, weights):
    """AUC from its definition: over all pairs of a positive and a negative."""
    right = total = 0.0
    for y, s, w in zip(labels, scores, weights, strict=True):
        for y2, s2, w2 in zip(labels, scores, weights, strict=True):
            if y == 1 and y2 == 0:
                total += w * w2
                right += w * w2 * (1.0 if s > s2 else 0.5 if s == s2 else 0.0)
    return right / total if total else None


def stepwise_average_precision(labels, scores, weights):
    """Sum over falling thresholds of the recall gained times the precision there."""
    positives = sum(w for y, w in zip(labels, weights, strict=True) if y)
    result = recall = 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [(y, w) for y, s, w in zip(labels, scores, weights, strict=True) if s >= threshold]
        hits = sum(w for y, w in taken if y)
        if hits:
            result += (hits / positives - recall) * hits / sum(w for _, w in taken)
            recall = hits / positives
    return result


def test_auc_by_hand():
    # Pairs: (.35, .1) right, (.35, .4) wrong, (.8, .1) right, (.8, .4) right.
    assert metrics.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    # The positive of weight 3 beats both negatives, the other one loses to one of them.
    assert metrics.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], [1, 1, 1, 3]) == 7 / 8


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.3] * 4, 0.5), ([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0)],
    ids=["constant", "perfect", "reversed"],
)
def test_auc_limits(scores, expected):
    assert metrics.auc([0, 0, 1, 1], scores) == expected


@given(scored())
def test_auc_equals_the_pairwise_definition(case):
    labels, scores, weights, _ = case
    assert metrics.auc(labels, scores, weights) == pytest.approx(
        pairwise_auc(labels, scores, weights), abs=1e-12
    )


@given(scored())
def test_auc_depends_on_the_order_of_scores_alone(case):
    labels, scores, weights, _ = case
    expected = metrics.auc(labels, scores, weights)
    assert expected is not None
    for transformed in (scores**3, np.log(scores / (1 - scores)), 1e6 * scores - 5):
        assert metrics.auc(labels, transformed, weights) == expected
    assert metrics.auc(1 - labels, scores, weights) == pytest.approx(1 - expected)


def test_pr_auc_by_hand():
    # Positives at ranks 1 and 3: precisions 1 and 2/3, each for half of the recall.
    assert metrics.pr_auc([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6]) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.pr_auc([1, 0, 0, 0], [0.5] * 4) == 0.25
    assert metrics.pr_auc([0, 1, 1], [0.1, 0.8, 0.9]) == 1.0


@given(scored())
def test_pr_auc_equals_the_stepwise_definition(case):
    labels, scores, weights, _ = case
    assert metrics.pr_auc(labels, scores, weights) == pytest.approx(
        stepwise_average_precision(labels, scores, weights), abs=1e-12
    )


def test_gauc_by_hand_skips_users_of_one_class():
    users = ["a", "a", "b", "b", "b", "b", "c", "c"]
    labels = [0, 1, 0, 0, 0, 1, 1, 1]
    scores = [0.2, 0.9, 0.5, 0.1, 0.7, 0.6, 0.3, 0.4]
    # a: 1 with 2 rows; b: beats two of three negatives with 4 rows; c has no negative.
    assert metrics.gauc(labels, scores, users) == pytest.approx((2 * 1 + 4 * 2 / 3) / 6)
    assert metrics.gauc(labels, scores, users, weighting="uniform") == pytest.approx(
        (1 + 2 / 3) / 2
    )
    within = metrics.group_aucs(labels, scores, users)
    assert within.group.tolist() == ["a", "b"]
    assert within.weight.tolist() == [2, 4]


@given(scored(both_classes=False))
def test_gauc_equals_a_loop_over_users(case):
    labels, scores, weights, users = case
    aucs, masses = [], []
    for user in set(users.tolist()):
        rows = users == user
        value = pairwise_auc(labels[rows], scores[rows], weights[rows])
        if value is not None:
            aucs.append(value)
            masses.append(weights[rows].sum())
    by_rows = metrics.gauc(labels, scores, users, weights)
    uniform = metrics.gauc(labels, scores, users, weights, weighting="uniform")
    if not aucs:
        assert (by_rows, uniform) == (None, None)
    else:
        assert by_rows == pytest.approx(np.average(aucs, weights=masses), abs=1e-12)
        assert uniform == pytest.approx(np.mean(aucs), abs=1e-12)


def test_log_loss_by_hand():
    expected = -(math.log(0.8) + math.log(1 - 0.3)) / 2
    assert metrics.log_loss([1, 0], [0.8, 0.3]) == pytest.approx(expected, rel=1e-12)
    weighted = -(3 * math.log(0.8) + math.log(1 - 0.3)) / 4
    assert metrics.log_loss([1, 0], [0.8, 0.3], [3, 1]) == pytest.approx(weighted, rel=1e-12)
    assert metrics.log_loss([1, 0], [1.0, 0.0]) == pytest.approx(0, abs=1e-15)


def test_log_loss_clips_at_the_limits_of_the_given_type_only():
    wrong = metrics.row_log_loss([1, 0], np.array([0, 1], np.float32))
    assert wrong == pytest.approx([126 * math.log(2), 24 * math.log(2)])
    wrong = metrics.row_log_loss([1, 0], np.array([0, 1], np.float64))
    assert wrong == pytest.approx([1022 * math.log(2), 53 * math.log(2)])
    tiny = np.array([1e-30], np.float32)
    assert metrics.row_log_loss([1], tiny) == pytest.approx(30 * math.log(10), rel=1e-6)
    assert metrics.row_log_loss([0], tiny) == pytest.approx(1e-30, rel=1e-6)


def test_normalised_entropy_of_base_rate_is_one_and_of_perfection_zero():
    labels = [1, 0, 0, 0]
    assert metrics.normalised_entropy(labels, [0.25] * 4) == pytest.approx(1)
    assert metrics.normalised_entropy(labels, [1.0, 0, 0, 0]) == pytest.approx(0, abs=1e-12)
    # A constant .5 costs log 2 a row, whatever the labels.
    expected = math.log(2) / metrics.entropy(0.25)
    assert metrics.normalised_entropy(labels, [0.5] * 4) == pytest.approx(expected)


def test_pcoc_by_hand():
    assert metrics.pcoc([1, 0, 1, 0], [0.5, 0.25, 0.5, 0.25]) == 0.75
    assert metrics.pcoc([1, 0], [0.5, 0.25], [1, 4]) == 1.5


def test_ece_and_bins_by_hand():
    labels = [0, 1, 1, 1]
    probabilities = [0.1, 0.3, 0.6, 0.8]
    curve = metrics.calibration_bins(labels, probabilities, bins=2)
    assert curve.weight.tolist() == [2, 2]
    assert curve.mean_prediction == pytest.approx([0.2, 0.7])
    assert curve.mean_label == pytest.approx([0.5, 1.0])
    assert metrics.ece(labels, probabilities, bins=2) == pytest.approx((0.3 + 0.3) / 2)


def test_bins_hold_equal_mass_and_keep_ties_together():
    assert np.bincount(metrics.equal_mass_bins(np.arange(100) / 100, 10)).tolist() == [10] * 10
    assert metrics.equal_mass_bins([0.5] * 7, 10).tolist() == [0] * 7
    # The large block takes the bin of its middle, and numbers stay consecutive.
    assert metrics.equal_mass_bins([0.1, 0.2, 0.2, 0.2, 0.2, 0.3], 6).tolist() == [0, 1, 1, 1, 1, 2]
    # A row without weight never has a bin of its own.
    assert metrics.equal_mass_bins([0.1, 0.5, 0.9], 10, [0, 5, 1]).tolist() == [0, 0, 1]


def test_ece_of_a_constant_is_its_distance_from_the_rate():
    assert metrics.ece([1, 0, 0, 0, 0], [0.5] * 5) == pytest.approx(0.3)


@settings(max_examples=60)
@given(scored(both_classes=False), st.integers(2, 6))
def test_a_weight_repeats_a_row_in_every_metric(case, bins):
    labels, scores, weights, users = case
    y, s, u = (np.repeat(column, weights) for column in (labels, scores, users))
    weighted = metrics.summary(labels, scores, users, bins, weights)
    expected = metrics.summary(y, s, u, bins)
    assert list(weighted) == list(metrics.METRICS)
    for name, value in expected.items():
        approximately = None if value is None else pytest.approx(value, abs=1e-9)
        assert weighted[name] == approximately, name


@given(scored(), st.randoms())
def test_the_order_of_rows_does_not_matter(case, random):
    labels, scores, weights, users = case
    order = list(range(len(labels)))
    random.shuffle(order)
    before = metrics.summary(labels, scores, users, 4, weights)
    after = metrics.summary(labels[order], scores[order], users[order], 4, weights[order])
    for name, value in before.items():
        assert after[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@pytest.mark.parametrize(
    ("labels", "undefined"),
    [
        ([0, 0, 0], {"auc", "pr_auc", "gauc", "normalised_entropy", "pcoc"}),
        ([1, 1, 1], {"auc", "gauc", "normalised_entropy"}),
        ([], set(metrics.METRICS)),
    ],
    ids=["no positive", "no negative", "no row"],
)
def test_undefined_metrics_are_none(labels, undefined):
    values = metrics.summary(labels, [0.2, 0.4, 0.6][: len(labels)], ["a"] * len(labels))
    assert {name for name, value in values.items() if value is None} == undefined


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "message"),
    [
        ([0, 1], [0.5], None, "one length"),
        ([0, 2], [0.5, 0.5], None, "labels should be 0 or 1"),
        ([0, 1], [0.5, math.nan], None, "scores should be finite"),
        ([0, 1], [0.5, 0.5], [1, -1], "weights should be"),
        ([0, 1], [0.5, 1.5], None, "probabilities should lie in"),
    ],
)
def test_bad_input_is_named(labels, scores, weights, message):
    with pytest.raises(DataError, match=message):
        metrics.summary(labels, scores, ["u"] * len(labels), weights=weights)


def test_groups_of_another_length_are_refused():
    with pytest.raises(DataError, match="groups should have shape"):
        metrics.gauc([0, 1], [0.1, 0.2], ["u"])
