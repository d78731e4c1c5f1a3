"""Importance weights against numbers worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.weights import importance_weights, overlap_weights

CHOSEN = tf.constant([1.0, 1.0, 0.0, 1.0])
PROBABILITY = tf.constant([0.5, 0.25, 0.9, 0.01])


def test_weights_and_their_diagnostics():
    weights = importance_weights(CHOSEN, PROBABILITY, clip=0.1)
    np.testing.assert_allclose(weights.values, [2, 4, 0, 10], rtol=1e-6)
    assert float(weights.mean) == pytest.approx(16 / 3)
    assert float(weights.largest) == pytest.approx(10)
    assert float(weights.effective) == pytest.approx(16**2 / (4 + 16 + 100))
    assert float(weights.clipped) == pytest.approx(1 / 3)


def test_overlap_weights_are_the_probability_of_the_other_arm():
    weights = overlap_weights(CHOSEN, PROBABILITY)
    np.testing.assert_allclose(weights.values, [0.5, 0.75, 0, 0.99], rtol=1e-6)
    assert float(weights.largest) == pytest.approx(0.99)
    assert float(weights.clipped) == 0


@pytest.mark.parametrize("of", [lambda a, p: importance_weights(a, p, 0.1), overlap_weights])
def test_weights_have_no_gradient(of):
    logits = tf.Variable([0.0, 1.0, 2.0, -9.0])
    with tf.GradientTape() as tape:
        weights = of(CHOSEN, tf.sigmoid(logits))
        total = tf.add_n([tf.reduce_sum(part) for part in weights])
    assert tape.gradient(total, logits) is None


def test_an_empty_arm_is_all_zeros():
    weights = importance_weights(tf.zeros(3), tf.fill([3], 0.2), 0.1)
    for part in weights:
        np.testing.assert_array_equal(part, np.zeros(part.shape))


def test_equal_weights_count_every_row():
    weights = importance_weights(tf.ones(8), tf.fill([8], 0.25), 0.1)
    assert float(weights.effective) == pytest.approx(8)
    assert float(weights.clipped) == 0


def test_probabilities_zero_and_one():
    weights = importance_weights(tf.ones(2), tf.constant([0.0, 1.0]), 0.05)
    np.testing.assert_allclose(weights.values, [20, 1])


def test_labels_may_be_integers():
    weights = importance_weights(tf.constant([1, 0], tf.int64), tf.constant([0.5, 0.5]), 0.1)
    assert weights.values.numpy().tolist() == [2, 0]
