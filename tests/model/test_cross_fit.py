"""Cross-fitted nuisances of the doubly robust risk: whose they are, and who trains them."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from cmdcm.core.config import ModelConfig
from cmdcm.model.heads import Head
from cmdcm.model.losses import weighted_mean
from cmdcm.model.transition import transition_heads, transition_losses
from cmdcm.tests.model.batches import random_batch, rows_of, tiny_model, tiny_spec
from cmdcm.tests.model.reference import cross_entropy, logit, sigmoid

CLIP = 1e-6
NUISANCES = ("propensity", "i1", "i0")
HEADS = transition_heads("dr", 0.3, 2)


def f32(values: object) -> tf.Tensor:
    return tf.constant(np.asarray(values, np.float32))


def mean(risk):
    return weighted_mean(risk.losses, risk.weights, risk.base)


def test_a_fold_has_nuisances_of_its_own_that_leave_it_out():
    assert [
        Head("r1", "delayed", "carted", 0.3, "dr"),
        Head("r0", "delayed", "uncarted", 0.3, "dr"),
        Head("propensity_0", "cart", "not_direct", 0.15, "bce", 0),
        Head("i1_0", "delayed", "carted", 0.15, "naive", 0),
        Head("i0_0", "delayed", "uncarted", 0.15, "naive", 0),
        Head("propensity_1", "cart", "not_direct", 0.15, "bce", 1),
        Head("i1_1", "delayed", "carted", 0.15, "naive", 1),
        Head("i0_1", "delayed", "uncarted", 0.15, "naive", 1),
    ] == HEADS


def test_one_fold_is_no_cross_fitting():
    assert transition_heads("dr", 0.3, 1) == transition_heads("dr", 0.3)
    assert [head.name for head in transition_heads("dr", 0.3)] == ["r1", "r0", "i1", "i0"]


@pytest.mark.parametrize("estimator", ["naive", "ipw", "snipw", "overlap"])
def test_only_the_doubly_robust_estimator_cross_fits(estimator):
    with pytest.raises(ValidationError, match="cross_fit_folds = 3 needs estimator = 'dr'"):
        ModelConfig(estimator=estimator, cross_fit_folds=3)


# All combinations of fold, direct, cart and delayed
ROWS = np.array(list(itertools.product([0, 1], repeat=4)), np.float32)
LABELS = {n: f32(ROWS[:, i]) for i, n in enumerate(("fold", "direct", "cart", "delayed"))}


def random_logits() -> dict[str, tf.Tensor]:
    random = np.random.default_rng(2)
    names = [*(head.name for head in HEADS), "propensity", "direct"]
    return {name: f32(random.normal(0, 1.5, len(ROWS))) for name in names}


@pytest.mark.parametrize(("arm", "in_arm"), [("1", 1), ("0", 0)])
def test_each_click_meets_the_nuisances_of_its_fold(arm, in_arm):
    logits = random_logits()
    fold, direct, cart, delayed = ROWS.T.astype(int)
    value = total = 0.0
    for n in range(len(ROWS)):
        if direct[n]:
            continue
        e = float(sigmoid(logits[f"propensity_{fold[n]}"][n]))
        m = float(sigmoid(logits[f"i{arm}_{fold[n]}"][n]))
        r = float(sigmoid(logits[f"r{arm}"][n]))
        w = (cart[n] == in_arm) / (e if in_arm else 1 - e)
        value += float(cross_entropy(m, r)) * (1 - w) + w * float(cross_entropy(delayed[n], r))
        total += 1
    risk = transition_losses(HEADS, logits, LABELS, CLIP)[f"r{arm}"]
    assert float(mean(risk)) == pytest.approx(value / total, rel=1e-5)


def gradients(name: str) -> dict[str, np.ndarray]:
    """Gradient of one loss with respect to every logit."""
    logits = random_logits()
    with tf.GradientTape() as tape:
        tape.watch(logits)
        head = next(head for head in HEADS if head.name == name)
        loss = (
            head.cross_entropy(LABELS, logits[name])
            if head.estimator == "bce"
            else transition_losses(HEADS, logits, LABELS, CLIP)[name]
        )
        value = mean(loss)
    found = tape.gradient(value, logits)
    return {n: np.zeros(len(ROWS)) if g is None else g.numpy() for n, g in found.items()}


@pytest.mark.parametrize("name", [head.name for head in HEADS])
def test_a_nuisance_learns_from_other_folds_alone_and_moves_nothing_else(name):
    found = gradients(name)
    fold, direct, cart, _ = ROWS.T
    learns = {
        "r1": direct == 0,
        "r0": direct == 0,
        "propensity": direct == 0,
        "i1": (direct == 0) & (cart == 1),
        "i0": (direct == 0) & (cart == 0),
    }[name.partition("_")[0]]
    if "_" in name:
        learns &= fold != float(name[-1])
    np.testing.assert_array_equal(found.pop(name) != 0, learns)
    for other, gradient in found.items():
        np.testing.assert_array_equal(gradient, np.zeros(len(ROWS)), err_msg=other)


# Four clicks, two in each fold; every assignment of carts with its probability.
FOLD = np.array([0, 0, 1, 1])
PROPENSITY = np.array([0.2, 0.5, 0.7, 0.9])
OUTCOMES = np.array([1, 0, 1, 1])
LOGITS = np.array([0.3, -1.2, 2.0, -0.7])
WRONG_PROPENSITY = np.array([0.6, 0.3, 0.5, 0.4])
SURE = 50.0 * (2 * OUTCOMES - 1)
WRONG_OUTCOMES = np.array([-2.0, -0.5, 0.5, -3.0])


def expected_risk(right: dict[int, str]) -> float:
    """Expectation of r1's risk; in fold k only the nuisance `right[k]` is right.

    The nuisances that leave the other fold out are nonsense: they must not be read.
    """
    total = 0.0
    for carts in itertools.product([0, 1], repeat=4):
        chance = np.prod(np.where(np.array(carts) == 1, PROPENSITY, 1 - PROPENSITY))
        logits = {"r1": f32(LOGITS), "r0": f32(LOGITS), "propensity": f32([9, 9, 9, 9])}
        for k, nuisance in right.items():
            e = PROPENSITY if nuisance == "propensity" else WRONG_PROPENSITY
            m = SURE if nuisance == "outcome" else WRONG_OUTCOMES
            mine = k == FOLD
            logits[f"propensity_{k}"] = f32(np.where(mine, logit(e), 3.0))
            logits[f"i1_{k}"] = logits[f"i0_{k}"] = f32(np.where(mine, m, 7.0))
        labels = {
            "fold": f32(FOLD),
            "direct": tf.zeros(4),
            "cart": f32(carts),
            "delayed": f32(np.where(np.array(carts) == 1, OUTCOMES, 1 - OUTCOMES)),
        }
        total += chance * float(mean(transition_losses(HEADS, logits, labels, CLIP)["r1"]))
    return total


TRUE = cross_entropy(OUTCOMES, sigmoid(LOGITS)).mean()


@pytest.mark.parametrize("first", ["propensity", "outcome"])
@pytest.mark.parametrize("second", ["propensity", "outcome"])
def test_in_each_fold_either_right_nuisance_is_enough(first, second):
    assert expected_risk({0: first, 1: second}) == pytest.approx(TRUE, rel=1e-5)


def test_a_fold_with_both_nuisances_wrong_is_biased():
    assert abs(expected_risk({0: "propensity", 1: "neither"}) - TRUE) > 0.05


def test_extreme_logits_are_finite():
    rows = list(itertools.product([-1e4, 1e4], repeat=3))
    labels = {n: f32(np.repeat(v.numpy(), len(rows))) for n, v in LABELS.items()}
    e, r, i = f32(rows * len(ROWS)).numpy().T
    logits = {"propensity": f32(e), "r1": f32(r), "r0": f32(-r)}
    logits |= {f"{n}_{k}": f32(e if n == "propensity" else i) for n in NUISANCES for k in (0, 1)}
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.add_n([mean(x) for x in transition_losses(HEADS, logits, labels, 0.01).values()])
    assert np.isfinite(total)
    for gradient in tape.gradient(total, logits).values():
        assert gradient is None or np.isfinite(gradient).all()


@pytest.mark.parametrize("strings", [(), ("user_id",)])
def test_a_user_stays_in_one_fold(strings):
    spec = tiny_spec(string_ids=strings)
    model = tiny_model(spec, estimator="dr", cross_fit_folds=3)
    batch = random_batch(spec, 60)
    folds = model.labels(batch)["fold"].numpy()
    assert set(folds) == {0, 1, 2}
    np.testing.assert_array_equal(model.labels(rows_of(batch, 20, 40))["fold"], folds[20:40])
    assert "fold" not in tiny_model(spec, estimator="dr").labels(batch)
