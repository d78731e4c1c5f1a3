"""Mixtures of experts: gates, experts, their levels, and models over them."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import load_config
from cmdcm.core.errors import ConfigError
from cmdcm.model.base import RankingModel
from cmdcm.model.experts import ExpertLevel, Experts, mix
from cmdcm.tests.model.batches import random_batch, shake, sides, tiny_model, tiny_spec

TASKS = ("a", "b")
X = np.random.default_rng(0).normal(0, 1, [6, 3]).astype(np.float32)
SPEC = tiny_spec()
BATCH = random_batch(SPEC, 8)


def ple(levels=((4,), (2,)), shared=2, own=1) -> Experts:
    """Shaken levels, so that no bias is zero."""
    tf.keras.utils.set_random_seed(0)
    layer = Experts(TASKS, levels, shared, own)
    layer(X)
    random = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign_add(random.normal(0, 0.5, weight.shape).astype(np.float32))
    return layer


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def expert(layer, x: np.ndarray) -> np.ndarray:
    """An MLP of relu layers, from its weights."""
    weights = [w.numpy() for w in layer.trainable_variables]
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        x = np.maximum(x @ kernel + bias, 0)
    return x


def experts_of(model: RankingModel) -> Experts:
    assert model.trunk.experts is not None
    return model.trunk.experts


def by_hand(layer: Experts, x: np.ndarray) -> dict[str, np.ndarray]:
    """Levels of experts, one task, one expert and one row at a time."""
    of_task, of_all = dict.fromkeys(TASKS, x), x
    for level in layer.levels:
        shared = [expert(e, of_all) for e in level.shared]
        own = {t: [expert(e, of_task[t]) for e in level.own[t]] for t in TASKS}

        def mixed(gate, read, experts):
            shares = softmax(read @ gate.kernel.numpy())
            return sum(shares[:, [i]] * e for i, e in enumerate(experts))

        next_task = {t: mixed(level.gates[t], of_task[t], own[t] + shared) for t in TASKS}
        if level.gate_of_all is not None:
            of_all = mixed(level.gate_of_all, of_all, [e for t in TASKS for e in own[t]] + shared)
        of_task = next_task
    return of_task


@pytest.mark.parametrize(
    ("levels", "shared", "own"),
    [([(5, 4)], 3, 0), ([(4,), (2,)], 2, 1), ([(3,), (3,), (2,)], 1, 2)],
    ids=["mmoe", "ple", "ple of three levels"],
)
def test_against_numpy(levels, shared, own):
    layer = ple(levels, shared, own)
    for task, expected in by_hand(layer, X).items():
        np.testing.assert_allclose(layer(X)[task], expected, rtol=1e-4, atol=1e-6)


def test_no_two_experts_start_equal():
    tf.keras.utils.set_random_seed(0)
    layer = Experts(TASKS, [(4,), (4,)], shared=3, own=2)
    layer(X)
    for level in layer.levels:
        experts = [*level.shared, *level.own["a"], *level.own["b"]]
        kernels = [e.trainable_variables[0].numpy() for e in experts]
        for n, kernel in enumerate(kernels):
            for other in kernels[n + 1 :]:
                assert np.abs(kernel - other).max() > 0.01


def test_the_shares_of_a_gate_add_up_to_one():
    for level in ple().levels:
        for gate in level.gates.values():
            shares = gate(np.random.default_rng(2).normal(0, 9, [50, gate.kernel.shape[0]]))
            np.testing.assert_allclose(tf.reduce_sum(shares, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_one_hot_gate_picks_one_expert(chosen):
    layer = ple([(4,)], shared=2, own=1)
    (level,) = layer.levels
    kernel = np.full([3, 3], 0, np.float32)
    kernel[0, :] = -1e4
    kernel[0, chosen] = 1e4
    level.gates["a"].kernel.assign(kernel)
    x = np.abs(X)  # the first input decides, and is positive
    expected = expert([level.own["a"][0], *level.shared][chosen], x)
    np.testing.assert_allclose(layer(x)["a"], expected, rtol=1e-5, atol=1e-6)


def test_mixing_equal_experts_is_one_of_them():
    shares = tf.constant([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(mix(shares, [tf.constant([[3.0, -1.0]])] * 3), [[3.0, -1.0]])


def test_own_experts_of_the_last_level_learn_from_their_task_alone():
    layer = ple()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X)["a"])
    last = layer.levels[-1]
    weights = {t: last.own[t][0].trainable_variables[0] for t in TASKS}
    gradients = tape.gradient(loss, weights)
    assert gradients["b"] is None
    assert np.abs(gradients["a"]).max() > 0


def test_a_level_without_experts_is_refused():
    with pytest.raises(ValueError, match="there would be no expert"):
        ExpertLevel(TASKS, [2], shared=0, own=0, last=True)


def test_mmoe_with_one_expert_is_the_shared_bottom():
    one = shake(tiny_model(SPEC, name="mmoe", experts=1))
    shared = tiny_model(SPEC, name="shared_bottom")
    pairs = [
        (shared.trunk.encoder, one.trunk.encoder),
        (shared.trunk.cross, one.trunk.cross),
        (shared.trunk.mlp, experts_of(one).levels[0].shared[0]),
        *((shared.trunk.attention[n], one.trunk.attention[n]) for n in one.trunk.attention),
        *((shared.towers[n], one.towers[n]) for n in one.towers),
    ]
    for to, source in pairs:
        for old, new in zip(to.trainable_variables, source.trainable_variables, strict=True):
            old.assign(new)
    expected = shared(BATCH)
    for name, logits in one(BATCH).items():
        np.testing.assert_allclose(logits, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bottom", ["mmoe", "ple"])
def test_every_model_takes_a_bottom_and_scores_one_user_alike(bottom):
    model = shake(tiny_model(SPEC, bottom=bottom))
    assert set(experts_of(model).tasks) == {head.name for head in model.heads}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0
    user, candidates = sides(SPEC, BATCH)
    user = {name: values[:1] for name, values in user.items()}
    expected = model.score(user, candidates)
    for name, scores in model.score_one_user(user, candidates).items():
        np.testing.assert_allclose(scores, expected[name], atol=1e-6)


def test_heads_that_are_linear_have_no_experts():
    model = tiny_model(SPEC, bottom="mmoe", effect_modifiers=("price",))
    assert {"direct", "transition"} <= set(experts_of(model).tasks)
    assert not {"r1", "r0"} & set(experts_of(model).tasks)


def test_a_model_that_is_a_bottom_takes_no_other():
    with pytest.raises(ConfigError, match=r"name = 'mmoe' has a bottom of its own .* 'ple'"):
        load_config(overrides=["model.name=mmoe", "model.bottom=ple"])
    assert load_config(overrides=["model.name=ple", "model.bottom=ple"]).model.name == "ple"
