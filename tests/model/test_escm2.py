"""The risks of ESCM2 in the paper's own setting: o is the click, q the propensity, delta a BCE."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.heads import Head, HeadLoss
from cmdcm.model.losses import weighted_mean
from cmdcm.model.transition import arm_risk, imputation_risk, transition_heads, transition_losses
from cmdcm.tests.model.reference import cross_entropy, logit, sigmoid

RANDOM = np.random.default_rng(11)
N = 12
CLICK, BOUGHT = RANDOM.integers(0, 2, [2, N])
PCVR, ERRORS = RANDOM.normal(0, 2, [2, N])
Q = RANDOM.uniform(0.2, 0.9, N)
DELTA = cross_entropy(BOUGHT, sigmoid(PCVR))
CLIP = 1e-6
both_risks = pytest.mark.parametrize("estimator", ["ipw", "dr_error"])


def f32(values: object) -> tf.Tensor:
    return tf.constant(np.asarray(values, np.float32))


def mean(risk: HeadLoss) -> tf.Tensor:
    return weighted_mean(risk.losses, risk.weights, risk.base)


def risk(estimator: str, o=CLICK, q=Q, imputed=ERRORS, pcvr=PCVR) -> float:
    """Over all impressions; what did not get a click was not bought."""
    data = (f32(o), tf.ones(N), f32(BOUGHT * o), f32(pcvr), f32(q))
    return float(mean(arm_risk(*data, estimator, CLIP, f32(imputed))))


@both_risks
def test_clicks_alone_with_a_sure_propensity_are_the_cross_entropy(estimator):
    found = risk(estimator, o=np.ones(N), q=np.ones(N))
    assert found == pytest.approx(DELTA.mean(), rel=1e-5)


def test_without_an_imputation_the_doubly_robust_risk_is_that_of_propensities():
    assert risk("dr_error", imputed=np.zeros(N)) == pytest.approx(risk("ipw"), rel=1e-5)
    assert risk("ipw") == pytest.approx((CLICK * DELTA / Q).mean(), rel=1e-5)


@pytest.mark.parametrize("q", [0.05, 0.5, 1.0])
def test_a_right_imputation_makes_the_propensity_irrelevant(q):
    of_clicks = cross_entropy(BOUGHT * CLICK, sigmoid(PCVR))
    found = risk("dr_error", q=np.full(N, q), imputed=of_clicks)
    assert found == pytest.approx(of_clicks.mean(), rel=1e-5)


def expected_risk(estimator: str, assumed: np.ndarray, imputed: np.ndarray) -> float:
    """Over all clicks of five impressions, each with its probability under Q."""
    total = 0.0
    for clicks in itertools.product([0, 1], repeat=5):
        o = np.array(clicks)
        chance = np.prod(np.where(o == 1, Q[:5], 1 - Q[:5]))
        data = (f32(o), tf.ones(5), f32(BOUGHT[:5] * o), f32(PCVR[:5]), f32(assumed))
        total += chance * float(mean(arm_risk(*data, estimator, CLIP, f32(imputed))))
    return total


@both_risks
@pytest.mark.parametrize("seed", [0, 1])
def test_right_propensities_are_unbiased_for_any_imputation(estimator, seed):
    imputed = np.random.default_rng(seed).normal(0, 3, 5)
    found = expected_risk(estimator, Q[:5], imputed)
    assert found == pytest.approx(DELTA[:5].mean(), rel=1e-5)


def test_with_both_wrong_the_bias_is_the_product_of_the_errors():
    imputed, assumed = DELTA[:5] + 1, Q[:5] / 2
    found = expected_risk("dr_error", assumed, imputed)
    # dh + 2 (delta - dh) with dh = delta + 1.
    assert found == pytest.approx(DELTA[:5].mean() - 1, rel=1e-4)


def gradients(loss: str) -> dict[str, np.ndarray]:
    heads = transition_heads("dr_error", 1.0)
    logits = {n: f32(RANDOM.normal(0, 1, N)) for n in ("propensity", "r1", "r0", "i1", "i0")}
    labels = {"direct": tf.zeros(N), "cart": f32(CLICK), "delayed": f32(BOUGHT)}
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = mean(transition_losses(heads, logits, labels, 0.05)[loss])
    found = tape.gradient(value, logits)
    return {n: np.zeros(N) if g is None else g.numpy() for n, g in found.items()}


@pytest.mark.parametrize("loss", ["r1", "r0", "i1", "i0"])
def test_a_risk_moves_its_own_head_alone(loss):
    found = gradients(loss)
    own = found.pop(loss)
    in_arm = CLICK == 1 if loss.endswith("1") else CLICK == 0
    np.testing.assert_array_equal(own != 0, in_arm)
    for name, gradient in found.items():
        np.testing.assert_array_equal(gradient, np.zeros(N), err_msg=name)


def test_the_imputation_is_weighted_squares_over_all_impressions():
    data = (f32(CLICK), tf.ones(N), f32(BOUGHT), f32(PCVR), f32(Q))
    found = float(mean(imputation_risk(*data, 0.3, f32(ERRORS))))
    expected = (CLICK * (DELTA - ERRORS) ** 2 / np.maximum(Q, 0.3)).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_imputation_learns_the_mean_error_of_all_and_not_of_clicks():
    """Two kinds of impressions, one error each, with unlike propensities; one output for all."""
    o = np.repeat([1, 0, 1, 0], [10, 30, 30, 10])
    q = np.repeat([0.25, 0.75], 40)
    pcvr = f32(np.repeat([-2.0, 1.0], 40))
    errors = cross_entropy(1, sigmoid(np.repeat([-2.0, 1.0], 40)))
    output = tf.Variable(0.0)
    data = (f32(o), tf.ones(80), tf.ones(80), pcvr, f32(q))
    with tf.GradientTape() as tape:
        value = mean(imputation_risk(*data, CLIP, tf.fill([80], output)))
    # A parabola: the minimum lies half a gradient away, over the sum of the weights.
    minimum = -float(tape.gradient(value, output)) / 2 / float((o / q).mean())
    assert minimum == pytest.approx(errors.mean(), rel=1e-5)
    assert abs(errors[o == 1].mean() - errors.mean()) > 0.2


def test_a_fresh_imputation_expects_the_entropy():
    labels = {"direct": tf.zeros(8), "cart": tf.ones(8), "delayed": f32([1, 0, 0, 0, 0, 0, 0, 0])}
    head = Head("i1", "delayed", "carted", estimator="imputed_error")
    p = 2 / 10
    assert float(head.first_bias(labels)) == pytest.approx(float(cross_entropy(p, p)), rel=1e-5)
    outcome = Head("r1", "delayed", "carted", estimator="dr_error")
    assert float(outcome.first_bias(labels)) == pytest.approx(float(logit(p)), rel=1e-5)


def test_the_declared_heads():
    assert transition_heads("dr_error", 0.25)[2:] == [
        Head("i1", "delayed", "carted", 0.25, "imputed_error"),
        Head("i0", "delayed", "uncarted", 0.25, "imputed_error"),
    ]
    heads = transition_heads("entire_space", 1.0)
    assert [(h.name, h.estimator) for h in heads] == [
        ("r1", "entire_space"),
        ("r0", "entire_space"),
    ]
