"""Losses an example, and the one reduction."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.losses import binary_cross_entropy, event_cross_entropy, weighted_mean
from cmdcm.model.probability import from_logit
from cmdcm.tests.model.reference import cross_entropy, log_sigmoid, sigmoid

LOGITS = np.linspace(-15, 15, 31, dtype=np.float32)


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_cross_entropies_against_numpy(label):
    labels = tf.fill([31], label)
    expected = cross_entropy(label, sigmoid(LOGITS))
    np.testing.assert_allclose(binary_cross_entropy(labels, LOGITS), expected, rtol=1e-6)
    event = from_logit(tf.constant(LOGITS))
    np.testing.assert_allclose(event_cross_entropy(labels, event), expected, rtol=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_cross_entropies_at_extreme_logits(label):
    logits = tf.constant([-1e4, 1e4])
    labels = tf.fill([2], label)
    expected = -log_sigmoid((2 * label - 1) * np.array([-1e4, 1e4]))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = [
            binary_cross_entropy(labels, logits),
            event_cross_entropy(labels, from_logit(logits)),
        ]
    for loss in losses:
        np.testing.assert_allclose(loss, expected)
        np.testing.assert_array_equal(tape.gradient(loss, logits), [0 - label, 1 - label])


def test_gradient_of_the_cross_entropy_is_prediction_minus_label():
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = event_cross_entropy(tf.ones(31), from_logit(logits))
    np.testing.assert_allclose(tape.gradient(loss, logits), sigmoid(LOGITS) - 1, atol=1e-7)


def test_weighted_mean_by_hand():
    mean = weighted_mean(tf.constant([1.0, 2.0, 10.0]), tf.constant([3.0, 1.0, 0.0]))
    assert float(mean) == 5 / 4


def test_weighted_sum_over_a_base_by_hand():
    losses, weights = tf.constant([1.0, 2.0, np.nan]), tf.constant([3.0, 1.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(losses)
        mean = weighted_mean(losses, weights, tf.constant([5.0, 2.0, 1.0]))
    assert float(mean) == 5 / 8
    assert tape.gradient(mean, losses).numpy().tolist() == [3 / 8, 1 / 8, 0]
    assert float(weighted_mean(losses, weights, tf.zeros(3))) == 0


def test_doubling_a_batch_leaves_the_mean():
    losses, weights = tf.constant([1.0, 2.0, 10.0]), tf.constant([3.0, 1.0, 0.5])
    twice = weighted_mean(tf.tile(losses, [2]), tf.tile(weights, [2]))
    assert float(twice) == pytest.approx(float(weighted_mean(losses, weights)), rel=1e-7)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_rows_of_weight_zero_have_no_part(bad):
    losses = tf.constant([2.0, bad])
    with tf.GradientTape() as tape:
        tape.watch(losses)
        mean = weighted_mean(losses, tf.constant([3.0, 0.0]))
    assert float(mean) == 2
    assert tape.gradient(mean, losses).numpy().tolist() == [1, 0]


def test_a_row_with_weight_that_is_not_finite_shows():
    assert np.isnan(weighted_mean(tf.constant([2.0, np.nan]), tf.constant([3.0, 1.0])))


def test_all_weights_zero():
    losses = tf.constant([2.0, np.inf])
    with tf.GradientTape() as tape:
        tape.watch(losses)
        mean = weighted_mean(losses, tf.zeros(2))
    assert float(mean) == 0
    assert tape.gradient(mean, losses).numpy().tolist() == [0, 0]
