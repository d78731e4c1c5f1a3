"""Comparison of two data sets: what triggers each anomaly, and the near miss that does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.drift import compare, not_compared
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.tests.features.validation_data import SPEC, codes, collector, sound, views


def compared(base, checked, source="against", **settings):
    config, anomalies = collector(**{"min_count": 1, **settings})
    distances = compare(views(base), views(checked), SPEC, source, config, anomalies)
    return codes(anomalies), distances


@given(st.integers(0, 99), st.integers(1, 60), st.sampled_from(["against", "requests"]))
def test_a_data_set_does_not_drift_from_itself(seed, rows, source):
    found, distances = compared(sound(rows, seed), sound(rows, seed), source)
    assert found == set()
    assert {distance.value for distance in distances} <= {0.0, None}
    assert len(distances) == 8


def test_feature_missing_and_new():
    found, _ = compared(sound(), sound(price=None), min_count=1000)
    assert found == {("feature_missing", "price")}
    found, _ = compared(sound(direct=[None] * 100), sound(), min_count=1000)
    assert found == {("feature_new", "direct")}


def test_type():
    other = FeatureSpec(
        features=tuple(
            Feature(name="price", dtype="int64", side="item") if f.name == "price" else f
            for f in SPEC.features
        )
    )
    config, anomalies = collector()
    base = sound()
    base = base.set_column(base.column_names.index("price"), "price", [list(range(100))])
    compare(views(base, other), views(sound()), SPEC, "against", config, anomalies)
    assert codes(anomalies) == {("type", "price")}


def test_null_rate_change():
    base = sound(price=[1.0] * 100)
    settings = {"max_js_drift": 1.0}
    assert compared(base, sound(price=[None] * 10 + [1.0] * 90), **settings)[0] == set()
    for pair in ((base, sound(price=[None] * 11 + [1.0] * 89)),):
        assert compared(*pair, **settings)[0] == {("null_rate_change", "price")}
        assert compared(*pair[::-1], **settings)[0] == {("null_rate_change", "price")}


def test_coverage_change():
    base = sound(kind=["a"] * 100)
    assert compared(base, sound(kind=["a"] * 95 + ["c"] * 5))[0] == set()
    found, _ = compared(base, sound(kind=["a"] * 94 + ["c"] * 6))
    assert found == {("coverage_change", "kind")}


def test_top_values_change():
    # Twenty frequent values, and a rare one that is not among them.
    base = [f"v{i:02}" for i in range(20)] * 10 + ["x"]
    bounds = {"max_linf_drift": 1.0}
    near = base[:160] + ["x"] * 40
    assert compared(sound(201, kind=base), sound(200, kind=near), **bounds)[0] == set()
    far = base[:158] + ["x"] * 42
    found, _ = compared(sound(201, kind=base), sound(200, kind=far), **bounds)
    assert found == {("top_values_change", "kind")}


@pytest.mark.parametrize(
    ("source", "code", "setting"),
    [
        ("against", "linf_drift", "max_linf_drift"),
        ("requests", "linf_skew", "max_linf_skew"),
    ],
)
def test_l_infinity(source, code, setting):
    base = sound(kind=["a"] * 50 + ["b"] * 50)
    assert compared(base, sound(kind=["a"] * 60 + ["b"] * 40), source)[0] == set()
    moved = sound(kind=["a"] * 61 + ["b"] * 39)
    found, distances = compared(base, moved, source)
    assert found == {(code, "kind")}
    assert distances[0].value == pytest.approx(0.11)
    assert (distances[0].pair.name, distances[0].bound) == ("kind", 0.1)
    assert compared(base, moved, source, **{setting: 0.2})[0] == set()


@pytest.mark.parametrize(
    ("source", "code", "setting"),
    [("against", "js_drift", "max_js_drift"), ("requests", "js_skew", "max_js_skew")],
)
def test_jensen_shannon(source, code, setting):
    # p = (1/2, 1/2), q = (x, 1 - x): the divergence is 0.0488 at x = 0.75, 0.1361 at x = 0.9.
    base = sound(price=[1.0] * 50 + [2.0] * 50)
    assert compared(base, sound(price=[1.0] * 75 + [2.0] * 25), source)[0] == set()
    moved = sound(price=[1.0] * 90 + [2.0] * 10)
    found, distances = compared(base, moved, source)
    assert found == {(code, "price")}
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    m = (p + q) / 2
    expected = (np.sum(p * np.log2(p / m)) + np.sum(q * np.log2(q / m))) / 2
    assert distances[0].value == pytest.approx(expected)
    assert compared(base, moved, source, **{setting: 0.2})[0] == set()


def test_one_component_alone_can_drift():
    base = sound(counts=[[1, 2]] * 100)
    found, _ = compared(base, sound(counts=[[1, 0]] * 100))
    assert found == {("js_drift", "counts[cart]")}
    assert compared(base, sound(counts=[[1, 0]] * 100), exclude=("counts",))[0] == set()
    excluded = {"exclude": ("js_drift:counts[cart]",)}
    assert compared(base, sound(counts=[[1, 0]] * 100), **excluded)[0] == set()


def test_lengths_can_drift():
    found, _ = compared(sound(ages=[[7]] * 100), sound(ages=[[7, 7]] * 100))
    assert found == {("js_drift", "ages[length]")}


def test_labels_and_times_are_not_compared_by_their_distribution():
    other = sound(direct=[0] * 100, delayed_known_ms=[5] * 100)
    assert compared(sound(direct=[1] * 100), other)[0] == set()


def test_few_values_are_not_compared():
    base, moved = sound(kind=["a"] * 100), sound(99, kind=["b"] * 99)
    found, distances = compared(base, moved, min_count=99)
    assert ("linf_drift", "kind") in found
    assert "kind" not in not_compared(distances)
    found, distances = compared(base, moved, min_count=100)
    assert ("linf_drift", "kind") not in found
    assert "kind" in not_compared(distances)


def test_the_greatest_excess_comes_first():
    base = sound(kind=["a"] * 100, price=[1.0] * 100)
    moved = sound(kind=["b"] * 100, price=[1.0] * 50 + [2.0] * 50)
    _, distances = compared(base, moved)
    excess = [d.value - d.bound for d in distances if d.value is not None]
    assert excess == sorted(excess, reverse=True)
    assert distances[0].pair.name == "kind"
