"""What every model of the graph learns from an enumerated population, and its limiting cases."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.dcmt import counterfactual_prior
from cmdcm.model.heads import SPACES, entire_space_loss
from cmdcm.model.losses import weighted_mean
from cmdcm.model.probability import both, from_logit
from cmdcm.model.registry import MODELS as REGISTERED
from cmdcm.model.registry import make_model
from cmdcm.tests.model.batches import DELAYED, TINY, tiny_spec
from cmdcm.tests.model.reference import cross_entropy, logit, sigmoid

SPEC = tiny_spec()
RANDOM = np.random.default_rng(5)


def f32(values: object) -> tf.Tensor:
    return tf.constant(np.asarray(values, np.float32))


def population() -> dict[str, tf.Tensor]:
    """Every combination of labels, each so often that no rate is like another."""
    rows = []
    for direct, cart, micro, delayed in itertools.product([0, 1], repeat=4):
        if not (direct and delayed):
            rows += [(direct, cart, micro, delayed)] * int(RANDOM.integers(2, 40))
    names = ("direct", "cart", "micro", "delayed")
    labels = dict(zip(names, np.array(rows).T, strict=True))
    labels["conversion"] = labels["direct"] + labels["delayed"]
    return {name: f32(values) for name, values in labels.items()}


LABELS = population()
ROWS = len(LABELS["direct"])


def rate(label: str, space: str) -> float:
    mask = SPACES[space](LABELS).numpy() == 1
    return float(LABELS[label].numpy()[mask].mean())


def model_of(name: str, **settings):
    return make_model(SPEC, TINY.model_copy(update={"name": name, **settings}))


def total_loss(model, logits: dict[str, tf.Tensor]) -> tf.Tensor:
    of_rows = {name: tf.fill([ROWS], z) for name, z in logits.items()}
    losses = model.head_losses(of_rows, LABELS).values()
    return tf.add_n([x.weight * weighted_mean(x.losses, x.weights, x.base) for x in losses])


def gradients_of(model, logits: dict[str, tf.Tensor]) -> dict[str, float]:
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = total_loss(model, logits)
    return {name: float(g) for name, g in tape.gradient(loss, logits).items()}


MODELS = {
    "single_task": {},
    "vanilla": {},
    "shared_bottom": {},
    "mmoe": {},
    "ple": {},
    "pepnet": {},
    "hdr": {},
    "esmm": {},
    "esm2": {},
    "hm3": {},
    "escm2_ips": {},
    "escm2_dr": {},
    "dcmt": {"counterfactual_weight": 0.0},
    "cmdcm": {},
}


def test_every_model_is_in_these_tests_or_those_of_delayed_feedback():
    assert {*MODELS, *DELAYED, "ecad"} == set(REGISTERED)  # ecad: test_delayed.py


def truth(model) -> dict[str, float]:
    """Logits of the probabilities that the heads declare; an error's head has its mean error."""
    found = {}
    for head in model.heads:
        p = rate(head.label, head.space)
        entropy = float(cross_entropy(p, p))
        found[head.name] = entropy if head.estimator == "imputed_error" else float(logit(p))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_population_minimiser_is_the_probability_that_a_head_declares(name):
    """All clicks are alike, so that arm and population agree; cells are in `test_transition.py`."""
    model = model_of(name, **MODELS[name])
    logits = {n: tf.constant(z) for n, z in truth(model).items()}
    for head, gradient in gradients_of(model, logits).items():
        assert abs(gradient) < 1e-5, head
    for head, step in itertools.product(logits, (-0.5, 0.5)):
        # Gradients, not losses: what learns from a head without moving it changes the loss too.
        there = gradients_of(model, {**logits, head: logits[head] + step})
        assert np.sign(step) * there[head] > 1e-3, head


@pytest.mark.parametrize("name", MODELS)
def test_outputs_at_the_minimum_are_the_rates(name):
    model = model_of(name, **MODELS[name])
    outputs = model.predictions({n: tf.constant([z]) for n, z in truth(model).items()})
    for output, label in (("direct", "direct"), ("cart", "cart"), ("delayed", "delayed")):
        if f"p_{output}" in outputs:
            expected = rate(label, "clicks")
            assert float(outputs[f"p_{output}"][0]) == pytest.approx(expected, rel=1e-5)
    expected = rate("direct" if name == "vanilla" else "conversion", "clicks")
    assert float(outputs["p_conversion"][0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_finite_at_extreme_logits(name):
    model = model_of(name)
    for signs in itertools.islice(itertools.product([-1e4, 1e4], repeat=7), 0, 128, 9):
        logits = {h.name: tf.constant(z) for h, z in zip(model.heads, signs, strict=False)}
        assert np.isfinite(total_loss(model, logits))
        assert np.isfinite(list(gradients_of(model, logits).values())).all()


# Limiting cases


def random_logits(model) -> dict[str, tf.Tensor]:
    return {head.name: f32(RANDOM.normal(0, 2, 50)) for head in model.heads}


def assert_equal(got: dict, expected: dict, names: tuple[str, ...]):
    for name in names:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, err_msg=name)


def test_esm2_with_equal_arms_is_esmm():
    esm2, esmm = model_of("esm2"), model_of("esmm")
    logits = random_logits(esm2)
    logits["r0"] = logits["r1"]
    of_esmm = {**random_logits(esmm), "direct": logits["direct"]}
    of_esmm["delayed_given_not_direct"] = logits["r1"]
    names = ("p_direct", "p_delayed", "p_conversion")
    assert_equal(esm2.predictions(logits), esmm.predictions(of_esmm), names)


@pytest.mark.parametrize(
    ("name", "settings", "estimator"),
    [("escm2_ips", {}, "ipw"), ("dcmt", {"counterfactual_weight": 0.0}, "snipw")],
)
def test_a_causal_rival_without_its_own_term_is_cmdcm_without_gates(name, settings, estimator):
    rival, own = model_of(name, **settings), model_of("cmdcm", gate=False, estimator=estimator)
    logits = {head.name: f32(RANDOM.normal(0, 2)) for head in own.heads}
    assert {h.name for h in rival.heads} <= set(logits)
    assert float(total_loss(rival, logits)) == pytest.approx(float(total_loss(own, logits)))
    of_rival, of_own = gradients_of(rival, logits), gradients_of(own, logits)
    assert of_rival == pytest.approx(of_own)
    many = random_logits(own)
    assert_equal(rival.predictions(many), own.predictions(many), tuple(own.predictions(many)))


def test_hm3_with_equal_carts_is_esm2():
    hm3, esm2 = model_of("hm3"), model_of("esm2")
    logits = random_logits(hm3)
    logits["cart_no_micro"] = logits["cart_micro"]
    of_esm2 = {n: logits[n] for n in ("direct", "cart_direct", "r1", "r0")}
    of_esm2["propensity"] = logits["cart_micro"]
    expected = esm2.predictions(of_esm2)
    assert_equal(hm3.predictions(logits), expected, tuple(expected))


def test_the_paths_of_hm3_add_up_to_one():
    """Of a click without a direct purchase: micro or not, cart or not, bought or not."""
    z = random_logits(model_of("hm3"))
    p = {name: sigmoid(values) for name, values in z.items()}
    total, bought = np.zeros(50), np.zeros(50)
    for micro, cart, buys in itertools.product([1, 0], repeat=3):
        macro = p["cart_micro"] if micro else p["cart_no_micro"]
        later = p["r1"] if cart else p["r0"]
        path = np.ones(50)
        for happens, chance in ((micro, p["micro"]), (cart, macro), (buys, later)):
            path = path * (chance if happens else 1 - chance)
        total, bought = total + path, bought + buys * path
    np.testing.assert_allclose(total, 1)
    outputs = model_of("hm3").predictions(z)
    np.testing.assert_allclose(outputs["p_delayed"], (1 - p["direct"]) * bought, rtol=1e-5)
    assert np.all(outputs["p_delayed"] <= 1 - outputs["p_direct"] + 1e-6)


def test_an_entire_space_loss_on_clicks_alone_is_the_cross_entropy_of_the_last_step():
    """The papers' own setting: all rows are clicks, and pCTR is 1."""
    bought, pcvr = RANDOM.integers(0, 2, 20), RANDOM.normal(0, 2, 20)
    event = both(from_logit(tf.fill([20], 200.0)), from_logit(f32(pcvr)))
    np.testing.assert_allclose(
        entire_space_loss(f32(bought), event).losses,
        cross_entropy(bought, sigmoid(pcvr)),
        rtol=1e-5,
    )


def test_the_counterfactual_prior_is_the_distance_of_the_arms():
    r1, r0 = RANDOM.normal(0, 2, [2, 50])
    prior = counterfactual_prior(f32(r1), f32(-r0))
    np.testing.assert_allclose(prior, np.abs(sigmoid(r1) - sigmoid(r0)), rtol=1e-4, atol=1e-6)


def test_the_counterfactual_risk_of_the_paper():
    """In its own setting nothing is bought without the click: all r* have the label 1."""
    o, q = f32([1, 1, 0, 0]), np.array([0.5, 0.2, 0.4, 0.1])
    bought = f32([1, 0, 0, 0])
    z = {"propensity": f32(logit(q)), "r1": f32([0.3, -1, 0, 0]), "r0": f32([0, 0, -2, 0.7])}
    z |= {"direct": tf.fill([4], -50.0), "cart_direct": tf.zeros(4)}
    labels = {"direct": tf.zeros(4), "cart": o, "delayed": bought, "micro": o}
    losses = model_of("dcmt").head_losses(z, labels)
    star = -z["r0"].numpy()[2:]
    weights = 1 / (1 - q[2:])
    expected = (weights * cross_entropy(1, sigmoid(star))).sum() / weights.sum()
    found = weighted_mean(losses["r0"].losses, losses["r0"].weights, losses["r0"].base)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_heavy_prior_ties_the_arms():
    model = model_of("dcmt", counterfactual_weight=100.0)
    logits = {n: tf.constant(z) for n, z in truth(model).items()}
    towards = gradients_of(model, logits)
    effect = rate("delayed", "carted") - rate("delayed", "uncarted")
    assert np.sign(towards["r1"]) == np.sign(effect) == -np.sign(towards["r0"])


def test_the_prior_leaves_the_propensity_alone():
    light, heavy = (model_of("dcmt", counterfactual_weight=w) for w in (0.0, 100.0))
    logits = {head.name: f32(RANDOM.normal(0, 2)) for head in light.heads}
    before, after = gradients_of(light, logits), gradients_of(heavy, logits)
    assert before["r1"] != after["r1"]
    assert before["propensity"] == after["propensity"]
