"""The four tests of every estimator: limiting case, minimiser, gradient routing, extremes.

Expected values are worked out by hand or come from NumPy, never from the code under test.
"""

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.heads import ARM_ESTIMATORS, Head, HeadLoss
from cmdcm.model.losses import weighted_mean
from cmdcm.model.probability import from_logit
from cmdcm.model.transition import (
    arm_risk,
    transition_event,
    transition_heads,
    transition_losses,
)
from cmdcm.tests.model import reference
from cmdcm.tests.model.reference import cross_entropy, logit, sigmoid

CLIP = 1e-6
every_estimator = pytest.mark.parametrize("estimator", ARM_ESTIMATORS)
debiased = pytest.mark.parametrize("estimator", ["ipw", "snipw", "dr", "dr_error"])


def f32(values: object) -> tf.Tensor:
    return tf.constant(np.asarray(values, np.float32))


def mean(risk: HeadLoss) -> tf.Tensor:
    return weighted_mean(risk.losses, risk.weights, risk.base)


def losses_of(
    estimator: str, logits: Any, labels: Any, clip: float, weight: float = 1.0
) -> dict[str, HeadLoss]:
    return transition_losses(transition_heads(estimator, weight), logits, labels, clip)


def heads_of(estimator: str) -> list[str]:
    return ["r1", "r0", "i1", "i0"] if estimator.startswith("dr") else ["r1", "r0"]


def random_arm() -> dict[str, Any]:
    random = np.random.default_rng(3)
    space = random.integers(0, 2, 30)
    return {
        "in_arm": f32(random.integers(0, 2, 30) * space),
        "space": f32(space),
        "delayed": f32(random.integers(0, 2, 30)),
        "logits": f32(random.normal(0, 2, 30)),
        "probability": f32(random.uniform(0.1, 0.9, 30)),
        "clip": CLIP,
    }


def test_the_estimators():
    assert ARM_ESTIMATORS == ("naive", "ipw", "snipw", "overlap", "dr", "dr_error")


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match=r"`estimator` should be one of .*Received: magic"):
        arm_risk(**random_arm(), estimator="magic")


def test_doubly_robust_needs_the_imputation():
    with pytest.raises(ValueError, match=r"`imputed` is needed"):
        arm_risk(**random_arm(), estimator="dr")


def test_the_transition_is_the_mixture_of_the_arms():
    e, r1, r0 = np.random.default_rng(0).normal(0, 3, [3, 50])
    event = transition_event(from_logit(f32(e)), f32(r1), f32(r0))
    expected = sigmoid(e) * sigmoid(r1) + (1 - sigmoid(e)) * sigmoid(r0)
    np.testing.assert_allclose(tf.exp(event.yes), expected, rtol=1e-5)


# Against the reference, row by row


@every_estimator
@pytest.mark.parametrize("clip", [CLIP, 0.3])
def test_risks_against_the_reference(estimator, clip):
    random = np.random.default_rng(1)
    in_arm, direct, delayed = random.integers(0, 2, [3, 40])
    outcome, propensity, imputed = random.normal(0, 2, [3, 40])
    probability = sigmoid(propensity)
    risk = arm_risk(
        f32(in_arm * (1 - direct)),
        f32(1 - direct),
        f32(delayed),
        f32(outcome),
        f32(probability),
        estimator,
        clip,
        f32(imputed),
    )
    guess = imputed if estimator == "dr_error" else sigmoid(imputed)
    data = (in_arm, direct, delayed, sigmoid(outcome), probability, clip, guess)
    assert float(mean(risk)) == pytest.approx(reference.arm_risk(estimator, *data), rel=1e-5)


# 1. Limiting cases


@pytest.mark.parametrize("estimator", ["naive", "ipw", "snipw", "dr"])
def test_everybody_in_the_arm_for_sure_is_plain_cross_entropy(estimator):
    delayed, outcome = np.array([1, 0, 0, 1]), np.array([0.3, -2.0, 1.5, 4.0])
    one = tf.ones(4)
    risk = arm_risk(one, one, f32(delayed), f32(outcome), one, estimator, 0.03, f32([5, 1, 0, -2]))
    expected = cross_entropy(delayed, sigmoid(outcome)).mean()
    assert float(mean(risk)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("estimator", ["naive", "ipw", "snipw", "overlap"])
def test_an_equal_propensity_for_all_is_the_mean_over_the_arm(estimator):
    # Two of four rows in the arm, each with probability 1/2.
    delayed, outcome = np.array([1, 0, 1, 0]), np.array([0.3, -2.0, 1.5, 4.0])
    risk = arm_risk(
        f32([1, 1, 0, 0]),
        tf.ones(4),
        f32(delayed),
        f32(outcome),
        tf.fill([4], 0.5),
        estimator,
        0.03,
    )
    expected = cross_entropy(delayed, sigmoid(outcome))[:2].mean()
    assert float(mean(risk)) == pytest.approx(expected, rel=1e-6)


CERTAIN = 50.0
"""A logit whose probability is 0 or 1."""


@pytest.mark.parametrize("probability", [0.01, 0.5, 1.0])
def test_a_perfect_imputation_makes_the_propensity_irrelevant(probability):
    arm = random_arm() | {"probability": tf.fill([30], probability)}
    risk = arm_risk(**arm, estimator="dr", imputed=CERTAIN * (2 * arm["delayed"] - 1))
    errors = cross_entropy(arm["delayed"], sigmoid(arm["logits"]))
    assert float(mean(risk)) == pytest.approx(errors[arm["space"].numpy() == 1].mean(), rel=1e-5)


def test_doubly_robust_without_a_click_in_the_arm_is_the_imputation():
    arm = random_arm() | {"in_arm": tf.zeros(30)}
    imputed = np.random.default_rng(5).normal(0, 1, 30)
    risk = arm_risk(**arm, estimator="dr", imputed=f32(imputed))
    errors = cross_entropy(sigmoid(imputed), sigmoid(arm["logits"]))
    assert float(mean(risk)) == pytest.approx(errors[arm["space"].numpy() == 1].mean(), rel=1e-5)


# 2. Population minimiser
#
# Three cells of covariates with P = 1/2, 1/4, 1/4 among the 128 clicks without a direct purchase;
# every combination of cart and delayed purchase stands in it as often as its probability says.

CELLS = [
    # clicks, P(A = 1), r1, r0
    (64, 1 / 4, 1 / 4, 1 / 8),
    (32, 1 / 2, 1 / 2, 1 / 4),
    (32, 3 / 4, 3 / 4, 1 / 2),
]
DIRECT_CLICKS = 40
"""More clicks, with a direct purchase: they must have no part in any risk."""

# By hand: sum of P(cell) r, and carted (uncarted) buyers / carted (uncarted) clicks.
POPULATION_MEAN = {"r1": 56 / 128, "r0": 32 / 128}
# Clicks weighted by e (1 - e): 12, 8 and 6.
OVERLAP_MEAN = {"r1": (3 + 4 + 4.5) / 26, "r0": (1.5 + 2 + 3) / 26}
ARM_MEAN = {"r1": (4 + 8 + 18) / (16 + 16 + 24), "r0": (6 + 4 + 4) / (48 + 16 + 8)}


def population() -> dict[str, np.ndarray]:
    rows = []
    for cell, (clicks, e, r1, r0) in enumerate(CELLS):
        for cart, share, r in ((1, e, r1), (0, 1 - e, r0)):
            for delayed, part in ((1, r), (0, 1 - r)):
                count = clicks * share * part
                assert count == int(count)
                rows += [(cell, cart, 0, delayed)] * int(count)
    rows += [(n % 3, n % 2, 1, 0) for n in range(DIRECT_CLICKS)]
    cell, cart, direct, delayed = np.array(rows).T
    return {"cell": cell, "cart": cart, "direct": direct, "delayed": delayed}


POPULATION = population()
LABELS = {name: f32(POPULATION[name]) for name in ("cart", "direct", "delayed")}
PER_CELL = np.eye(3, dtype=np.float32)[POPULATION["cell"]]
CONSTANT = np.ones([len(PER_CELL), 1], np.float32)
"""Designs of a head: a logit a cell, or one logit for all clicks."""


WRONG_OUTCOMES = np.array([0.7, 0.1, 0.6])
"""A wrong imputation of each cell's outcome, in either arm."""


def population_risk(
    estimator: str, head: str, design: np.ndarray, propensities: np.ndarray, imputed: np.ndarray
):
    """The loss of a head with logits design @ theta, as a function of theta."""
    propensity, guess = (f32(PER_CELL @ logit(p)) for p in (propensities, imputed))

    def risk(theta: tf.Tensor) -> tf.Tensor:
        logits = {"propensity": propensity, "i1": guess, "i0": guess}
        logits |= dict.fromkeys(("r1", "r0", head), tf.linalg.matvec(design, theta))
        return mean(losses_of(estimator, logits, LABELS, 0.01)[head])

    return risk


def gradient_and_curvature(risk, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivatives; no risk couples two components of theta."""
    point = tf.constant(theta, tf.float32)
    with tf.GradientTape() as outer:
        outer.watch(point)
        with tf.GradientTape() as inner:
            inner.watch(point)
            value = risk(point)
        gradient = inner.gradient(value, point)
    return gradient.numpy(), outer.gradient(gradient, point).numpy()


PROPENSITIES = np.array([e for _, e, _, _ in CELLS])


def minimiser(
    estimator: str,
    head: str,
    design: np.ndarray,
    propensities: np.ndarray = PROPENSITIES,
    imputed: np.ndarray = WRONG_OUTCOMES,
) -> np.ndarray:
    """Probabilities at the minimum, by Newton's method: the risks are convex in each logit."""
    risk = population_risk(estimator, head, design, propensities, imputed)
    theta = np.zeros(design.shape[1])
    for _ in range(8):
        gradient, curvature = gradient_and_curvature(risk, theta)
        assert np.all(curvature > 0)
        theta = theta - gradient / curvature
    assert np.abs(gradient).max() < 1e-6
    return sigmoid(theta)


@every_estimator
@pytest.mark.parametrize(("arm", "column"), [("r1", 2), ("r0", 3)])
def test_a_flexible_head_learns_the_outcome_of_its_arm(estimator, arm, column):
    truth = [cell[column] for cell in CELLS]
    np.testing.assert_allclose(minimiser(estimator, arm, PER_CELL), truth, atol=1e-5)


@debiased
@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_a_constant_head_learns_the_mean_over_all_clicks(estimator, arm):
    assert minimiser(estimator, arm, CONSTANT) == pytest.approx(POPULATION_MEAN[arm], abs=1e-5)


@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_a_constant_head_of_the_naive_risk_learns_the_arms_own_mean(arm):
    assert minimiser("naive", arm, CONSTANT) == pytest.approx(ARM_MEAN[arm], abs=1e-5)
    assert abs(ARM_MEAN[arm] - POPULATION_MEAN[arm]) > 0.05


@pytest.mark.parametrize("arm", ["r1", "r0"])
def test_a_constant_head_of_the_overlap_risk_learns_the_mean_where_arms_overlap(arm):
    assert minimiser("overlap", arm, CONSTANT) == pytest.approx(OVERLAP_MEAN[arm], abs=1e-5)


@pytest.mark.parametrize("estimator", ["ipw", "snipw", "overlap"])
def test_a_wrong_propensity_costs_the_debiasing(estimator):
    found = minimiser(estimator, "r1", CONSTANT, propensities=np.full(3, 0.5))
    assert found == pytest.approx(ARM_MEAN["r1"], abs=1e-5)


WRONG_PROPENSITIES = np.array([0.4, 0.4, 0.6])


@pytest.mark.parametrize(("arm", "column"), [("r1", 2), ("r0", 3)])
def test_a_right_imputation_saves_the_minimiser_from_a_wrong_propensity(arm, column):
    truth = np.array([cell[column] for cell in CELLS])
    constant = minimiser("dr", arm, CONSTANT, WRONG_PROPENSITIES, truth)
    assert constant == pytest.approx(POPULATION_MEAN[arm], abs=1e-5)
    assert abs(minimiser("ipw", arm, CONSTANT, WRONG_PROPENSITIES) - constant) > 0.02
    flexible = minimiser("dr", arm, PER_CELL, WRONG_PROPENSITIES, truth)
    np.testing.assert_allclose(flexible, truth, atol=1e-5)


def test_with_both_nuisances_wrong_the_minimiser_is_off_by_the_product_of_their_errors():
    share, e, r, _ = np.array(CELLS).T
    off = (e / WRONG_PROPENSITIES - 1) * (r - WRONG_OUTCOMES)
    expected = POPULATION_MEAN["r1"] + (share / share.sum() * off).sum()
    assert abs(expected - POPULATION_MEAN["r1"]) > 0.02
    found = minimiser("dr", "r1", CONSTANT, WRONG_PROPENSITIES, WRONG_OUTCOMES)
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("arm", "column"), [("1", 2), ("0", 3)])
def test_the_imputation_learns_the_outcome_in_its_arm(arm, column):
    truth = [cell[column] for cell in CELLS]
    np.testing.assert_allclose(minimiser("dr", f"i{arm}", PER_CELL), truth, atol=1e-5)
    constant = minimiser("dr", f"i{arm}", CONSTANT, WRONG_PROPENSITIES)
    assert constant == pytest.approx(ARM_MEAN[f"r{arm}"], abs=1e-5)


# Unbiasedness: all assignments of carts to four clicks, each with its probability

PROPENSITY = np.array([0.2, 0.5, 0.7, 0.9])
OUTCOME_CARTED, OUTCOME_NOT = np.array([1, 0, 1, 1]), np.array([0, 0, 1, 0])
OUTCOME_LOGITS = np.array([0.3, -1.2, 2.0, -0.7])
TRUE_ERRORS = cross_entropy(OUTCOME_CARTED, sigmoid(OUTCOME_LOGITS))
CERTAINLY = CERTAIN * (2 * OUTCOME_CARTED - 1)
WRONG = {"propensity": np.array([0.6, 0.3, 0.5, 0.4]), "imputed": np.array([-2.0, -0.5, 0.5, -3.0])}


def expected_risk(estimator: str, propensity: np.ndarray, imputed: np.ndarray) -> float:
    """Expectation of r1's risk over all 16 assignments; a fifth click was bought directly."""
    total = 0.0
    for carts in itertools.product([0, 1], repeat=4):
        cart = np.array(carts)
        chance = np.prod(np.where(cart == 1, PROPENSITY, 1 - PROPENSITY))
        risk = arm_risk(
            f32([*cart, 0]),
            f32([1, 1, 1, 1, 0]),
            f32([*np.where(cart == 1, OUTCOME_CARTED, OUTCOME_NOT), 0]),
            f32([*OUTCOME_LOGITS, 9]),
            f32([*propensity, 0.1]),
            estimator,
            CLIP,
            f32([*imputed, 7]),
        )
        total += chance * float(mean(risk))
    return total


def test_ipw_is_unbiased():
    risk = expected_risk("ipw", PROPENSITY, WRONG["imputed"])
    assert risk == pytest.approx(TRUE_ERRORS.mean(), rel=1e-6)


def test_ipw_with_a_wrong_propensity_is_not():
    risk = expected_risk("ipw", WRONG["propensity"], WRONG["imputed"])
    by_hand = (PROPENSITY / WRONG["propensity"] * TRUE_ERRORS).mean()
    assert risk == pytest.approx(by_hand, rel=1e-6)
    assert abs(risk - TRUE_ERRORS.mean()) > 0.05


@pytest.mark.parametrize("arm", [1, 0])
def test_the_overlap_risk_stands_for_the_overlap_population(arm):
    """Expectations of both sums over all 16 assignments; either arm has the same weights."""
    outcomes = OUTCOME_CARTED if arm else OUTCOME_NOT
    sums = np.zeros(2)
    for carts in itertools.product([0, 1], repeat=4):
        cart = np.array(carts)
        chance = np.prod(np.where(cart == 1, PROPENSITY, 1 - PROPENSITY))
        risk = arm_risk(
            f32(cart == arm),
            tf.ones(4),
            f32(np.where(cart == arm, outcomes, 1 - outcomes)),
            f32(OUTCOME_LOGITS),
            f32(PROPENSITY if arm else 1 - PROPENSITY),
            "overlap",
            CLIP,
        )
        sums += chance * np.array([np.sum(risk.weights * risk.losses), np.sum(risk.weights)])
    weights = PROPENSITY * (1 - PROPENSITY)
    errors = cross_entropy(outcomes, sigmoid(OUTCOME_LOGITS))
    np.testing.assert_allclose(sums, [(weights * errors).sum(), weights.sum()], rtol=1e-6)


def test_naive_is_biased():
    assert abs(expected_risk("naive", PROPENSITY, CERTAINLY) - TRUE_ERRORS.mean()) > 0.05


@pytest.mark.parametrize(
    ("propensity", "imputed"),
    [(PROPENSITY, WRONG["imputed"]), (WRONG["propensity"], CERTAINLY), (PROPENSITY, CERTAINLY)],
    ids=["right propensity", "right imputation", "both right"],
)
def test_doubly_robust_is_unbiased_if_either_nuisance_is_right(propensity, imputed):
    assert expected_risk("dr", propensity, imputed) == pytest.approx(TRUE_ERRORS.mean(), rel=1e-5)


def test_doubly_robust_with_both_wrong_is_biased():
    risk = expected_risk("dr", WRONG["propensity"], WRONG["imputed"])
    imputed_errors = cross_entropy(sigmoid(WRONG["imputed"]), sigmoid(OUTCOME_LOGITS))
    gap = (PROPENSITY / WRONG["propensity"] - 1) * (TRUE_ERRORS - imputed_errors)
    assert risk == pytest.approx(TRUE_ERRORS.mean() + gap.mean(), rel=1e-5)
    assert abs(gap.mean()) > 0.05


# 3. Gradient routing

# All combinations of direct, cart and delayed; the first two rows stand for D = 1.
ROUTES = {
    "direct": f32([1, 1, 0, 0, 0, 0]),
    "cart": f32([1, 0, 1, 1, 0, 0]),
    "delayed": f32([0, 0, 1, 0, 1, 0]),
}
IN_ARM = {"1": [0, 0, 1, 1, 0, 0], "0": [0, 0, 0, 0, 1, 1]}


def route(estimator: str, loss: str) -> dict[str, np.ndarray]:
    """Gradient of one loss with respect to every logit."""
    random = np.random.default_rng(4)
    logits = {n: f32(random.normal(0, 1, 6)) for n in ("propensity", *heads_of(estimator))}
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = mean(losses_of(estimator, logits, ROUTES, 0.05)[loss])
    gradients = tape.gradient(value, logits)
    return {n: np.zeros(6) if g is None else g.numpy() for n, g in gradients.items()}


@every_estimator
@pytest.mark.parametrize("arm", ["1", "0"])
def test_an_outcome_risk_moves_its_own_head_alone_where_it_has_an_outcome(estimator, arm):
    gradients = route(estimator, f"r{arm}")
    own = gradients.pop(f"r{arm}")
    # Imputed outcomes are there for all clicks without a direct purchase.
    moved = ROUTES["direct"] == 0 if estimator == "dr" else np.array(IN_ARM[arm]) == 1
    np.testing.assert_array_equal(own != 0, moved)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, np.zeros(6), err_msg=name)


def test_the_gradient_of_the_doubly_robust_risk_is_prediction_minus_pseudo_outcome():
    arm = random_arm()
    imputed = f32(np.random.default_rng(8).normal(0, 1, 30))
    with tf.GradientTape() as tape:
        tape.watch(arm["logits"])
        value = mean(arm_risk(**arm, estimator="dr", imputed=imputed))
    gradient = tape.gradient(value, arm["logits"])
    in_arm, space, delayed, z, q = (
        arm[k].numpy().astype(float)
        for k in ("in_arm", "space", "delayed", "logits", "probability")
    )
    m = sigmoid(imputed)
    expected = space * (sigmoid(z) - (m + in_arm / q * (delayed - m))) / space.sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    ipw = space * in_arm / q * (sigmoid(z) - delayed) / space.sum()
    assert np.abs(expected - ipw).max() > 0.01


@pytest.mark.parametrize("arm", ["1", "0"])
def test_an_imputation_risk_moves_its_own_head_in_its_own_arm_alone(arm):
    gradients = route("dr", f"i{arm}")
    own = gradients.pop(f"i{arm}")
    np.testing.assert_array_equal(own != 0, np.array(IN_ARM[arm]) == 1)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, np.zeros(6), err_msg=name)


@every_estimator
@pytest.mark.parametrize("arm", ["1", "0"])
def test_the_other_arms_outcomes_are_never_read(estimator, arm):
    logits = {name: f32(np.linspace(-1, 1, 6)) for name in ("propensity", "r1", "r0", "i1", "i0")}
    outside = f32(IN_ARM[arm]) == 0
    flipped = tf.where(outside, 1 - ROUTES["delayed"], ROUTES["delayed"])
    for name in (h for h in heads_of(estimator) if h.endswith(arm)):
        risks = [
            mean(losses_of(estimator, logits, ROUTES | {"delayed": d}, 0.05)[name])
            for d in (ROUTES["delayed"], flipped)
        ]
        assert float(risks[0]) == float(risks[1]) != 0


# 4. Extreme logits


@every_estimator
def test_extreme_logits_are_finite(estimator):
    labels = list(itertools.product([0, 1], [0, 1], [0, 1]))
    extreme = list(itertools.product([-1e4, 1e4], repeat=4))
    rows = [(*z, *y) for z in extreme for y in labels]
    propensity, r1, r0, imputed, direct, cart, delayed = f32(rows).numpy().T
    logits = {"propensity": f32(propensity), "r1": f32(r1), "r0": f32(r0)}
    if "i1" in heads_of(estimator):
        logits |= {"i1": f32(imputed), "i0": f32(imputed)}
    names = {"direct": f32(direct), "cart": f32(cart), "delayed": f32(delayed)}
    assert set(tf.sigmoid(logits["propensity"]).numpy()) == {0.0, 1.0}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = losses_of(estimator, logits, names, 0.01)
        total = tf.add_n([mean(risk) for risk in losses.values()])
    assert np.isfinite(total)
    for gradient in tape.gradient(total, logits).values():
        assert gradient is None or np.isfinite(gradient).all()


@every_estimator
@pytest.mark.parametrize("labels", [{"cart": 1.0}, {"cart": 0.0}, {"direct": 1.0}])
def test_an_arm_without_a_click_is_finite(estimator, labels):
    values = {"direct": 0.0, "cart": 1.0, "delayed": 1.0} | labels
    logits = {name: tf.ones(3) for name in ("propensity", "r1", "r0", "i1", "i0")}
    losses = losses_of(estimator, logits, {k: tf.fill([3], v) for k, v in values.items()}, 0.01)
    for risk in losses.values():
        assert np.isfinite(mean(risk))


# The losses of both arms


def test_the_declared_heads():
    assert transition_heads("snipw", 0.25) == [
        Head("r1", "delayed", "carted", 0.25, "snipw"),
        Head("r0", "delayed", "uncarted", 0.25, "snipw"),
    ]
    assert transition_heads("dr", 0.25) == [
        Head("r1", "delayed", "carted", 0.25, "dr"),
        Head("r0", "delayed", "uncarted", 0.25, "dr"),
        Head("i1", "delayed", "carted", 0.25, "naive"),
        Head("i0", "delayed", "uncarted", 0.25, "naive"),
    ]


def test_the_losses_read_the_declaration():
    random = np.random.default_rng(2)
    logits = {n: f32(random.normal(0, 1, 6)) for n in ("propensity", "r1", "direct")}
    labels = ROUTES | {"conversion": ROUTES["direct"]}
    heads = [Head("direct", "direct"), Head("r1", "conversion", "uncarted", 0.4, "naive")]
    losses = transition_losses(heads, logits, labels, 0.05)
    assert set(losses) == {"r1"}
    errors = cross_entropy(labels["conversion"], sigmoid(logits["r1"]))[np.array(IN_ARM["0"]) == 1]
    assert float(mean(losses["r1"])) == pytest.approx(errors.mean(), rel=1e-6)
    assert losses["r1"].weight == 0.4


def test_doubling_a_batch_leaves_every_risk():
    random = np.random.default_rng(7)
    for estimator in ARM_ESTIMATORS:
        logits = {n: f32(random.normal(0, 1, 6)) for n in ("propensity", *heads_of(estimator))}
        z, labels = ({k: tf.tile(v, [2]) for k, v in part.items()} for part in (logits, ROUTES))
        for name, risk in losses_of(estimator, logits, ROUTES, 0.05).items():
            doubled = losses_of(estimator, z, labels, 0.05)[name]
            assert float(mean(doubled)) == pytest.approx(float(mean(risk)), rel=1e-6)


@every_estimator
def test_the_arms_mirror_each_other(estimator):
    random = np.random.default_rng(6)
    z = {name: f32(random.normal(0, 1, 6)) for name in ("propensity", "r1", "r0", "i1", "i0")}
    mirrored = {"propensity": -z["propensity"], "r1": z["r0"], "r0": z["r1"]}
    mirrored |= {"i1": z["i0"], "i0": z["i1"]}
    losses = losses_of(estimator, z, ROUTES, 0.05)
    other = losses_of(estimator, mirrored, ROUTES | {"cart": 1 - ROUTES["cart"]}, 0.05)
    for name in heads_of(estimator):
        opposite = name[0] + {"1": "0", "0": "1"}[name[1]]
        assert float(mean(losses[name])) == pytest.approx(float(mean(other[opposite])), rel=1e-6)
