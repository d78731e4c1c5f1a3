"""The constants that a model takes from its training data: scales of numbers, output biases."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.base import RankingModel
from cmdcm.model.standardize import LIMIT, Standardize
from cmdcm.tests.model.batches import (
    VARIANTS,
    Batch,
    random_batch,
    rows_of,
    sides,
    tiny_model,
    tiny_spec,
)
from cmdcm.tests.model.reference import logit

SPEC = tiny_spec()
ROWS = 600
LABELS = ("direct", "cart", "open_cart", "delayed", "conversion")


def rare_labels() -> dict[str, np.ndarray]:
    """4 % direct; a quarter of the others carted; delayed more often with a cart than without."""
    n = np.arange(ROWS)
    direct = n % 25 == 0
    cart = np.where(direct, n % 3 == 0, n % 4 == 1)
    delayed = ~direct & np.where(cart, n % 5 == 1, n % 20 == 3)
    return {
        "direct": direct,
        "cart": cart,
        "open_cart": cart & ~direct,
        "delayed": delayed,
        "conversion": direct | delayed,
    }


TRUTH = rare_labels()
BATCH: Batch = random_batch(SPEC, ROWS, seed=5) | {
    name: tf.constant(values, tf.int64) for name, values in TRUTH.items()
}
INPUTS = {name: values for name, values in BATCH.items() if name not in LABELS}


def built(columns: int) -> Standardize:
    layer = Standardize()
    layer(tf.zeros([1, columns]))
    return layer


@functools.cache
def adapted(variant: str) -> RankingModel:
    model = tiny_model(SPEC, **VARIANTS[variant])
    model.adapt(BATCH)
    return model


# The layer


def test_a_fresh_layer_cuts_alone():
    values = tf.constant([[-1e9, 0.5], [2.0, np.inf]])
    np.testing.assert_array_equal(built(2)(values), [[-LIMIT, 0.5], [2, LIMIT]])


def test_standardised_columns_have_mean_zero_and_deviation_one():
    random = np.random.default_rng(0)
    values = (random.uniform(-1, 1, [5000, 3]) * [0.2, 1, 30] + [4, -2, 100]).astype(np.float32)
    layer = built(3)
    layer.adapt(tf.constant(values))
    np.testing.assert_allclose(layer.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.deviation, values.std(0), rtol=1e-4)
    scaled = layer(values).numpy()
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-4)


def test_a_constant_column_is_centred_and_keeps_its_scale():
    layer = built(2)
    layer.adapt(tf.constant([[7.0, 0.0], [7.0, 0.0]]))
    np.testing.assert_array_equal(
        layer(tf.constant([[7.0, 0.0], [8.5, -1.0]])), [[0, 0], [1.5, -1]]
    )


def test_adapted_values_are_cut():
    layer = built(1)
    layer.adapt(tf.constant([[8.0], [12.0]]))  # mean 10, deviation 2
    far = layer(tf.constant([[10 + 2 * 4.5], [10 + 2 * 5.5], [-1e6]]))
    np.testing.assert_allclose(far, [[4.5], [LIMIT], [-LIMIT]])


def test_no_optimizer_trains_the_scale():
    layer = built(2)
    assert layer.trainable_weights == []
    assert len(layer.non_trainable_weights) == 2


# In the encoder


def test_the_numbers_of_both_sides_are_standardised():
    encoder = adapted("cmdcm").trunk.encoder
    for side in encoder(*sides(SPEC, BATCH)):
        numbers = side.numbers.numpy()
        assert np.isfinite(numbers).all()
        uncut = np.abs(numbers).max(0) < LIMIT
        assert uncut.sum() > 10
        np.testing.assert_allclose(numbers[:, uncut].mean(0), 0, atol=1e-3)
        deviations = numbers[:, uncut].std(0)
        np.testing.assert_allclose(deviations[deviations > 0], 1, rtol=1e-3)


def test_constant_features_stay_finite():
    model = tiny_model(SPEC)
    model.adapt({name: tf.repeat(values[:1], 8, axis=0) for name, values in BATCH.items()})
    assert np.isfinite(model.compute_loss(BATCH))


# In the model


@pytest.mark.parametrize(
    "variant", ["vanilla", "esmm", "cmdcm-dr", "cmdcm-no-transition", "cmdcm-modifiers"]
)
def test_output_biases_are_the_log_odds_of_the_smoothed_rates(variant):
    direct, cart, delayed = (TRUTH[name] for name in ("direct", "cart", "delayed"))
    spaces = {
        "conversion": (direct, np.ones(ROWS, bool)),
        "direct": (direct, np.ones(ROWS, bool)),
        "cart": (cart, np.ones(ROWS, bool)),
        "delayed_given_not_direct": (delayed, ~direct),
        "propensity": (cart, ~direct),
        "cart_direct": (cart, direct),
        "transition": (delayed, ~direct),
        "r1": (delayed, ~direct & cart),
        "r0": (delayed, ~direct & ~cart),
        "i1": (delayed, ~direct & cart),
        "i0": (delayed, ~direct & ~cart),
    }
    for name, tower in adapted(variant).towers.items():
        label, space = spaces[name]
        rate = (label[space].sum() + 1) / (space.sum() + 2)
        assert 0.01 < rate < 0.6, name
        np.testing.assert_allclose(tower.logit.bias, [logit(rate)], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("variant", ["vanilla", "single_task", "esmm", "cmdcm", "cmdcm-dr"])
def test_a_fresh_adapted_model_is_near_calibration(variant):
    model = adapted(variant)
    outputs = model.score(*sides(SPEC, BATCH))
    for name, values in outputs.items():
        label = model.label_of(name)
        if label is None:
            continue
        mean = float(tf.reduce_mean(values))
        assert 1 / 2 < mean / TRUTH[label].mean() < 2, (name, mean)


def test_of_the_trained_weights_adapt_changes_output_biases_alone():
    model = tiny_model(SPEC, **VARIANTS["cmdcm-dr"])
    before = [v.numpy() for v in model.trainable_variables]
    biases = {id(tower.logit.bias) for tower in model.towers.values()}
    model.adapt(BATCH)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        if id(variable) in biases:
            assert variable.numpy() != old, variable.name
        else:
            np.testing.assert_array_equal(variable, old, err_msg=variable.name)


def test_without_labels_adapt_sets_the_scale_alone():
    model = tiny_model(SPEC)
    model.adapt(INPUTS)
    for tower in model.towers.values():
        np.testing.assert_array_equal(tower.logit.bias, [0])
    scale = adapted("cmdcm").trunk.encoder.candidate_scale
    np.testing.assert_array_equal(model.trunk.encoder.candidate_scale.mean, scale.mean)
    assert np.abs(scale.mean).max() > 0


def test_scale_and_biases_travel_with_the_checkpoint(tmp_path):
    model = adapted("cmdcm")
    path = model.checkpoint().write(str(tmp_path / "weights"))
    loaded = tiny_model(SPEC, seed=9)
    few = rows_of(INPUTS, 0, 20)
    assert np.abs(loaded(few)["direct"] - model(few)["direct"]).max() > 0
    loaded.checkpoint().read(path).assert_consumed()
    for name, z in model(few).items():
        np.testing.assert_array_equal(loaded(few)[name], z, err_msg=name)
    for side in ("user_scale", "candidate_scale"):
        scale, expected = (getattr(m.trunk.encoder, side) for m in (loaded, model))
        np.testing.assert_array_equal(scale.mean, expected.mean)
        np.testing.assert_array_equal(scale.deviation, expected.deviation)
        assert np.abs(scale.deviation - 1).max() > 0
