"""Covariate balance against plain NumPy on all rows at once."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.causal.balance import Balance

CLIP = 0.05
SPEC = FeatureSpec(
    features=(
        Feature(name="age", dtype="float32", side="user", encoding="raw"),
        Feature(
            name="counts",
            dtype="int64",
            side="user",
            shape="vector",
            length=2,
            encoding="log1p",
            components=("clicks", "carts"),
        ),
        Feature(name="same", dtype="float32", side="item", encoding="raw"),
        Feature(name="ages", dtype="int64", side="user", shape="sequence", encoding="age"),
        Feature(name="item", dtype="int64", side="item", encoding="hash", buckets=9, table="i"),
        Feature(name="delayed", dtype="int64", side="label"),
    )
)


def sample(rows=3_000, seed=0):
    random = np.random.default_rng(seed)
    # Far from zero, so that uncentred squares would cancel.
    age = random.normal(0, 1, rows)
    propensity = 1 / (1 + np.exp(1.5 - age))
    batch = {
        "age": (30_000 + age).astype(np.float32),
        "counts": random.poisson(np.stack([np.exp(age), np.ones(rows)], 1)),
        "same": np.full(rows, 7, np.float32),
        "direct": (random.random(rows) < 0.1).astype(np.int64),
        "cart": (random.random(rows) < propensity).astype(np.int64),
    }
    return batch, propensity


def balance(batch, propensity, parts, names=()):
    result = Balance(SPEC, names, CLIP)
    for part in np.array_split(np.arange(len(propensity)), parts):
        tensors = {name: tf.constant(values[part]) for name, values in batch.items()}
        result.add(tensors, {"propensity": tf.constant(propensity[part])})
    return {entry["covariate"]: entry for entry in result.result()}


def test_moments_of_batches_are_those_of_all_rows():
    batch, propensity = sample()
    kept = batch["direct"] == 0
    x, a, e = batch["age"][kept].astype(float), batch["cart"][kept] > 0, propensity[kept]
    scale = np.sqrt((x[a].var() + x[~a].var()) / 2)
    weights = np.where(a, 1 / np.maximum(e, CLIP), 1 / np.maximum(1 - e, CLIP))
    means = [np.average(x[arm], weights=weights[arm]) for arm in (a, ~a)]
    for parts in (1, 7):
        entry = balance(batch, propensity, parts)["age"]
        assert entry["before"] == pytest.approx((x[a].mean() - x[~a].mean()) / scale, rel=1e-6)
        assert entry["after"] == pytest.approx((means[0] - means[1]) / scale, abs=1e-6)
    x = np.log1p(batch["counts"][kept, 0])
    scale = np.sqrt((x[a].var() + x[~a].var()) / 2)
    entry = balance(batch, propensity, 3)["counts.clicks"]
    assert entry["before"] == pytest.approx((x[a].mean() - x[~a].mean()) / scale)


def test_the_right_propensity_balances():
    batch, propensity = sample(rows=20_000)
    entries = balance(batch, propensity, 2)
    assert entries["age"]["before"] > 0.5
    assert abs(entries["age"]["after"]) < 0.1
    assert abs(entries["counts.carts"]["before"]) < 0.1
    # The largest difference comes first; what does not vary has none.
    assert next(iter(entries)) == "age"
    assert entries["same"] == {"covariate": "same", "before": None, "after": None}


def test_chosen_covariates_alone():
    batch, propensity = sample()
    shown = balance(batch, propensity, 1, ("counts",))
    assert list(shown) == ["counts.clicks", "counts.carts"]


@pytest.mark.parametrize("name", ["item", "ages", "delayed", "height"])
def test_other_columns_are_refused(name):
    with pytest.raises(ConfigError, match=rf"balance_covariates: \['{name}'\].*'age', 'counts'"):
        Balance(SPEC, (name,), CLIP)


def test_without_propensity_or_arm_there_is_nothing():
    batch, propensity = sample()
    tensors = {name: tf.constant(values) for name, values in batch.items()}
    result = Balance(SPEC, (), CLIP)
    result.add(tensors, {"p_cart": tf.constant(propensity)})
    assert result.result() == []
    assert balance({**batch, "cart": np.zeros(3_000, np.int64)}, propensity, 1) == {}
    assert balance({**batch, "direct": np.ones(3_000, np.int64)}, propensity, 1) == {}
