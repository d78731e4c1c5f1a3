"""The optimizers of tables and dense weights, and the precision of the dense layers."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from cmdcm.core.config import TrainingConfig
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.adagrad import Adagrad
from cmdcm.model.optimizer import ABSOLUTE_THRESHOLD, make_optimizer
from cmdcm.model.precision import matmul_precision
from cmdcm.model.scoring import predict
from cmdcm.model.steps import losses_and_gradients, train_step
from cmdcm.model.trained import MODEL, load_history, load_model
from cmdcm.model.training import train
from cmdcm.tests.model.batches import random_batch, shake, tiny_model, tiny_spec
from cmdcm.tests.model.test_training import assert_same_weights, kill, weights, with_settings

SPEC = tiny_spec(string_ids=("item_id",))
TABLE_OPTIMIZERS = ("adagrad", "ftrl", "clippy_adagrad")


def looked_up(model, batch) -> np.ndarray:
    """Which rows of the fused table a batch's gradient names."""
    (table,) = model.table_variables
    _, gradients = losses_and_gradients(model, batch)
    (gradient,) = (
        g for g, v in zip(gradients, model.trainable_variables, strict=True) if v is table
    )
    assert isinstance(gradient, tf.IndexedSlices)
    rows = np.zeros(table.shape[0], bool)
    rows[gradient.indices.numpy()] = True
    return rows


@pytest.mark.parametrize("name", TABLE_OPTIMIZERS)
def test_a_step_leaves_rows_that_were_not_looked_up_as_they_are(name):
    model, batch = shake(tiny_model(SPEC)), random_batch(SPEC, 12)
    # Large enough that a step is seen in any row.
    optimizer = make_optimizer(model, TrainingConfig(table_optimizer=name))
    step = tf.function(lambda b: train_step(model, optimizer, b))
    rows = looked_up(model, batch)
    assert 0 < rows.sum() < len(rows)
    (table,) = model.table_variables
    for _ in range(2):
        before = table.numpy()
        step(batch)
        np.testing.assert_array_equal(table.numpy()[~rows], before[~rows])
        moved = (table.numpy() != before).any(axis=1)
        assert moved[rows].mean() > 0.9


def test_a_sparse_gradient_reaches_the_optimizer(monkeypatch):
    model, batch = tiny_model(SPEC), random_batch(SPEC, 12)
    optimizer, seen = make_optimizer(model, TrainingConfig()), list[object]()
    of_tables = optimizer.optimizers[0]
    apply = of_tables.apply_gradients

    def recorded(pairs, **kwargs):
        pairs = list(pairs)
        seen.extend(gradient for gradient, _ in pairs)
        return apply(pairs, **kwargs)

    monkeypatch.setattr(of_tables, "apply_gradients", recorded)
    train_step(model, optimizer, batch)
    assert [type(gradient) for gradient in seen] == [tf.IndexedSlices]


@pytest.mark.parametrize("name", TABLE_OPTIMIZERS)
def test_rows_take_the_step_of_the_equation(name):
    """Against NumPy, from the gradient summed by row: Adagrad, FTRL-proximal, ClippyAdagrad."""
    model, batch = shake(tiny_model(SPEC)), random_batch(SPEC, 12)
    (table,) = model.table_variables
    _, gradients = losses_and_gradients(model, batch)
    gradient = tf.convert_to_tensor(gradients[0]).numpy().astype(np.float64)
    assert gradient.shape == table.shape
    w, rate, start = table.numpy().astype(np.float64), 0.05, 0.1
    summed = start + gradient**2
    if name == "adagrad":
        # Keras' accumulator starts at 0.1, epsilon 1e-7 is added to its root.
        expected = w - rate * gradient / (np.sqrt(summed) + 1e-7)
    elif name == "ftrl":  # McMahan et al., KDD 2013, algorithm 1, without regularisation
        z = gradient - (np.sqrt(summed) - np.sqrt(start)) / rate * w
        expected = -z * rate / np.sqrt(summed)
        expected[~looked_up(model, batch)] = w[~looked_up(model, batch)]
    else:  # Tang et al., algorithm 1: the accumulator of the steps before
        delta = rate * gradient / np.sqrt(start + 1e-7)
        bound = 0.1 * np.abs(w) + ABSOLUTE_THRESHOLD
        named = gradient != 0
        expected = w - delta * min(1.0, (bound[named] / np.abs(delta[named])).min())
    optimizer = make_optimizer(model, TrainingConfig(table_optimizer=name))
    train_step(model, optimizer, batch)
    np.testing.assert_allclose(table.numpy(), expected, rtol=0, atol=2e-5)


def test_adagrad_takes_the_steps_of_keras_on_rows_that_a_batch_names_often():
    random, rate = np.random.default_rng(0), 0.05
    ours, theirs = Adagrad(rate), tf.keras.optimizers.legacy.Adagrad(rate)
    tables = [tf.Variable(np.ones((50, 3), np.float32)) for _ in range(2)]
    for _ in range(3):
        values = random.normal(size=(400, 3)).astype(np.float32)
        gradient = tf.IndexedSlices(tf.constant(values), tf.constant(random.integers(0, 40, 400)))
        for optimizer, table in zip((ours, theirs), tables, strict=True):
            optimizer.apply_gradients([(gradient, table)])
    np.testing.assert_allclose(tables[0].numpy(), tables[1].numpy(), rtol=2e-6)
    assert (tables[0].numpy()[40:] == 1).all()
    assert (tables[0].numpy()[:40] != 1).all()


@pytest.mark.parametrize(
    ("device", "host"),
    [
        ("/job:localhost/replica:0/task:0/device:CPU:0", True),
        ("/job:worker/replica:0/task:1/device:CPU:0", True),
        ("/job:ps/replica:0/task:0/device:CPU:0", False),
        ("/job:localhost/replica:0/task:0/device:GPU:0", False),
    ],
)
def test_rows_that_other_workers_or_a_gpu_change_are_changed_by_keras(monkeypatch, device, host):
    """Keras' kernel adds to a row in one go; ours reads it, and writes it back later."""
    called = list[str]()
    monkeypatch.setattr(
        tf.keras.optimizers.legacy.Adagrad,
        "_resource_apply_sparse_duplicate_indices",
        lambda *arguments, **_: called.append("Keras"),
    )
    monkeypatch.setattr(
        Adagrad, "_resource_apply_sparse", lambda *arguments, **_: called.append("ours")
    )
    row = tf.constant([[1.0]])
    variable = SimpleNamespace(device=device)
    Adagrad(0.05)._resource_apply_sparse_duplicate_indices(row, variable, tf.constant([0]))
    assert called == ["ours" if host else "Keras"]


def test_clippy_adagrad_bounds_the_change_of_every_dense_weight():
    model, batch = shake(tiny_model(SPEC)), random_batch(SPEC, 12)
    config = TrainingConfig(dense_optimizer="clippy_adagrad", learning_rate=100.0)
    optimizer = make_optimizer(model, config)
    dense = [v for v in model.trainable_variables if v is not model.table_variables[0]]
    before = [v.numpy() for v in dense]
    train_step(model, optimizer, batch)
    assert any((v.numpy() != b).any() for v, b in zip(dense, before, strict=True))
    for v, b in zip(dense, before, strict=True):
        bound = 0.1 * np.abs(b) + ABSOLUTE_THRESHOLD
        assert (np.abs(v.numpy() - b) <= bound * (1 + 1e-4)).all(), v.name


def test_clippy_adagrad_is_refused_where_tables_are_shared_out():
    with pytest.raises(ValidationError, match="parameter_server shares it out"):
        TrainingConfig(strategy="parameter_server", table_optimizer="clippy_adagrad")


def test_bfloat16_multiplies_with_rounded_factors_and_leaves_logits_float32():
    layer, last = tf.keras.layers.Dense(4, "relu"), tf.keras.layers.Dense(1)
    model = tf.keras.Sequential([layer, last])
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    exact = model(x).numpy()
    with matmul_precision(model, "bfloat16"):
        hidden, output = layer(x), model(x)
    assert hidden.dtype == output.dtype == tf.float32

    def rounded(values):
        return tf.cast(tf.cast(values, tf.bfloat16), tf.float32).numpy()

    expected = np.maximum(rounded(rounded(x) @ rounded(layer.kernel)) + layer.bias.numpy(), 0)
    np.testing.assert_allclose(hidden, expected, rtol=2**-7, atol=1e-6)
    np.testing.assert_allclose(output, expected @ last.kernel.numpy(), rtol=2e-2, atol=1e-3)
    np.testing.assert_array_equal(model(x), exact)
    assert (output.numpy() != exact).any()


def test_a_step_in_bfloat16_has_float32_gradients_near_those_of_float32():
    model, batch = shake(tiny_model(SPEC)), random_batch(SPEC, 40)
    losses, gradients = losses_and_gradients(model, batch)
    model.training_precision = "bfloat16"
    rounded, others = losses_and_gradients(model, batch)
    assert float(rounded["loss"]) == pytest.approx(float(losses["loss"]), rel=2e-2)
    assert float(rounded["loss"]) != float(losses["loss"])
    for one, other in zip(gradients, others, strict=True):
        one, other = tf.convert_to_tensor(one), tf.convert_to_tensor(other)
        assert other.dtype == tf.float32
        assert float(tf.norm(one - other)) <= 0.2 * float(tf.norm(one)) + 1e-4


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def plain(small_world, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain")
    train(data, output, with_seed(small_world, {"epochs": 1}), progress=False)
    return output


def with_seed(small_world, settings):
    """A bound on the worst of 2,000 clicks depends on the weights that a run starts with."""
    config = small_world.config.model_copy(update={"seed": 2})
    return with_settings(config, training=settings)


@pytest.mark.slow
def test_a_run_in_bfloat16_predicts_nearly_what_one_in_float32_does(
    plain, small_world, data, tmp_path
):
    settings = {"epochs": 1, "precision": "bfloat16"}
    train(data, tmp_path, with_seed(small_world, settings), progress=False)
    models = load_model(plain / MODEL), load_model(tmp_path / MODEL)
    for one, other in zip(*(model.weights for model in models), strict=True):
        assert other.dtype == one.dtype
    one, other = (
        predict(m, data.files("test"), data.spec, data.calendar)["p_conversion"].to_numpy()
        for m in models
    )
    assert (one != other).any()
    np.testing.assert_allclose(other, one, rtol=0, atol=0.02)
    losses = [load_history(run / MODEL)[0]["val_log_loss_conversion"] for run in (plain, tmp_path)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
def test_a_run_with_clippy_adagrad_resumes_exactly(small_world, data, tmp_path, monkeypatch):
    both = {"table_optimizer": "clippy_adagrad", "dense_optimizer": "clippy_adagrad", "epochs": 1}
    config = with_settings(small_world.config, training=both, tracking={"profile_step": 4})
    train(data, tmp_path / "undisturbed", config, progress=False)
    kill(monkeypatch, data, tmp_path / "run", config, 9)
    train(data, tmp_path / "run", config, progress=False)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
