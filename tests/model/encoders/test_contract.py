"""What holds for every sequence encoder."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.encoders.choose import ENCODERS
from cmdcm.tests.model.encoders.histories import (
    AGES,
    BUCKETS,
    EMPTY,
    KEYS,
    LENGTH,
    MASK,
    QUERY,
    RANDOM,
    encoder,
)

NEEDS_PLACES = ("lrea",)
"""Encoders to which the order of events matters."""


@pytest.fixture(scope="module", params=ENCODERS)
def layer(request):
    return encoder(request.param)


@pytest.fixture(scope="module")
def output(layer):
    return layer(QUERY, KEYS, MASK, AGES).numpy()


def test_one_vector_a_candidate_as_long_as_it(output):
    assert output.shape == QUERY.shape
    assert np.isfinite(output).all()
    assert np.abs(output[:EMPTY]).min() > 0


def test_an_empty_history_is_zero(output):
    np.testing.assert_array_equal(output[EMPTY], np.zeros(QUERY.shape[1]))


def test_what_stands_at_padding_does_not_matter(layer, output):
    keys, ages = KEYS.copy(), AGES.copy()
    keys[~MASK] = 1e3 * RANDOM.normal(0, 1, [(~MASK).sum(), 6])
    ages[~MASK] = -1e3
    np.testing.assert_array_equal(layer(QUERY, keys, MASK, ages), output)


def test_padding_anywhere_does_not_matter(layer, output):
    """Histories moved to the end of their rows, behind their padding."""
    moved = [
        np.stack([np.roll(row, -mask.sum(), axis=0) for row, mask in zip(of, MASK, strict=True)])
        for of in (KEYS, AGES)
    ]
    mask = MASK[:, ::-1]
    got = layer(QUERY, moved[0], mask, moved[1])
    np.testing.assert_allclose(got, output, rtol=1e-5, atol=1e-6)


def test_appended_padding_does_not_matter(layer, output):
    def longer(values: np.ndarray, fill: float) -> np.ndarray:
        return np.concatenate([values, np.full_like(values[:, :3], fill)], axis=1)

    padded = layer(QUERY, longer(KEYS, 7), longer(MASK, False), longer(AGES, -7))
    np.testing.assert_allclose(padded, output, rtol=1e-5, atol=1e-6)


def test_the_order_of_events_matters_where_it_should(layer, output):
    order = np.arange(LENGTH)[::-1]
    got = layer(QUERY[:1], KEYS[:1, order], MASK[:1, order], AGES[:1, order]).numpy()
    if layer.name in NEEDS_PLACES:
        assert np.abs(got - output[:1]).max() > 1e-3
    else:
        np.testing.assert_allclose(got, output[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("user", range(4))
def test_one_user_without_padding_equals_the_training_path(layer, output, user):
    """And so does one user for all candidates; LREA's serving path is the absorbed one."""
    one = slice(user, user + 1)
    expected = layer(QUERY, *(np.repeat(part[one], 4, axis=0) for part in (KEYS, MASK, AGES)))
    np.testing.assert_allclose(expected[user], output[user], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        layer(QUERY, KEYS[one], MASK[one], AGES[one]), expected, rtol=1e-5, atol=1e-6
    )
    true = MASK[user] if MASK[user].any() else np.arange(LENGTH) == 0
    keys = np.where(MASK[user][:, None], KEYS[user], 0)[true].astype(np.float32)
    kept = MASK[user][true, None].astype(np.float32)
    got = layer.of_one_user(QUERY, tf.constant(keys), tf.constant(BUCKETS[user][true]), kept)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", range(4))
def test_a_batch_of_one(layer, output, n):
    one = slice(n, n + 1)
    alone = layer(QUERY[one], KEYS[one], MASK[one], AGES[one])
    np.testing.assert_allclose(alone, output[one], rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_and_reach_every_weight(layer):
    keys = tf.constant(KEYS)
    with tf.GradientTape() as tape:
        tape.watch(keys)
        total = tf.reduce_sum(layer(QUERY, keys, MASK, AGES))
    gradients = tape.gradient(total, [keys, *layer.trainable_variables])
    of_keys, *of_weights = (tf.convert_to_tensor(gradient) for gradient in gradients)
    np.testing.assert_array_equal(of_keys.numpy()[~MASK], 0)
    assert np.abs(of_keys.numpy()[0]).max() > 0
    for gradient in [of_keys, *of_weights]:
        assert np.isfinite(gradient).all()
    assert all(np.abs(gradient).max() > 0 for gradient in of_weights)


def test_config_round_trip(layer, output):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again(QUERY, KEYS, MASK, AGES)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(QUERY, KEYS, MASK, AGES), output)
