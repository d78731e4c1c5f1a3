"""Sensitivity bounds: brute force, closed forms, known confounding, and coverage."""

import itertools

import numpy as np
import pytest

from cmdcm.model.bootstrap import UserBootstrap
from cmdcm.model.causal.bounds import hajek_mean, replicated_hajek, replicated_sharp
from cmdcm.model.causal.rows import CausalRows
from cmdcm.model.causal.sensitivity import LARGEST, Sensitivity, smallest_lambda
from cmdcm.model.causal.targeting import targeted
from cmdcm.tests.model.causal.populations import STRATA, population

LAMBDAS = (1.0, 1.3, 2.0, 5.0)


def sensitivity(rows, method="sharp", replicates=10, seed=0):
    boot = UserBootstrap(rows.users, replicates, seed)
    outcomes = {a: r for a, r in targeted(rows, clip=1e-6).outcomes.items() if r is not None}
    return Sensitivity(rows, np.arange(len(rows)), outcomes, 1e-6, method, boot)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_hajek_bounds_are_the_extremes_over_all_weights(lam):
    random = np.random.default_rng(3)
    y, p = random.normal(size=8), random.uniform(0.05, 0.9, 8)
    y[1] = y[2]
    means = []
    for z in itertools.product((1 / lam, lam), repeat=8):
        weight = 1 + np.array(z) * (1 - p) / p
        means.append(np.sum(weight * y) / np.sum(weight))
    lower, upper = hajek_mean(y, p).bounds(lam)
    assert lower == pytest.approx(min(means))
    assert upper == pytest.approx(max(means))


@pytest.mark.parametrize("lam", LAMBDAS)
def test_hajek_bounds_of_a_binary_outcome_in_closed_form(lam):
    rows = population()
    e, delayed = rows.propensity[rows.carted], rows.delayed[rows.carted] > 0
    odds = (1 - e) / e
    yes, no = np.sum(1 + lam * odds[delayed]), np.sum(1 + odds[~delayed] / lam)
    entry = sensitivity(rows, "hajek").entry(lam)["r1"]
    assert entry["upper"] == pytest.approx(yes / (yes + no))
    yes, no = np.sum(1 + odds[delayed] / lam), np.sum(1 + lam * odds[~delayed])
    assert entry["lower"] == pytest.approx(yes / (yes + no))


def worst_rate(r, lam, sign):
    """The extreme of r k over likelihood ratios k, k' in [1/lam, lam] with r k + (1-r) k' = 1."""
    k = np.linspace(1 / lam, lam, 200_001)
    other = (1 - r * k) / (1 - r)
    allowed = (other >= 1 / lam - 1e-9) & (other <= lam + 1e-9)
    return sign * np.max(sign * r * k[allowed])


@pytest.mark.parametrize("lam", LAMBDAS)
def test_sharp_bounds_are_the_extremes_over_balanced_weights(lam):
    entry = sensitivity(population()).entry(lam)
    for name, own in (("r1", lambda s: s.e), ("r0", lambda s: 1 - s.e)):
        for side, sign in (("lower", -1), ("upper", 1)):
            expected = sum(
                s.rows * (own(s) * r + (1 - own(s)) * worst_rate(r, lam, sign))
                for s in STRATA
                for r in [getattr(s, name)]
            ) / sum(s.rows for s in STRATA)
            assert entry[name][side] == pytest.approx(expected, abs=2e-5)
    assert entry["effect"]["lower"] == pytest.approx(entry["r1"]["lower"] - entry["r0"]["upper"])
    assert entry["effect"]["upper"] == pytest.approx(entry["r1"]["upper"] - entry["r0"]["lower"])


@pytest.mark.parametrize("method", ["sharp", "hajek"])
def test_without_confounding_the_bounds_are_the_truth(method):
    entry = sensitivity(population(), method).entry(1.0)
    for name, expected in (("r1", 0.4), ("r0", 0.14), ("effect", 0.26)):
        assert entry[name]["lower"] == pytest.approx(expected)
        assert entry[name]["upper"] == pytest.approx(expected)


def test_sharp_bounds_open_from_the_targeted_average():
    rows = population(r1=[0.5, 0.2, 0.7], propensity=[0.2, 0.3, 0.6])
    entry = sensitivity(rows).entry(1.0)["effect"]
    assert entry["lower"] == pytest.approx(targeted(rows, clip=1e-6).effect.estimate)
    assert entry["upper"] == pytest.approx(entry["lower"])


@pytest.mark.parametrize("lam", LAMBDAS[1:])
@pytest.mark.parametrize("wrong", [{"r1": [0.5, 0.2, 0.7]}, {"r1": [0.01, 0.9, 0.4]}])
def test_wrong_outcomes_cost_width_and_not_validity(lam, wrong):
    right, other = (
        sensitivity(rows).entry(lam)["r1"] for rows in (population(), population(**wrong))
    )
    assert other["lower"] <= right["lower"] + 1e-9
    assert other["upper"] >= right["upper"] - 1e-9


@pytest.mark.parametrize("lam", LAMBDAS[1:])
def test_sharp_bounds_are_narrower(lam):
    sharp, hajek = (sensitivity(population(), method).entry(lam) for method in ("sharp", "hajek"))
    for name in ("r1", "r0", "effect"):
        assert hajek[name]["lower"] < sharp[name]["lower"]
        assert sharp[name]["upper"] < hajek[name]["upper"]


# A world whose hidden confounder is the potential outcome itself: carting has probability .5 where
# L(1) = 1 and .1 where L(1) = 0; e = .26, and the odds ratio of e to .1 is the larger one.
BUY, E = 0.4, 0.4 * 0.5 + 0.6 * 0.1
TRUE_LAMBDA = (E / (1 - E)) / (0.1 / 0.9)


def confounded(bought, carted, users=None):
    """Rows of that world: L is L(1) where carted, and 0 or 1 at random elsewhere."""
    n = len(bought)
    uncarted = np.arange(n) % 2 > 0
    rate = bought[carted].mean()
    return CausalRows(
        users=np.arange(n) if users is None else users,
        carted=carted,
        delayed=np.where(carted, bought, uncarted).astype(float),
        propensity=np.full(n, E),
        r1=np.full(n, rate),
        r0=np.full(n, 0.5),
    )


def test_the_true_lambda_s_sharp_bound_is_reached_by_the_worst_confounder():
    bought = np.arange(1000) < 400
    carted = np.r_[np.arange(400) < 200, np.arange(600) < 60]
    rows = confounded(bought, carted)
    entry = sensitivity(rows).entry(TRUE_LAMBDA)["r1"]
    assert entry["lower"] == pytest.approx(BUY)
    assert sensitivity(rows).entry(0.9 * TRUE_LAMBDA)["r1"]["lower"] > BUY + 0.02
    assert sensitivity(rows, "hajek").entry(TRUE_LAMBDA)["r1"]["lower"] < BUY
    assert sensitivity(rows).entry(1.0)["r1"]["lower"] == pytest.approx(200 / 260)


@pytest.mark.parametrize("method", ["sharp", "hajek"])
def test_intervals_at_the_true_lambda_cover_the_truth(method):
    covered, covered_without = 0, 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        users = np.repeat(np.arange(500), 2)
        bought = random.random(1000) < BUY
        carted = random.random(1000) < np.where(bought, 0.5, 0.1)
        bounds = sensitivity(confounded(bought, carted, users), method, replicates=100, seed=seed)
        interval = bounds.entry(TRUE_LAMBDA)["r1"]
        covered += interval["interval_lower"] <= BUY <= interval["interval_upper"]
        interval = bounds.entry(1.0)["r1"]
        covered_without += interval["interval_lower"] <= BUY <= interval["interval_upper"]
    assert covered >= 90
    assert covered_without == 0


def test_replicates_are_the_bounds_of_the_users_drawn():
    rows = population()
    users = np.arange(len(rows)) % 97
    boot = UserBootstrap(users, replicates=6, seed=2)
    inside, e = rows.carted, rows.propensity
    places = np.flatnonzero(inside)
    lower, upper = replicated_hajek(rows.delayed[inside], e[inside], places, boot).bounds(2.0)
    everyone = np.arange(len(rows))
    sharp = replicated_sharp(rows.delayed, rows.r1, inside, e, everyone, boot).bounds(2.0)
    assert len(lower) == len(sharp[0]) == 7
    counts = boot.sums(np.ones((len(rows), 1)), groups=everyone)[:, 0].astype(int)
    for r in range(6):
        drawn = np.repeat(np.arange(len(rows)), counts[:, r])
        of_arm = drawn[inside[drawn]]
        expected = hajek_mean(rows.delayed[of_arm], e[of_arm]).bounds(2.0)
        assert (lower[1 + r], upper[1 + r]) == pytest.approx(expected)
        odds = (1 - e[drawn]) / e[drawn] * inside[drawn] * (rows.delayed - rows.r1)[drawn]
        others = ~inside[drawn] * rows.r1[drawn]
        # No stratum's r1 is above 1 / (1 + 1 / 2), so the lower bound is r1 / 2 throughout.
        own = (inside * rows.delayed)[drawn]
        assert sharp[0][1 + r] == pytest.approx((own + (others + odds) / 2).mean())


def test_the_lambda_at_which_the_sign_is_lost():
    bounds = sensitivity(population(), replicates=50)
    lost = bounds.sign_lost()
    assert 1 < lost["interval"] < lost["bounds"] < LARGEST
    assert bounds.entry(lost["bounds"])["effect"]["lower"] == pytest.approx(0, abs=1e-4)
    assert bounds.entry(lost["bounds"] * 0.99)["effect"]["lower"] > 0
    assert bounds.entry(lost["interval"])["effect"]["interval_lower"] == pytest.approx(0, abs=1e-4)


def test_a_negative_effect_loses_its_sign_from_above():
    rows = population()
    flipped = CausalRows(
        rows.users, ~rows.carted, rows.delayed, 1 - rows.propensity, rows.r0, rows.r1
    )
    expected = sensitivity(rows).sign_lost()["bounds"]
    assert sensitivity(flipped).entry(1.0)["effect"]["upper"] == pytest.approx(-0.26)
    assert sensitivity(flipped).sign_lost()["bounds"] == pytest.approx(expected, rel=1e-3)


def test_the_smallest_lambda_at_the_ends():
    assert smallest_lambda(lambda lam: True) == 1
    assert smallest_lambda(lambda lam: False) is None
    assert smallest_lambda(lambda lam: lam >= LARGEST) == pytest.approx(LARGEST)
