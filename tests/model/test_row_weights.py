"""Row weights in the loss: a row of weight k counts as k equal rows, in every model."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from cmdcm.core.errors import ConfigError
from cmdcm.features.columns import LABELS
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import examples
from cmdcm.features.sampling import WEIGHT, RowWeights
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.registry import make_model
from cmdcm.model.training import training_columns
from cmdcm.tests.model.batches import TINY, VARIANTS, random_batch, shake, tiny_model, tiny_spec

ROWS = 24
LOSSES = ("single_task", "esmm", "cmdcm", "cmdcm-ipw", "cmdcm-dr")
"""Variants that together have every kind of loss."""


@pytest.fixture(scope="module", params=LOSSES)
def model(request):
    return shake(tiny_model(tiny_spec(), **VARIANTS[request.param]))


def weighted(batch, weights):
    return batch | {WEIGHT: tf.constant(weights, tf.float32)}


def loss_and_gradients(model, batch):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    gradients = tape.gradient(loss, model.trainable_variables)
    return float(loss), [tf.convert_to_tensor(g).numpy() for g in gradients if g is not None]


def assert_same(one, other, **tolerance):
    np.testing.assert_allclose(one[0], other[0], **tolerance)
    assert len(one[1]) == len(other[1]) > 0
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_equal_weights_change_nothing(model):
    batch = random_batch(model.spec, ROWS)
    plain = loss_and_gradients(model, batch)
    for weight in (1, 2, 0.25):  # powers of two: not even by rounding
        assert_same(loss_and_gradients(model, weighted(batch, [weight] * ROWS)), plain, rtol=0)


def test_a_weight_is_a_number_of_equal_rows_and_zero_is_none(model):
    batch = random_batch(model.spec, ROWS)
    copies = np.random.default_rng(3).integers(0, 4, ROWS)
    repeated = {name: tf.repeat(values, copies, axis=0) for name, values in batch.items()}
    one = loss_and_gradients(model, weighted(batch, copies))
    assert_same(one, loss_and_gradients(model, repeated), rtol=1e-4, atol=1e-6)
    plain = loss_and_gradients(model, batch)
    assert abs(one[0] - plain[0]) > 1e-4, "the weights should matter here"


def test_what_is_tracked_is_weighted_too(model):
    batch = random_batch(model.spec, ROWS)
    copies = np.random.default_rng(4).integers(0, 4, ROWS)
    repeated = {name: tf.repeat(values, copies, axis=0) for name, values in batch.items()}
    tracked = []
    for given in (weighted(batch, copies), repeated):
        model.reset_metrics()
        model.compute_loss(given)
        tracked.append({metric.name: float(metric.result()) for metric in model.metrics})
    assert tracked[0].keys() == tracked[1].keys() != set()
    for name, value in tracked[1].items():
        assert tracked[0][name] == pytest.approx(value, rel=1e-4), name


def test_a_model_trained_on_a_sample_of_the_negatives_is_calibrated(tmp_path):
    """All rows have the same inputs, so that the weighted rate is all there is to learn."""
    spec, rows = tiny_spec(), 4000
    bought = np.arange(rows) % 25 == 0
    batch = {name: tf.repeat(v[:1], rows, axis=0) for name, v in random_batch(spec, 1).items()}
    batch |= {name: tf.zeros(rows, tf.int64) for name in LABELS}
    batch |= {name: tf.constant(bought, tf.int64) for name in ("direct", "conversion")}
    batch["click_time_ms"] = tf.range(rows, dtype=tf.int64)  # equal rows would share their fate
    table = pa.table({name: pa.array(value.numpy().tolist()) for name, value in batch.items()})
    write_tfrecords(tmp_path / "part", [table])
    model = tiny_model(spec, name="single_task", l2_embeddings=0.0)
    slowing = tf.keras.optimizers.schedules.PolynomialDecay(0.02, 80, 0.0)
    optimizer = tf.keras.optimizers.Adam(slowing)

    @tf.function(reduce_retracing=True)
    def step(given):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(given)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    model.compute_loss(batch)  # makes what it tracks
    weights = RowWeights(spec, negative_rate=0.2)
    for epoch in range(20):
        for given in examples(
            [tmp_path / "part"],
            spec,
            batch_size=250,
            columns=training_columns(spec),
            shuffle_seed=1,
            epoch=epoch,
            weights=weights,
        ):
            step(given)
    predicted = model.scorer(batch)["p_conversion"].numpy().sum()
    assert predicted / bought.sum() == pytest.approx(1, abs=0.1)  # above 4 without the weights


def test_an_input_with_the_weights_name_is_refused():
    own = Feature(name=WEIGHT, dtype="float32", side="item", encoding="raw")
    spec = FeatureSpec(features=(*tiny_spec().features, own))
    with pytest.raises(ConfigError, match="an input is called 'row_weight'"):
        make_model(spec, TINY)
