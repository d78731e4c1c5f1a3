"""Labels that are not known yet, and changes of prevalence."""

import numpy as np
import pyarrow as pa
import pytest

from cmdcm.features.maturity import check_maturity, check_prevalences, known, prevalences
from cmdcm.tests.features.validation_data import codes, collector, sound


def immature(table: pa.Table, **settings: float) -> tuple[dict[str, float], set]:
    config, anomalies = collector(**settings)
    return check_maturity(table, config, anomalies), codes(anomalies)


def test_maturity_is_the_share_of_rows_observed_too_early():
    # direct is known at 9, delayed at 10
    shares, found = immature(sound(6, observation_time_ms=[8, 9, 9, 10, 10, 11]))
    assert shares == {"direct": pytest.approx(1 / 6), "delayed": pytest.approx(3 / 6)}
    assert found == {("immature_direct", "direct"), ("immature_delayed", "delayed")}
    assert immature(sound(0)) == ({"direct": 0, "delayed": 0}, set())


def test_which_labels_are_known_when():
    table = sound(3, observation_time_ms=[8, 9, 10])
    for label in ("direct", "cart", "micro"):
        assert known(table, label).tolist() == [False, True, True]
    later = table.append_column("refunded_known_ms", pa.array([8, 10, 10]))
    assert known(later, "refunded").tolist() == [True, False, True]
    for label in ("open_cart", "delayed", "conversion"):
        assert known(table, label).tolist() == [False, False, True]
    assert known(sound(3, observation_time_ms=None), "direct").all()


@pytest.mark.parametrize(("label", "known_at"), [("direct", 9), ("delayed", 10)])
def test_bounds_of_maturity(label, known_at):
    def found(early: int, bound: float) -> set[tuple[str, str]]:
        observed = np.where(np.arange(100) < early, known_at - 1, 10)
        bounds = {"max_immature_direct": 1.0, "max_immature_delayed": 1.0}
        bounds[f"max_immature_{label}"] = bound
        return immature(sound(100, observation_time_ms=observed), **bounds)[1]

    assert found(0, 0.0) == set()
    assert found(1, 0.0) == {(f"immature_{label}", label)}
    assert found(5, 0.05) == set()
    assert found(6, 0.05) == {(f"immature_{label}", label)}


def days(*entries: tuple[int, int]) -> dict[str, dict[str, int]]:
    return {str(i): {"rows": rows, "direct": n} for i, (rows, n) in enumerate(entries)}


def test_prevalences_are_sums_over_days():
    assert prevalences(days((100, 3), (50, 9))) == {"direct": (12, 150)}
    assert prevalences({}) == {}


@pytest.mark.parametrize("code", ["prevalence_change", "split_prevalence_change"])
def test_prevalence_change(code):
    def found(first: tuple[int, int], second: tuple[int, int], **settings: float):
        config, anomalies = collector(**settings)
        parts = [("one", prevalences(days(first))), ("two", prevalences(days(second)))]
        check_prevalences(parts, code, config, anomalies)
        return [(a.code, a.feature, a.value) for a in anomalies.found]

    assert found((1000, 100), (500, 100)) == []
    assert found((1000, 100), (500, 101)) == [(code, "direct", pytest.approx(2.02))]
    assert found((500, 101), (1000, 100)) == [(code, "direct", pytest.approx(2.02))]
    assert found((1000, 100), (1000, 0)) == [(code, "direct", None)]
    # Too few positives to tell, but many where many were to be expected do tell.
    assert found((1000, 10), (1000, 49)) == []
    assert found((1000, 10), (1000, 50)) == [(code, "direct", pytest.approx(5))]
    assert found((100, 1), (100_000, 9000)) == []
    assert found((1000, 100), (500, 101), max_prevalence_ratio=2.1) == []
