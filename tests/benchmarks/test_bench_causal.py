"""The causal benchmark's targets: like is compared with like, and seeds are paired."""

import pytest

from cmdcm.benchmarks.bench_causal import _paired, _targets

ENDS = ("", "_lower", "_upper")


def test_a_bias_is_held_against_the_same_kind_of_naive_bias():
    figures = {
        **{f"ignorable.snipw.targeted_{q}_bias{e}": 0.0 for q in ("r1", "tau") for e in ENDS},
        **{f"confounded.snipw.bounds_{q}_covers": 1.0 for q in ("r1", "tau")},
        "weak_overlap.simple_naive.plain_r1_bias": 2.0,
        "weak_overlap.simple_naive.targeted_r1_bias": -0.5,
        "weak_overlap.simple_snipw.plain_r1_bias": 1.5,
        "weak_overlap.simple_snipw.targeted_r1_bias": 0.4,
        "weak_overlap.simple_naive.pehe": 0.2,
        "weak_overlap.simple_snipw.pehe": 0.1,
    }
    targets = _targets(figures, full=True)
    shares = {n: t.value for n, t in targets.items() if n.startswith("misspecified_")}
    assert shares == pytest.approx(
        {
            "misspecified_targeted_bias_to_naive": 0.2,
            "misspecified_plain_bias_to_naive": 0.75,
            "misspecified_targeted_bias_to_targeted_naive": 0.8,
            "misspecified_tau_rmse_to_naive": 0.5,
        }
    )
    assert not targets["misspecified_targeted_bias_to_targeted_naive"].met


def test_the_error_of_single_clicks_is_compared_seed_by_seed():
    errors = {
        ("w", "simple_snipw"): [{"pehe": 0.1}, {"pehe": 0.5}],
        ("w", "simple_naive"): [{"pehe": 0.2}, {"pehe": 0.6}],
        ("other", "snipw"): [{"pehe": 9.0}],
    }
    found = _paired(errors, "w")
    assert set(found) == {f"w.simple_snipw.pehe_less_naive{end}" for end in ENDS}
    assert list(found.values()) == pytest.approx([-0.1] * 3)  # the seeds' own spread is gone
