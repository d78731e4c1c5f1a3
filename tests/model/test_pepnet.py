"""PEPNet: what its gates read, and that they start at one."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.inputs import Encoded
from cmdcm.tests.model.batches import COLUMNS, random_batch, shake, sides, tiny_model, tiny_spec
from cmdcm.tests.model.reference import sigmoid

SPEC = tiny_spec()
BATCH = random_batch(SPEC, 10)
MODEL = shake(tiny_model(SPEC, name="pepnet"))


def encoded() -> tuple[Encoded, Encoded]:
    return MODEL.trunk.encoder(*sides(SPEC, BATCH))


def domain_gate(x: np.ndarray, user: Encoded) -> np.ndarray:
    """EPNet in NumPy: the moment is hour, weekday and kind of promotion, and the hours to it."""
    gate = MODEL.trunk.domain_gate
    # Ids of the user's side: user, hour, weekday, kind; three columns each.
    hours = MODEL.trunk.encoder.spec.user_inputs
    numbers = [f.name for f in hours if f.encoding in ("log1p", "raw") and not f.sequence]
    at = sum(f.length for f in hours if f.name in numbers[: numbers.index("hours_to_promotion")])
    domain = np.concatenate([user.ids[:, 3:12], user.numbers[:, at : at + 1]], axis=1)
    read = np.concatenate([domain, x], axis=1)
    hidden = np.maximum(read @ gate.hidden.kernel.numpy() + gate.hidden.bias.numpy(), 0)
    return 2 * sigmoid(hidden @ gate.scale.kernel.numpy() + gate.scale.bias.numpy())


def test_the_inputs_are_scaled_by_the_moment_of_the_request():
    user, candidates = encoded()
    width = MODEL.trunk.domain_gate.outputs
    x = np.random.default_rng(0).normal(0, 1, [10, width]).astype(np.float32)
    scaled = MODEL.trunk.scale_inputs(tf.constant(x), user, candidates)
    np.testing.assert_allclose(scaled, x * domain_gate(x, user), rtol=1e-4, atol=1e-5)


def test_fresh_gates_change_nothing():
    model = tiny_model(SPEC, name="pepnet")
    user, candidates = encoded()
    x = tf.random.stateless_normal([10, model.trunk.domain_gate.outputs], (1, 2))
    np.testing.assert_array_equal(model.trunk.scale_inputs(x, user, candidates), x)


def test_no_gradient_reaches_the_inputs_through_their_gate():
    user, candidates = encoded()
    x = tf.random.stateless_normal([10, MODEL.trunk.domain_gate.outputs], (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        scaled = MODEL.trunk.scale_inputs(x, user, candidates)
    # With the gate held, d (x g) / dx = g.
    expected = domain_gate(x.numpy(), user)
    np.testing.assert_allclose(tape.gradient(scaled, x), expected, rtol=1e-4, atol=1e-5)


def test_the_person_are_the_embeddings_of_user_item_and_seller():
    user, candidates = encoded()
    # Ids of the item's side: item, category, seller, brand.
    expected = np.concatenate(
        [user.ids[:, :3], candidates.ids[:, :3], candidates.ids[:, 6:9]], axis=1
    )
    np.testing.assert_array_equal(MODEL.trunk.prior(user, candidates), expected)
    assert all(tower.gates for tower in MODEL.towers.values())


@pytest.mark.parametrize(("columns", "width"), [(COLUMNS, 9), (("price",), 6)])
def test_a_log_without_sellers_has_a_smaller_person(columns, width):
    model = tiny_model(tiny_spec(columns), name="pepnet")
    prior = model.towers["direct"].gates[0].hidden.kernel.shape[0] - 6  # and six shared features
    assert prior == width
