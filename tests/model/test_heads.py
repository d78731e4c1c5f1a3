"""Task spaces, the declaration of heads and the losses that read it."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.heads import ESTIMATORS, SPACES, Head, HeadLoss, entire_space_loss
from cmdcm.model.losses import weighted_mean
from cmdcm.model.probability import from_logit
from cmdcm.tests.model.reference import cross_entropy, logit, sigmoid

LABELS = {
    "direct": tf.constant([1.0, 1.0, 0.0, 0.0, 0.0]),
    "cart": tf.constant([1.0, 0.0, 1.0, 0.0, 0.0]),
    "delayed": tf.constant([0.0, 0.0, 1.0, 1.0, 0.0]),
    "conversion": tf.constant([1.0, 1.0, 1.0, 1.0, 0.0]),
    "micro": tf.constant([1.0, 0.0, 0.0, 1.0, 1.0]),
    "final": tf.constant([1.0, 0.0, 1.0, 0.0, 1.0]),
    "early": tf.constant([1.0, 0.0, 0.0, 0.0, 1.0]),
}
LOGITS = tf.constant([0.5, -1.0, 2.0, 0.3, -2.0])
MASKS = {
    "clicks": [1, 1, 1, 1, 1],
    "direct": [1, 1, 0, 0, 0],
    "not_direct": [0, 0, 1, 1, 1],
    "carted": [0, 0, 1, 0, 0],
    "uncarted": [0, 0, 0, 1, 1],
    "micro": [0, 0, 0, 1, 1],
    "no_micro": [0, 0, 1, 0, 0],
    "bought": [1, 1, 1, 1, 0],
    "converted": [1, 0, 1, 0, 1],
    "unseen": [0, 1, 1, 1, 0],
}
every_space = pytest.mark.parametrize("space", MASKS)


def mean(loss: HeadLoss) -> float:
    return float(weighted_mean(loss.losses, loss.weights, loss.base))


@every_space
def test_masks(space):
    assert Head("h", "cart", space).mask(LABELS).numpy().tolist() == MASKS[space]


def test_every_space_has_a_test_above():
    assert set(SPACES) == set(MASKS)


def test_an_unknown_space_is_named():
    with pytest.raises(ValueError, match=r"`space` should be one of \[.*'carted', .*: views"):
        Head("h", "cart", "views")


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"`weight` should not be negative. Received: -0.5"):
        Head("h", "cart", weight=-0.5)


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match=r"`estimator` should be one of \('bce', .*: magic"):
        Head("h", "cart", estimator="magic")
    for estimator in ESTIMATORS:
        assert Head("h", "cart", estimator=estimator).estimator == estimator


@every_space
def test_cross_entropy_is_taken_in_the_space_and_divided_by_all_clicks(space):
    loss = Head("h", "cart", space, weight=0.7).cross_entropy(LABELS, LOGITS)
    errors = cross_entropy(LABELS["cart"], sigmoid(LOGITS))
    assert mean(loss) == pytest.approx((errors * MASKS[space]).sum() / 5, rel=1e-6)
    assert loss.weight == 0.7
    np.testing.assert_array_equal(loss.weights, MASKS[space])
    assert loss.labels is not None and loss.predictions is not None
    np.testing.assert_array_equal(loss.labels, LABELS["cart"])
    np.testing.assert_allclose(loss.predictions, sigmoid(LOGITS), rtol=1e-6)


def test_a_split_of_the_clicks_is_one_mean_over_all():
    parts = [Head("h", "cart", s).cross_entropy(LABELS, LOGITS) for s in ("direct", "not_direct")]
    whole = Head("h", "cart").cross_entropy(LABELS, LOGITS)
    assert sum(mean(part) for part in parts) == pytest.approx(mean(whole), rel=1e-6)


def test_doubling_a_batch_leaves_the_cross_entropy():
    head = Head("h", "cart", "not_direct")
    twice = {name: tf.tile(label, [2]) for name, label in LABELS.items()}
    expected = mean(head.cross_entropy(LABELS, LOGITS))
    assert mean(head.cross_entropy(twice, tf.tile(LOGITS, [2]))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "space", "rate"),
    [("direct", "clicks", 3 / 7), ("cart", "not_direct", 2 / 5), ("delayed", "uncarted", 2 / 4)],
)
def test_log_odds_of_the_smoothed_rate(label, space, rate):
    log_odds = float(Head("h", label, space).log_odds(LABELS))
    assert log_odds == pytest.approx(float(logit(rate)), rel=1e-6, abs=1e-7)


def test_log_odds_of_an_empty_space_are_even():
    empty = {name: tf.zeros(3) for name in LABELS}
    assert float(Head("h", "delayed", "carted").log_odds(empty)) == 0


def test_an_entire_space_loss_is_over_all_clicks():
    loss = entire_space_loss(LABELS["delayed"], from_logit(LOGITS))
    expected = cross_entropy(LABELS["delayed"], sigmoid(LOGITS)).mean()
    assert mean(loss) == pytest.approx(expected, rel=1e-6)
    assert loss.labels is not None and loss.predictions is not None
    np.testing.assert_array_equal(loss.labels, LABELS["delayed"])
    np.testing.assert_allclose(loss.predictions, sigmoid(LOGITS), rtol=1e-6)
