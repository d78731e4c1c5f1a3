"""The personalised gate: neutral when fresh, driven by the prior once trained."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.base import RankingModel
from cmdcm.model.gating import PersonalisedGate
from cmdcm.model.network import Shared, Tower
from cmdcm.model.steps import train_step
from cmdcm.tests.model.batches import random_batch, shake, tiny_model, tiny_spec
from cmdcm.tests.model.reference import sigmoid

RANDOM = np.random.default_rng(7)
PRIOR = RANDOM.normal(0, 1, [8, 3]).astype(np.float32)
SHARED = RANDOM.normal(0, 1, [8, 4]).astype(np.float32)


def trained_gate() -> PersonalisedGate:
    """A gate whose last layer has left zero."""
    tf.keras.utils.set_random_seed(0)
    gate = PersonalisedGate(outputs=5, units=6)
    gate(PRIOR, SHARED)
    gate.scale.kernel.assign(RANDOM.normal(0, 1, [6, 5]))
    gate.scale.bias.assign(RANDOM.normal(0, 1, [5]))
    return gate


def test_a_fresh_gate_is_exactly_one():
    gate = PersonalisedGate(outputs=5, units=6)
    np.testing.assert_array_equal(gate(1e3 * PRIOR, 1e3 * SHARED), np.ones([8, 5]))


def test_against_numpy():
    gate = trained_gate()
    x = np.concatenate([PRIOR, SHARED], axis=1)
    hidden = np.maximum(x @ gate.hidden.kernel.numpy() + gate.hidden.bias.numpy(), 0)
    expected = 2 * sigmoid(hidden @ gate.scale.kernel.numpy() + gate.scale.bias.numpy())
    output = gate(PRIOR, SHARED).numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-5)
    assert 0 < output.min() < 0.5 < 1.5 < output.max() < 2


def test_no_gradient_reaches_the_shared_features_but_the_prior():
    gate = trained_gate()
    prior, shared = tf.constant(PRIOR), tf.constant(SHARED)
    with tf.GradientTape() as tape:
        tape.watch([prior, shared])
        output = gate(prior, shared)
    of_prior, of_shared = tape.gradient(output, [prior, shared])
    assert of_shared is None
    assert np.abs(of_prior).max() > 0


def test_a_trained_gate_uses_the_prior():
    gate = trained_gate()
    np.testing.assert_array_less(1e-3, np.abs(gate(PRIOR + 1, SHARED) - gate(PRIOR, SHARED)).max(1))


def test_config_round_trip():
    gate = trained_gate()
    again = PersonalisedGate.from_config(gate.get_config())
    assert again.get_config() == gate.get_config()
    again(PRIOR, SHARED)
    again.set_weights(gate.get_weights())
    np.testing.assert_array_equal(again(PRIOR, SHARED), gate(PRIOR, SHARED))


@pytest.mark.parametrize(("outputs", "units"), [(0, 1), (1, 0)])
def test_sizes_should_be_positive(outputs, units):
    with pytest.raises(ValueError, match=f"should be positive. Received: {outputs}, {units}"):
        PersonalisedGate(outputs, units)


# In a tower


def test_a_gated_tower_against_numpy():
    tf.keras.utils.set_random_seed(1)
    tower = Tower([5, 4], gate_units=3)
    shared = Shared(tf.constant(SHARED), tf.constant(PRIOR), tf.zeros([8, 0]))
    tower(shared)
    for gate in tower.gates:
        gate.scale.kernel.assign(RANDOM.normal(0, 1, gate.scale.kernel.shape))
    x = SHARED
    for layer, gate in zip(tower.hidden, tower.gates, strict=True):
        x = np.maximum(x @ layer.kernel.numpy() + layer.bias.numpy(), 0)
        x = x * gate(PRIOR, SHARED).numpy()
    expected = x @ tower.logit.kernel.numpy()[:, 0] + tower.logit.bias.numpy()
    assert tower(shared).shape == [8]
    np.testing.assert_allclose(tower(shared), expected, rtol=1e-5, atol=1e-6)


# In the model


def shared_variables(model: RankingModel) -> dict[str, tf.Variable]:
    """The variables that the gated and the ungated model have in common, by their place."""
    variables = {f"trunk/{n}": v for n, v in enumerate(model.trunk.trainable_variables)}
    for name, tower in model.towers.items():
        for layer in ("logit", *range(len(tower.hidden))):
            dense = tower.logit if layer == "logit" else tower.hidden[layer]
            variables[f"{name}/{layer}/kernel"] = dense.kernel
            variables[f"{name}/{layer}/bias"] = dense.bias
    return variables


def logits_and_gradients(model: RankingModel, batch: dict) -> tuple[dict, dict]:
    variables = shared_variables(model)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    gradients = tape.gradient(loss, variables)
    return model(batch), {name: tf.convert_to_tensor(g) for name, g in gradients.items()}


def test_a_fresh_gated_model_is_the_ungated_one_bit_for_bit():
    spec = tiny_spec()
    batch = random_batch(spec, 16)
    ungated = shake(tiny_model(spec, gate=False))
    gated = tiny_model(spec, seed=2)
    gates = len(gated.trainable_variables) - len(ungated.trainable_variables)
    assert gates == 4 * 5  # four weights of a gate in each of five towers
    source, target = shared_variables(ungated), shared_variables(gated)
    assert len(source) == len(ungated.trainable_variables)
    for name, variable in target.items():
        variable.assign(source[name])

    expected_logits, expected_gradients = logits_and_gradients(ungated, batch)
    logits, gradients = logits_and_gradients(gated, batch)
    for name, expected in expected_logits.items():
        np.testing.assert_array_equal(logits[name], expected)
    for name, expected in expected_gradients.items():
        np.testing.assert_array_equal(gradients[name], expected, err_msg=name)
        assert np.abs(expected).max() > 0, name


def test_a_step_of_training_moves_every_gate():
    spec = tiny_spec()
    batch = random_batch(spec, 16)
    model = tiny_model(spec)
    train_step(model, tf.keras.optimizers.legacy.SGD(1.0), batch)
    for name, tower in model.towers.items():
        (gate,) = tower.gates
        shared = tf.ones([4, 6])
        priors = RANDOM.normal(0, 3, [2, 4, gate.hidden.kernel.shape[0] - 6])
        one, other = (gate(prior.astype(np.float32), shared) for prior in priors)
        assert np.abs(one - 1).max() > 0, name
        assert np.abs(one - other).max() > 0, name
