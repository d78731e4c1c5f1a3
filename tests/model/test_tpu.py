"""What a TPU asks for, as far as a processor can tell: static shapes, no strings, XLA, tables."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import TablesConfig, TrainingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples
from cmdcm.model import strategies
from cmdcm.model.base import RankingModel
from cmdcm.model.optimizer import make_optimizer, make_table_optimizer
from cmdcm.model.registry import make_model
from cmdcm.model.steps import Steps, train_step
from cmdcm.model.strategies import Place, find_place
from cmdcm.model.tpu import HostInput, build_for_device, refresh
from cmdcm.model.trained import MODEL, load_history
from cmdcm.model.training import build_model, train
from cmdcm.model.transfer import TABLE, variables
from cmdcm.tests.model.batches import (
    TINY,
    know,
    random_batch,
    shake,
    tiny_model,
    tiny_spec,
    with_tables,
)
from cmdcm.tests.model.test_training import assert_same_weights, kill, weights, with_settings

STRINGS = ("user", "item")
SPEC = with_tables(tiny_spec(string_ids=STRINGS), {"user": 2}, {"item": 30})
SOME, NONE = 30, None
"""Rows up to which tables are no TPU embedding: some tables are one; none is."""


def device_twin(model: RankingModel, config: TrainingConfig, small: int | None, **settings):
    """A model with a TPU's tables and the weights of an ordinary one, and its optimizer."""
    of_tables = make_table_optimizer(config)
    known = {t: model.trunk.encoder.ids.known(t).numpy() for t in model.trunk.encoder.ids.listed}
    twin = make_model(model.spec, TINY.model_copy(update=settings))
    build_for_device(twin, of_tables, known, random_batch(model.spec, 2), small)
    source = variables(model)
    for path, variable in variables(twin).items():
        if path in source:
            variable.assign(source[path])
    encoder, tables = model.trunk.encoder, twin.trunk.encoder.device_tables
    keras, tpu = tables.embedding.keras_embedding_layers, tables.embedding.tpu_embedding
    for table, config_ in tables.tables.items():
        first, key = encoder.ids.offsets[table], f"{tables.feature_of[table]}:0"
        held = keras[key].embeddings if key in keras else tpu.embedding_tables[config_]
        held.assign(encoder.table[first : first + config_.vocabulary_size])
    return twin, make_optimizer(twin, config, of_tables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("small", "settings"),
    [
        (NONE, {"estimator": "dr", "cross_fit_folds": 2}),
        (SOME, {}),
    ],
)
def test_a_step_that_xla_compiled_equals_the_ordinary_one(small, settings):
    config = TrainingConfig()
    batch = random_batch(SPEC, 24)
    model = know(shake(tiny_model(SPEC, **settings)), batch)
    twin, of_twin = device_twin(model, config, small, **settings)
    assert (twin.trunk.encoder.device_tables.embedding.tpu_embedding is None) == (small is NONE)
    compiled = tf.function(lambda b: train_step(twin, of_twin, b), jit_compile=True)
    prepared = HostInput(twin)(batch)
    of_model = make_optimizer(model, config)
    for _ in range(2):
        expected, got = train_step(model, of_model, batch), compiled(prepared)
        for name, value in expected.items():
            assert float(got[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    served = tiny_model(SPEC, seed=9, **settings)
    refresh(served, twin, on_device=False)
    for path, variable in variables(model).items():
        # XLA adds in another order.
        np.testing.assert_allclose(
            variables(served)[path].numpy(), variable.numpy(), rtol=1e-4, atol=2e-5, err_msg=path
        )
    assert TABLE in variables(model)


@pytest.mark.slow
def test_the_step_has_no_string_and_no_shape_of_its_own(small_world):
    """The input's shapes are static, and no operation of the step makes others or strings."""
    data = ExampleSet.open(small_world.examples, small_world.config.split)
    config = with_settings(small_world.config, training={"batch_size": 64})
    config = config.model_copy(update={"tables": TablesConfig(min_count={"item": 3})})
    of_tables = make_table_optimizer(config.training)
    model = build_model(data, config, device_optimizer=of_tables)
    optimizer = make_optimizer(model, config.training, of_tables)
    steps = Steps(model, optimizer, Place(tf.distribute.get_strategy(), device_tables=True))
    signature = {}

    def make(shares):
        dataset = examples(
            data.files("validation"), data.spec, batch_size=64, shares=shares, pad_remainder=True,
            columns=[*(f.name for f in data.spec.inputs), *(f.name for f in data.spec.of("label"))],
        )  # fmt: skip
        signature["raw"] = dataset.element_spec
        return dataset

    batches: Any = steps.batches(make)
    assert any(spec.dtype == tf.string for spec in signature["raw"].values())
    specs = batches.element_spec
    assert {name: spec.shape[0] for name, spec in specs.items()} == dict.fromkeys(specs, 64)
    for name, spec in specs.items():
        assert spec.shape.is_fully_defined() and spec.dtype != tf.string, name
    graph = steps._compiled.get_concrete_function(specs, tf.TensorSpec([], tf.bool)).graph
    operations = graph.get_operations()
    assert not {"Where", "Unique", "StringToHashBucketFast"} & {op.type for op in operations}
    assert all(tensor.dtype != tf.string for op in operations for tensor in op.outputs)
    last = list(batches)[-1]
    assert float(tf.reduce_sum(last["row_weight"])) == data.total("validation") % 64
    assert np.isfinite(float(steps.take(last)["loss"]))


def on_this_processor(monkeypatch):
    """Makes strategy `tpu` run here, with a TPU's input, tables and step."""
    place = Place(tf.distribute.get_strategy(), device_tables=True)
    monkeypatch.setitem(strategies._PLACES, "tpu", lambda config: place)


@pytest.mark.slow
def test_a_run_validates_publishes_and_resumes_an_ordinary_model(
    small_world, tmp_path, monkeypatch
):
    on_this_processor(monkeypatch)
    data = ExampleSet.open(small_world.examples, small_world.config.split)
    config = with_settings(small_world.config, training={"strategy": "tpu", "epochs": 1})
    model = train(data, tmp_path / "undisturbed", config, progress=False)
    assert not model.trunk.encoder.dense_gradients
    kill(monkeypatch, data, tmp_path / "run", config, 9)
    train(data, tmp_path / "run", config, progress=False)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    plain = with_settings(small_world.config, training={"epochs": 1})
    train(data, tmp_path / "plain", plain, progress=False)
    losses = [
        load_history(tmp_path / run / MODEL)[0]["val_log_loss_conversion"]
        for run in ("undisturbed", "plain")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_without_a_tpu_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"finds no TPU at training\.tpu = 'local'"):
        find_place(TrainingConfig(strategy="tpu"))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"table_optimizer": "clippy_adagrad"}, "has no table_optimizer = 'clippy_adagrad'"),
        ({"table_optimizer": "ftrl"}, "has no table_optimizer = 'ftrl'; take adagrad"),
        ({"warm_start": "run/model"}, "warm_start does not fill a TPU's tables yet"),
    ],
)
def test_what_a_tpu_cannot_do_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        TrainingConfig(strategy="tpu", **settings)
