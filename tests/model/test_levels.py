"""Levels of kinds of promotions: against the posterior, a known truth, and with few positives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from cmdcm.model import levels
from cmdcm.model.levels import kind_levels
from cmdcm.tests.model.reference import sigmoid

KINDS = np.array([0, 1, 2, 0, 1])


def drawn(shifts, rows=20_000, seed=0):
    """Logits around -3, and labels whose log-odds are higher by the promotion's shift."""
    random = np.random.default_rng(seed)
    promotions = random.integers(len(shifts), size=rows)
    logits = random.normal(-3, 1, rows)
    labels = random.random(rows) < sigmoid(logits + np.array(shifts)[promotions])
    return logits, labels.astype(np.float64), promotions, promotions < len(shifts) - 1


def posterior(beta, step, kind, logits, labels, promotions, seen, kinds):
    """Minus the log of the density that the module states, up to a constant."""
    levels_of, own = beta[: len(kinds)], beta[-1]
    of_kind = beta[len(kinds) : -1]
    z = logits + (levels_of + of_kind[kinds])[promotions] + own * seen
    fit = np.sum(np.logaddexp(0, z) - labels * z)
    squares = levels_of[-1] ** 2 + np.sum((np.diff(levels_of) / step) ** 2)
    squares += np.sum((of_kind / kind) ** 2) + (own / 0.1) ** 2
    return fit + squares / 2


@given(
    shifts=st.lists(st.floats(-1, 1), min_size=1, max_size=5),
    rows=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_with_given_deviations_they_are_the_largest_posterior(shifts, rows, seed):
    logits, labels, promotions, seen = drawn(shifts, rows, seed)
    kinds = KINDS[: len(shifts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "DEVIATIONS", (0.4,))
        found = kind_levels(logits, labels, promotions, seen, kinds, 3)
    start, arguments = np.zeros(len(kinds) + 4), (0.4, 0.4, logits, labels, promotions, seen, kinds)
    best = minimize(posterior, start, args=arguments, method="BFGS").x
    expected = best[len(kinds) - 1] + best[len(kinds) : -1]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=3e-3)


def test_the_deviations_are_weighted_by_their_evidence():
    logits, labels, promotions, seen = drawn([0.6, -0.4, 0.1, 0.5, -0.5], rows=600)
    pairs = [(s, k) for s in (0.1, 0.8) for k in (0.1, 0.8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "DEVIATIONS", (0.1, 0.8))
        found = kind_levels(logits, labels, promotions, seen, KINDS, 3)
    each, evidences = [], []
    for step, kind in pairs:
        arguments = (step, kind, logits, labels, promotions, seen, KINDS)
        best = minimize(posterior, np.zeros(9), args=arguments, method="BFGS")
        each.append(best.x[4] + best.x[5:8])
        # Laplace: the density at its top, with the volume under it; by differences.
        curvature = hessian(lambda b, a=arguments: posterior(b, *a), best.x)
        logs = -4 * np.log(step) - 3 * np.log(kind)  # the prior's own constant
        evidences.append(-best.fun + logs - np.linalg.slogdet(curvature)[1] / 2)
    weights = np.exp(np.array(evidences) - max(evidences))
    expected = weights @ np.array(each) / weights.sum()
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.01)


def hessian(function, at, width=1e-3):
    """Second differences, [n, n]."""
    moves = width * np.eye(len(at))
    return np.array(
        [
            [
                function(at + a + b)
                - function(at + a - b)
                - function(at - a + b)
                + function(at - a - b)
                for b in moves
            ]
            for a in moves
        ]
    ) / (4 * width**2)


def test_kinds_are_found_with_many_positives():
    shifts = np.array([0.4, -0.7, 0.0, 0.4, -0.7])
    logits, labels, promotions, seen = drawn(shifts, rows=400_000)
    served = kind_levels(logits, labels, promotions, seen, KINDS, 3)
    assert served == pytest.approx([0.4, -0.7, 0.0], abs=0.12)


def test_a_drift_over_the_years_is_none_of_the_kinds():
    drifting = [0.9, 0.6, 0.3, 0.0, -0.3]
    logits, labels, promotions, seen = drawn(drifting, rows=400_000)
    served = kind_levels(logits, labels, promotions, seen, KINDS, 3)
    # The next promotion goes on from the last one's level, not from that of its kind long ago.
    assert np.abs(served + 0.3).max() < 0.2


def test_what_a_network_has_over_its_own_rows_is_not_served():
    shifts = [0.3, 0.0, 0.0, 0.3, 0.0]
    logits, labels, promotions, seen = drawn(shifts, rows=400_000)
    plain = kind_levels(logits, labels, promotions, seen, KINDS, 3)
    flattered = kind_levels(logits + 0.15 * ~seen - 0.15, labels, promotions, seen, KINDS, 3)
    assert flattered == pytest.approx(plain, abs=0.08)


def test_a_kind_without_positives_is_pulled_to_the_others():
    logits, labels, promotions, seen = drawn([-0.5, -0.5, -0.5], rows=20_000)
    few = (promotions != 1) | (np.arange(len(labels)) < 100)
    labels[promotions == 1] = 0
    rows = (logits[few], labels[few], promotions[few], seen[few])
    first, empty, unknown = kind_levels(*rows, np.array([0, 1, 0]), 3)
    assert first == pytest.approx(-0.5, abs=0.12)
    # By itself it would fall without end. A kind that no row has gets the last level alone.
    assert first - 2 < empty < unknown
    assert empty < first
