"""Effect modifiers: what r1 and r0 read, who trains them, and what they learn of a population.

The population is enumerated and its expectations are worked out by hand.
"""

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from cmdcm.core.config import ModelConfig, TrainingConfig, load_config
from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import ARM_ESTIMATORS
from cmdcm.model.losses import weighted_mean
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.registry import make_model
from cmdcm.model.standardize import LIMIT
from cmdcm.model.steps import train_step
from cmdcm.tests.model.batches import (
    TINY,
    random_batch,
    rows_of,
    shake,
    sides,
    tiny_model,
    tiny_spec,
)
from cmdcm.tests.model.reference import logit, sigmoid

SPEC = tiny_spec()
BATCH = random_batch(SPEC, 24)
NAMES = ("price", "user_counts", "hours_to_promotion")
"""A number of the candidate, a vector of the user, and a number of the context."""


def model_of(**settings: Any) -> RankingModel:
    """A model with effect modifiers; its scales and all its weights have left their start."""
    model = tiny_model(SPEC, **({"effect_modifiers": NAMES} | settings))
    model.adapt({name: BATCH[name] for name in [f.name for f in SPEC.inputs]})
    return shake(model)


@functools.cache
def built() -> RankingModel:
    return model_of()


def other_values(feature: Feature) -> tf.Tensor:
    """Values of an input that differ from those in `BATCH`."""
    values = BATCH[feature.name]
    if feature.dtype != "string":
        return values + tf.constant(3, values.dtype)
    return tf.random.shuffle(values) + "x"


# What the heads read


@pytest.mark.parametrize("feature", SPEC.inputs, ids=lambda f: f.name)
def test_an_outcome_depends_on_its_modifiers_alone(feature):
    before = built()(BATCH)
    after = built()(BATCH | {feature.name: other_values(feature)})
    for name in ("r1", "r0"):
        assert np.array_equal(before[name], after[name]) == (feature.name not in NAMES), name


def test_other_inputs_may_be_anything():
    before = built()(BATCH)
    wild = {
        f.name: tf.fill(BATCH[f.name].shape, tf.constant(np.nan if f.dtype == "float32" else 10**9))
        for f in SPEC.inputs
        if f.encoding in ("log1p", "raw") and f.name not in NAMES
    }
    wild = {name: tf.cast(values, BATCH[name].dtype) for name, values in wild.items()}
    after = built()(BATCH | wild)
    np.testing.assert_array_equal(before["r1"], after["r1"])
    assert np.abs(before["direct"] - after["direct"]).max() > 0


def test_the_logits_are_linear_in_the_standardised_numbers():
    columns = []
    for name in NAMES:
        raw = np.maximum(BATCH[name].numpy().reshape(24, -1).astype(np.float64), 0)
        number = np.log1p(raw) / 4 if SPEC[name].encoding == "log1p" else raw
        deviation = np.where(number.std(0) > 1e-3, number.std(0), 1)
        columns.append(np.clip((number - number.mean(0)) / deviation, -LIMIT, LIMIT))
    values = np.concatenate(columns, axis=1)
    assert {SPEC[name].encoding for name in NAMES} == {"log1p"}
    for name in ("r1", "r0"):
        head = built().towers[name].logit
        assert head.kernel.shape == [2 + SPEC["user_counts"].length, 1]
        expected = values @ head.kernel.numpy()[:, 0] + head.bias.numpy()
        np.testing.assert_allclose(built()(BATCH)[name], expected, rtol=1e-3, atol=1e-4)


def test_each_modifier_is_its_own_feature():
    """With a coefficient for one input alone, no other one matters."""
    model = model_of()
    start = 0
    for name in NAMES:
        kernel = np.zeros(model.towers["r1"].logit.kernel.shape, np.float32)
        kernel[start : start + SPEC[name].length] = 1
        start += SPEC[name].length
        model.towers["r1"].logit.kernel.assign(kernel)
        before = model(BATCH)["r1"]
        moved = {n for n in NAMES if np.any(before != model(change(n))["r1"])}
        assert moved == {name}


def change(name: str) -> dict[str, tf.Tensor]:
    return BATCH | {name: other_values(SPEC[name])}


def test_a_raw_number_is_a_modifier_as_it_is():
    raw = Feature(name="score", dtype="float32", side="item", encoding="raw")
    spec = FeatureSpec(features=(*SPEC.features, raw))
    model = tiny_model(spec, effect_modifiers=("score",))
    model.towers["r1"].logit.kernel.assign([[2.0]])
    model.towers["r1"].logit.bias.assign([0.5])
    score = tf.linspace(-1.0, 1.0, 24)
    np.testing.assert_allclose(model(BATCH | {"score": score})["r1"], 2 * score + 0.5, rtol=1e-6)


@pytest.mark.parametrize("names", [("price",), ("user_history",), NAMES])
def test_one_user_for_many_candidates(names):
    model = model_of(effect_modifiers=names)
    user, candidates = sides(SPEC, BATCH)
    repeated = {name: tf.repeat(values[5:6], 24, axis=0) for name, values in user.items()}
    once = model.score(rows_of(user, 5, 6), candidates)
    expected = model.predictions(model(repeated | candidates))
    for name, values in expected.items():
        assert once[name].shape == [24]
        np.testing.assert_allclose(once[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_fresh_model_has_no_effect_modification():
    logits = tiny_model(SPEC, effect_modifiers=NAMES)(BATCH)
    np.testing.assert_array_equal(logits["r1"], np.zeros(24))


# Who trains whom


def gradients(model: RankingModel, wanted: str) -> dict[str, bool]:
    """Whether one loss has a gradient, by layer: the trunk, and the tower of each head."""
    layers = {"trunk": model.trunk, **model.towers}
    weights = {name: layer.trainable_variables for name, layer in layers.items()}
    with tf.GradientTape() as tape:
        head = model.head_losses(model(BATCH), model.labels(BATCH))[wanted]
        loss = weighted_mean(head.losses, head.weights, head.base)
    found = tape.gradient(loss, weights)

    def moved(of_layer: list) -> bool:
        return any(g is not None and np.any(tf.convert_to_tensor(g)) for g in of_layer)

    return {name: moved(of_layer) for name, of_layer in found.items()}


@pytest.mark.parametrize("estimator", ARM_ESTIMATORS)
@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_the_risk_of_an_arm_trains_its_own_coefficients_alone(estimator, arm):
    found = gradients(model_of(estimator=estimator), arm)
    assert {name for name, moved in found.items() if moved} == {arm}


@pytest.mark.parametrize("estimator", ["snipw", "dr"])
def test_the_delayed_purchase_does_not_train_the_arms(estimator):
    found = gradients(model_of(estimator=estimator), "delayed")
    assert {name for name, moved in found.items() if moved} == {"trunk", "direct", "transition"}


def test_linear_heads_take_larger_steps():
    model = model_of()
    optimizer = make_optimizer(model, TrainingConfig(learning_rate=1e-3))
    before = {name: tower.logit.bias.numpy() for name, tower in model.towers.items()}
    train_step(model, optimizer, BATCH)
    for name, tower in model.towers.items():
        # The first step of Adam is the learning rate, up or down.
        step = float(np.abs(tower.logit.bias.numpy() - before[name])[0])
        assert step == pytest.approx(1e-2 if name in ("r1", "r0") else 1e-3, rel=0.05), name


def test_imputed_outcomes_stay_towers_over_the_trunk():
    model = model_of(estimator="dr", seed=2)
    assert {name for name, moved in gradients(model, "i1").items() if moved} == {"trunk", "i1"}
    before, after = model(BATCH), model(BATCH | {"item_id": other_values(SPEC["item_id"])})
    assert np.all(before["i1"] != after["i1"])


def test_cross_fitted_nuisances_stay_towers_too():
    model = model_of(estimator="dr", cross_fit_folds=2)
    assert [head.name for head in model.heads if head.linear] == ["r1", "r0"]
    found = gradients(model, "r1")
    assert {name for name, moved in found.items() if moved} == {"r1"}


def test_all_heads_but_the_arms_are_those_without_modifiers():
    modified, plain = model_of(), tiny_model(SPEC, transition=False)
    ours = {n: len(t.trainable_variables) for n, t in modified.towers.items()}
    assert ours.pop("r1") == ours.pop("r0") == 2
    assert ours == {n: len(t.trainable_variables) for n, t in plain.towers.items()}


# What they learn of a population
#
# V is a number of the user with two values; a confounder outside of it parts each into two cells.
# Each of the four has 64 clicks without a direct purchase, and all combinations of cart and delayed
# purchase as often as their probabilities say. A logit linear in V is free at both values.

CELLS = [
    # V, P(A = 1), r1, r0
    (0, 1 / 4, 1 / 4, 1 / 8),
    (0, 3 / 4, 3 / 4, 1 / 4),
    (1, 1 / 4, 1 / 2, 1 / 2),
    (1, 1 / 2, 7 / 8, 1 / 4),
]
GIVEN_V = {"r1": [1 / 2, 11 / 16], "r0": [3 / 16, 3 / 8]}
"""By hand: E[L(a) | V], the means of the two cells' r."""

GIVEN_ARM_AND_V = {
    "r1": [(4 + 36) / (16 + 48), (8 + 28) / (16 + 32)],
    "r0": [(6 + 4) / (48 + 16), (24 + 8) / (48 + 32)],
}
"""By hand: E[L | A = a, V], buyers / clicks of the arm."""

OVERLAP = {
    "r1": [(12 / 4 + 12 * 3 / 4) / 24, (12 / 2 + 16 * 7 / 8) / 28],
    "r0": [(12 / 8 + 12 / 4) / 24, (12 / 2 + 16 / 4) / 28],
}
"""By hand: the means with the cells' weights 64 e (1 - e) = 12, 12, 12, 16."""


def population() -> dict[str, np.ndarray]:
    rows = []
    for cell, (_, e, *outcomes) in enumerate(CELLS):
        for cart, share, r in zip((1, 0), (e, 1 - e), outcomes, strict=True):
            for delayed, part in ((1, r), (0, 1 - r)):
                count = 64 * share * part
                assert count == int(count)
                rows += [(cell, cart, delayed)] * int(count)
    cell, cart, delayed = np.array(rows).T
    return {"cell": cell, "cart": cart, "delayed": delayed}


POPULATION = population()
V, PROPENSITY, R1, R0 = np.array(CELLS).T
HALF = np.full(4, 0.5)


def slopes_at(
    estimator: str,
    arm: str,
    rates: list[float],
    propensity: np.ndarray = PROPENSITY,
    imputed: np.ndarray = HALF,
) -> np.ndarray:
    """The gradient of an arm's risk where the head's probabilities are `rates` at the two V.

    The risk is convex in the head's coefficients: a gradient of zero is the minimum.

    Args:
        estimator: The risk.
        arm: `r1` or `r0`.
        rates: At the smaller and at the larger value of V.
        propensity: Of the four cells.
        imputed: Of the four cells.
    """
    model = tiny_model(SPEC, estimator=estimator, effect_modifiers=("user_history",))
    cell = POPULATION["cell"]
    rows = len(cell)
    batch = {name: tf.repeat(values[:1], rows, axis=0) for name, values in BATCH.items()}
    # log1p(e^8 - 1) / 4 = 2 for V = 1, and 0 for V = 0.
    batch["user_history"] = tf.constant(np.where(V[cell] == 1, round(np.exp(8)) - 1, 0))
    head = model.towers[arm].logit
    low, high = logit(np.array(rates))
    head.kernel.assign([[(high - low) / 2]])
    head.bias.assign([low])
    zeros = tf.zeros(rows)
    labels = {"direct": zeros, "conversion": zeros}
    labels |= {n: tf.constant(POPULATION[n], tf.float32) for n in ("cart", "delayed")}
    nuisances = {"propensity": propensity, "i1": imputed, "i0": imputed}
    with tf.GradientTape() as tape:
        logits = dict(model(batch))
        got = sigmoid(logits[arm].numpy())
        np.testing.assert_allclose(got, np.array(rates)[V[cell].astype(int)], atol=1e-4)
        logits |= {n: tf.constant(logit(p)[cell], tf.float32) for n, p in nuisances.items()}
        risk = model.head_losses(logits, labels)[arm]
        value = weighted_mean(risk.losses, risk.weights, risk.base)
    of_kernel, of_bias = tape.gradient(value, [head.kernel, head.bias])
    return np.array([float(of_kernel[0, 0]), float(of_bias[0])])


ZERO = pytest.approx([0, 0], abs=1e-5)


@pytest.mark.parametrize("estimator", ["ipw", "snipw", "dr"])
@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_weighted_risks_learn_the_mean_outcome_of_an_arm_given_v(estimator, arm):
    assert slopes_at(estimator, arm, GIVEN_V[arm]) == ZERO
    assert np.abs(slopes_at(estimator, arm, GIVEN_ARM_AND_V[arm])).max() > 0.01


@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_the_naive_risk_learns_what_is_seen_in_the_arm_given_v(arm):
    assert slopes_at("naive", arm, GIVEN_ARM_AND_V[arm]) == ZERO
    assert np.abs(slopes_at("naive", arm, GIVEN_V[arm])).max() > 0.01


@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_overlap_weights_learn_the_mean_where_arms_overlap(arm):
    assert slopes_at("overlap", arm, OVERLAP[arm]) == ZERO


@pytest.mark.parametrize(("arm", "outcomes"), [("r1", R1), ("r0", R0)])
def test_a_right_imputation_saves_the_doubly_robust_risk_from_a_wrong_propensity(arm, outcomes):
    assert slopes_at("dr", arm, GIVEN_V[arm], propensity=HALF, imputed=outcomes) == ZERO
    assert np.abs(slopes_at("ipw", arm, GIVEN_V[arm], propensity=HALF)).max() > 0.01


# Errors


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("prise",), r"model\.effect_modifiers: 'prise' is no input; .*'user_counts'.*'price'"),
        (("price", "direct"), "'direct' is no input"),
        (("item_id",), "'item_id' is no number but 'hash'"),
        (("weekday",), "'weekday' is no number but 'identity'"),
        (("promotion_kind",), "'promotion_kind' is no number but 'vocabulary'"),
    ],
)
def test_what_cannot_be_a_modifier_is_named(names, message):
    with pytest.raises(ConfigError, match=message):
        make_model(SPEC, TINY.model_copy(update={"effect_modifiers": names}))


def test_modifiers_need_the_transition():
    with pytest.raises(ValidationError, match="effect_modifiers need transition = true"):
        ModelConfig(effect_modifiers=("price",), transition=False)
    with pytest.raises(ConfigError, match="effect_modifiers need transition = true"):
        load_config(overrides=["model.effect_modifiers=['price']", "model.transition=false"])


def test_a_modifier_is_named_once():
    with pytest.raises(ValidationError, match="name an input twice"):
        ModelConfig(effect_modifiers=("price", "price"))
