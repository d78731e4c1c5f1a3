"""Targeting: double robustness by enumeration, standard errors, folds, and what is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.model.causal import targeting
from cmdcm.model.causal.rows import CausalRows
from cmdcm.model.causal.targeting import (
    POPULATIONS,
    check_held_out,
    expit,
    logit,
    population_weights,
    solve_intercept,
)
from cmdcm.tests.model.causal.populations import population

WRONG_E = {"propensity": [0.3, 0.2, 0.5]}
WRONG_R = {"r1": [0.5, 0.2, 0.7], "r0": [0.3, 0.2, 0.1]}
CLIP = 1e-6


def targeted(*args, **settings):
    return targeting.targeted(*args, **settings)


def truth(rows, of):
    """True averages over a population that the model's own e may define."""
    true = population()
    e = rows.propensity
    weight = {
        "all": np.ones(len(e)),
        "carted": rows.arm("1").astype(float),
        "uncarted": rows.arm("0").astype(float),
        "overlap": e * (1 - e),
    }[of]
    return np.average(true.r1, weights=weight), np.average(true.r0, weights=weight)


@pytest.mark.parametrize("of", POPULATIONS)
@pytest.mark.parametrize("wrong", [{}, WRONG_E, WRONG_R], ids=["nothing", "e", "r"])
def test_either_nuisance_right_is_enough(of, wrong):
    rows = population(**wrong)
    result = targeted(rows, of, clip=CLIP)
    r1, r0 = truth(rows, of)
    assert result.r1.estimate == pytest.approx(r1, abs=1e-9)
    assert result.r0.estimate == pytest.approx(r0, abs=1e-9)
    assert result.effect.estimate == pytest.approx(r1 - r0, abs=1e-9)
    if wrong is WRONG_R:
        assert abs(result.effect.plug_in - (r1 - r0)) > 0.03


@pytest.mark.parametrize("of", POPULATIONS)
def test_both_wrong_is_biased(of):
    rows = population(**WRONG_E, **WRONG_R)
    r1, r0 = truth(rows, of)
    assert abs(targeted(rows, of, clip=CLIP).effect.estimate - (r1 - r0)) > 0.01


def test_the_average_over_the_carted_needs_no_model_for_what_happened():
    rows = population(**WRONG_E, **WRONG_R)
    observed = rows.delayed[rows.carted].mean()
    assert targeted(rows, "carted", clip=CLIP).r1.estimate == pytest.approx(observed)
    observed = rows.delayed[~rows.carted].mean()
    assert targeted(rows, "uncarted", clip=CLIP).r0.estimate == pytest.approx(observed)


def test_where_the_clip_binds_the_outcome_alone_is_trusted():
    r1, r0 = truth(population(), "all")
    right = targeted(population(), "all", clip=0.45)
    assert right.effect.estimate == pytest.approx(r1 - r0, abs=1e-9)
    wrong = targeted(population(**WRONG_R), "all", clip=0.45)
    assert abs(wrong.effect.estimate - (r1 - r0)) > 0.01


def test_weights_by_hand():
    rows = CausalRows(
        users=np.arange(4),
        carted=np.array([True, True, False, False]),
        delayed=np.zeros(4),
        propensity=np.array([0.02, 0.5, 0.2, 0.99]),
        r1=np.zeros(4),
        r0=np.zeros(4),
    )
    expected = {
        "all": ([1, 1, 1, 1], [10, 2, 0, 0], [0, 0, 1.25, 10]),
        "carted": ([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0.25, 9.9]),
        "uncarted": ([0, 0, 1, 1], [9.8, 1, 0, 0], [0, 0, 1, 1]),
        "overlap": ([0.0196, 0.25, 0.16, 0.0099], [0.98, 0.5, 0, 0], [0, 0, 0.2, 0.99]),
    }
    for of in POPULATIONS:
        target, weights = population_weights(rows, of, clip=0.1)
        assert target == pytest.approx(expected[of][0])
        assert weights["1"] == pytest.approx(expected[of][1])
        assert weights["0"] == pytest.approx(expected[of][2])


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(-60, 60), st.floats(0.01, 1e3)), min_size=2, max_size=20
    )
)
def test_the_intercept_solves_its_equation(rows):
    y, z, w = (np.array(column, float) for column in zip(*rows, strict=True))
    eps = solve_intercept(y, z, w)
    if 0 < y.sum() < len(y):
        assert eps is not None
        below, above = (np.sum(w * (y - expit(z + eps + step))) for step in (-1e-6, 1e-6))
        assert below >= -1e-9 * w.sum() and above <= 1e-9 * w.sum()
    else:
        assert eps is None


def test_logits_of_rounded_probabilities_are_finite():
    p = np.array([0.0, 1e-30, 0.5, 1.0])
    assert np.isfinite(logit(p)).all()
    assert expit(logit(p)) == pytest.approx(p, abs=1e-7)
    assert expit(np.array([-1e4, 1e4])).tolist() == [0, 1]


def randomised(rows=400, seed=0, repeats=1):
    """Carting by a fair coin and constant predictions: targeted averages are the arms' means."""
    random = np.random.default_rng(seed)
    carted = random.random(rows) < 0.5
    delayed = random.random(rows) < np.where(carted, 0.4, 0.2)
    constant = np.full(rows, 0.3)
    columns = (carted, delayed.astype(float), np.full(rows, 0.5), constant, constant)
    return CausalRows(
        np.repeat(np.arange(rows), repeats), *(np.repeat(column, repeats) for column in columns)
    )


def test_the_standard_error_is_that_of_two_means():
    rows = randomised()
    result = targeted(rows, "all", clip=CLIP)
    variance = 0.0
    for arm, estimate in (("1", result.r1), ("0", result.r0)):
        labels = rows.delayed[rows.arm(arm)]
        assert estimate.estimate == pytest.approx(labels.mean())
        variance += labels.var() / len(labels)
        error = np.sqrt(labels.var() / len(labels) * 400 / 399)
        assert estimate.standard_error == pytest.approx(error)
    assert result.effect.standard_error == pytest.approx(np.sqrt(variance * 400 / 399))
    half = 1.959964 * result.effect.standard_error
    assert result.effect.upper == pytest.approx(result.effect.estimate + half)
    assert result.effect.lower == pytest.approx(result.effect.estimate - half)
    assert result.effect.p_value < 0.001


def test_rows_of_one_user_are_one_observation():
    once = targeted(randomised(), clip=CLIP).effect
    twice = targeted(randomised(repeats=2), clip=CLIP).effect
    assert twice.standard_error == pytest.approx(once.standard_error)
    strangers = dataclasses.replace(randomised(repeats=2), users=np.arange(800))
    apart = targeted(strangers, clip=CLIP).effect
    assert apart.standard_error == pytest.approx(once.standard_error / np.sqrt(2), rel=0.01)


def test_intervals_cover_with_misspecified_outcomes():
    covered, errors, estimates = 0, [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        user = np.repeat(np.arange(300), 2)
        x = random.random(300)[user]
        carted = random.random(600) < 0.2 + 0.5 * x
        delayed = random.random(600) < np.where(carted, 0.2 + 0.4 * x, 0.1 + 0.2 * x)
        rows = CausalRows(
            user, carted, delayed.astype(float), 0.2 + 0.5 * x, np.full(600, 0.7), 0.5 * x
        )
        effect = targeted(rows, clip=CLIP).effect
        covered += effect.lower <= 0.1 + 0.2 * 0.5 <= effect.upper
        errors.append(effect.standard_error)
        estimates.append(effect.estimate)
    assert 182 <= covered <= 198
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.15)


def test_cross_fitting_takes_a_user_s_intercept_from_other_users():
    rows = randomised()
    before = targeted(rows, clip=CLIP, folds=4)
    flipped = rows.delayed.copy()
    flipped[7] = 1 - flipped[7]
    after = targeted(dataclasses.replace(rows, delayed=flipped), clip=CLIP, folds=4)
    arm = "1" if rows.carted[7] else "0"
    changed = before.outcomes[arm] != after.outcomes[arm]
    assert not changed[7]
    assert 0.6 < changed.mean() < 0.9
    single = targeted(rows, clip=CLIP)
    assert before.effect.estimate == pytest.approx(single.effect.estimate, abs=0.01)
    assert len(np.unique(before.outcomes["1"])) == 4 and len(np.unique(single.outcomes["1"])) == 1


def test_an_arm_of_one_outcome_has_no_average():
    rows = randomised()
    result = targeted(dataclasses.replace(rows, delayed=rows.delayed * rows.carted), clip=CLIP)
    assert result.outcomes["0"] is None
    assert result.r0.estimate is None and result.r0.plug_in == pytest.approx(0.3)
    assert result.effect.estimate is None and result.effect.p_value is None
    assert result.r1.estimate is not None
    empty = targeted(rows[np.zeros(400, bool)], clip=CLIP)
    assert empty.r1.estimate is None and empty.r1.plug_in is None


def test_targeting_on_training_days_is_refused():
    check_held_out(["2024-11-09"], ["2024-11-01"], "m")
    with pytest.raises(DataError, match=r"'m' on 2024-11-02 and 1 more days .*near zero by trai"):
        check_held_out(["2024-11-02", "2024-11-03"], ["2024-11-03", "2024-11-02"], "m")


def test_columns_that_cannot_be_rows_are_refused():
    with pytest.raises(DataError, match="one length"):
        dataclasses.replace(randomised(), delayed=np.zeros(3))
    with pytest.raises(DataError, match="propensity should lie in"):
        dataclasses.replace(randomised(), propensity=np.full(400, 1.5))
