"""Sequence attention: padding, empty histories, one user for many candidates."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.sequences import TargetAttention, masked_mean, masked_softmax
from cmdcm.tests.model.reference import attention

RANDOM = np.random.default_rng(5)
QUERY = RANDOM.normal(0, 1, [4, 6]).astype(np.float32)
KEYS = RANDOM.normal(0, 1, [4, 5, 6]).astype(np.float32)
AGES = RANDOM.normal(0, 1, [4, 5, 2]).astype(np.float32)
MASK = np.arange(5) < np.array([[5], [3], [1], [0]])
"""A full history, two shorter ones, an empty one."""


@pytest.fixture(scope="module")
def layer():
    tf.keras.utils.set_random_seed(0)
    layer = TargetAttention(units=3)
    layer(QUERY, KEYS, MASK, AGES)
    layer.age.bias.assign([0.3, -0.2, 0.1])
    return layer


@pytest.fixture(scope="module")
def output(layer):
    return layer(QUERY, KEYS, MASK, AGES).numpy()


def test_against_numpy(layer, output):
    weights = {
        "query": layer.query.kernel.numpy(),
        "key": layer.key.kernel.numpy(),
        "product": layer.product.kernel.numpy(),
        "age": layer.age.kernel.numpy(),
        "age_bias": layer.age.bias.numpy(),
        "score": layer.score.kernel.numpy(),
    }
    expected = attention(QUERY, KEYS, MASK, AGES, weights)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_the_candidate_and_the_ages_matter(layer, output):
    assert np.abs(layer(QUERY[::-1], KEYS, MASK, AGES).numpy() - output)[:2].min() > 1e-4
    assert np.abs(layer(QUERY, KEYS, MASK, AGES[::-1]).numpy() - output)[:2].min() > 1e-4


def test_what_stands_at_padding_does_not_matter(layer, output):
    keys, ages = KEYS.copy(), AGES.copy()
    keys[~MASK] = 1e6 * RANDOM.normal(0, 1, [(~MASK).sum(), 6])
    ages[~MASK] = -1e6
    np.testing.assert_array_equal(layer(QUERY, keys, MASK, ages), output)


def test_appended_padding_does_not_matter(layer, output):
    def longer(values: np.ndarray, fill: float) -> np.ndarray:
        return np.concatenate([values, np.full_like(values[:, :3], fill)], axis=1)

    padded = layer(QUERY, longer(KEYS, 7), longer(MASK, False), longer(AGES, -7))
    np.testing.assert_allclose(padded, output, rtol=1e-6, atol=1e-7)


def test_the_order_of_events_does_not_matter_beyond_their_ages(layer, output):
    order = [2, 0, 1, 4, 3]
    shuffled = layer(QUERY, KEYS[:, order], MASK[:, order], AGES[:, order])
    np.testing.assert_allclose(shuffled, output, rtol=1e-5, atol=1e-6)


def test_an_empty_history_is_zero_with_zero_gradient(layer, output):
    np.testing.assert_array_equal(output[3], np.zeros(6))
    query, keys = tf.constant(QUERY[3:]), tf.constant(KEYS[3:])
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        total = tf.reduce_sum(layer(query, keys, MASK[3:], AGES[3:]))
    gradients = tape.gradient(total, [query, keys, *layer.trainable_variables])
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_an_empty_history_in_a_batch_leaves_the_gradients_finite(layer):
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(QUERY, KEYS, MASK, AGES))
    for gradient in tape.gradient(total, layer.trainable_variables):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("user", range(4))
def test_one_user_for_all_candidates(layer, user):
    one = slice(user, user + 1)
    once = layer(QUERY, KEYS[one], MASK[one], AGES[one])
    repeated = [np.repeat(part[one], 4, axis=0) for part in (KEYS, MASK, AGES)]
    assert once.shape == [4, 6]
    np.testing.assert_allclose(once, layer(QUERY, *repeated), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n", range(4))
def test_a_batch_of_one(layer, output, n):
    one = slice(n, n + 1)
    alone = layer(QUERY[one], KEYS[one], MASK[one], AGES[one])
    np.testing.assert_allclose(alone, output[one], rtol=1e-6, atol=1e-7)


def test_config_round_trip(layer, output):
    again = TargetAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again(QUERY, KEYS, MASK, AGES)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(QUERY, KEYS, MASK, AGES), output)


def test_units_should_be_positive():
    with pytest.raises(ValueError, match=r"`units` should be positive. Received: 0"):
        TargetAttention(0)


def test_softmax_against_numpy():
    scores = RANDOM.normal(0, 3, [4, 5]).astype(np.float32)
    exp = np.exp(scores.astype(np.float64)) * MASK
    expected = exp / np.maximum(exp.sum(1, keepdims=True), 1e-300)
    np.testing.assert_allclose(masked_softmax(scores, MASK), expected, rtol=1e-5)


def test_softmax_of_one_mask_for_all_rows():
    scores = tf.constant([[0.0, 0.0, 9.0], [np.log(3.0), 0.0, -9.0]])
    weights = masked_softmax(scores, tf.constant([[True, True, False]]))
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0], [0.75, 0.25, 0]], rtol=1e-6)


def test_softmax_of_extreme_scores():
    scores = tf.constant([[1e30, -1e30, 5.0], [-1e30, -2e30, 1e30]])
    mask = tf.constant([[True, True, True], [True, True, False]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        weights = masked_softmax(scores, mask)
    np.testing.assert_array_equal(weights, [[1, 0, 0], [1, 0, 0]])
    assert np.isfinite(tape.gradient(weights, scores)).all()


def test_mean_over_true_positions():
    means = masked_mean(tf.constant(KEYS), tf.constant(MASK))
    expected = [KEYS[0].mean(0), KEYS[1, :3].mean(0), KEYS[2, 0], np.zeros(6)]
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-7)


def test_gradient_of_the_mean_of_an_empty_history():
    keys = tf.constant(KEYS)
    with tf.GradientTape() as tape:
        tape.watch(keys)
        total = tf.reduce_sum(masked_mean(keys, tf.constant(MASK)))
    expected = MASK / np.array([[5], [3], [1], [1]])
    np.testing.assert_allclose(tape.gradient(total, keys)[:, :, 0], expected, rtol=1e-6)
