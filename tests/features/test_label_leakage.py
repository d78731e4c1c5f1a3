"""AUCs of single features against the metric of evaluation and against labels put into features."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.leakage import CATEGORIES, check_leakage, rank_auc, ranks
from cmdcm.model.metrics import auc
from cmdcm.tests.features.validation_data import SPEC, codes, collector, sound


def rows_of(rows: int = 400, **columns: Any) -> pa.Table:
    return sound(rows, **columns)


def checked(table, **settings):
    config, anomalies = collector(**{"min_positives": 20, **settings})
    aucs = check_leakage(as_read(table), SPEC, config, anomalies)
    return codes(anomalies), {(a.feature, a.label): a.auc for a in aucs}


def as_read(table: pa.Table) -> pa.Table:
    """The columns as `features.rows` gives them."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_list(column.type):
            column = column.cast(pa.large_list(column.type.value_type))
        elif column.type == pa.string():
            column = column.cast(pa.large_binary())
        columns[name] = column
    return pa.table(columns)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-3, 3).map(float)), min_size=2, max_size=60
    ).filter(lambda rows: 0 < sum(label for label, _ in rows) < len(rows))
)
def test_rank_auc_against_the_metric_of_evaluation(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    assert rank_auc(ranks(scores), labels) == pytest.approx(auc(labels, scores))


def test_a_value_that_is_no_number_ranks_lowest():
    assert ranks(np.array([np.nan, 1, np.nan, -5])).tolist() == [1.5, 4, 1.5, 3]


def test_every_feature_against_the_metric_of_evaluation():
    table = rows_of()
    found, aucs = checked(table)
    assert found == set()
    expected = {
        "counts[click]": np.array(table["counts"].to_pylist())[:, 0],
        "counts[cart]": np.array(table["counts"].to_pylist())[:, 1],
        "ages[length]": np.array([len(ages) for ages in table["ages"].to_pylist()]),
        "price": table["price"].to_numpy(),
    }
    for feature, scores in expected.items():
        for label in ("direct", "delayed"):
            assert aucs[feature, label] == pytest.approx(auc(table[label].to_numpy(), scores))
    # Categories by their mean label on the same rows; identifiers have too many values.
    for feature in ("hour", "kind"):
        values = np.array(table[feature].to_pylist())
        for label in ("direct", "delayed"):
            labels = table[label].to_numpy()
            means = {value: labels[values == value].mean() for value in set(values)}
            scores = np.array([means[value] for value in values])
            assert aucs[feature, label] == pytest.approx(auc(labels, scores))
    features = {feature for feature, _ in aucs}
    assert features == {*expected, "hour", "kind"}
    assert len(np.unique(table["user_id"])) > CATEGORIES


def leaky(share: float) -> np.ndarray:
    """A label that agrees with `direct` on a share of its rows; then AUC = share."""
    labels = np.tile([0, 1], 200)
    flipped = np.zeros(400, bool)
    flipped[: round(400 * (1 - share))] = True
    return np.where(flipped, 1 - labels, labels)


@pytest.mark.parametrize(
    ("feature", "make"),
    [
        ("price", lambda leak: leak + 1.0),
        ("price", lambda leak: 9.0 - leak),  # an AUC near 0 is the same alarm
        ("counts[cart]", lambda leak: [[3, int(x)] for x in leak]),
        ("ages[length]", lambda leak: [[5] * int(x) for x in leak]),
        ("kind", lambda leak: [("b", "zz")[x] for x in leak]),
        ("hour", lambda leak: 23 * leak),
    ],
)
def test_leakage(feature, make):
    labels = np.tile([0, 1], 200)
    column = feature.partition("[")[0]
    near = rows_of(direct=labels, **{column: make(leaky(0.95))})
    far = rows_of(direct=labels, **{column: make(leaky(0.96))})
    assert checked(near)[0] == set()
    assert checked(far)[0] == {("leakage", feature)}
    assert checked(far, max_auc=0.97)[0] == set()
    assert checked(far, exclude=(feature,))[0] == set()


def test_missing_values_are_read_as_the_default():
    labels = np.tile([0, 1], 200)
    prices = [None if label else 5.0 for label in labels]
    vectors = [None if label else [5, 5] for label in labels]
    kinds = [None if label else "a" for label in labels]
    found, aucs = checked(rows_of(direct=labels, price=prices, counts=vectors, kind=kinds))
    leaking = ("price", "counts[click]", "counts[cart]", "kind")
    assert found == {("leakage", name) for name in leaking}
    assert aucs["price", "direct"] == 0
    assert aucs["kind", "direct"] == 1


def test_rows_whose_label_is_not_known_do_not_count():
    labels = np.tile([0, 1], 200)
    known = np.arange(400) >= 200
    # Before its time the label is 0 on all rows.
    prices = np.where(known, labels, 1 - labels).astype(float)
    table = rows_of(
        direct=labels, delayed=labels, price=prices, delayed_known_ms=np.where(known, 10, 11)
    )
    found, aucs = checked(table)
    assert aucs["price", "delayed"] == 1
    assert aucs["price", "direct"] == 0.5
    assert found == {("leakage", "price")}


def test_labels_with_few_positives_are_left_out():
    labels = (np.arange(400) < 20).astype(int)
    table = rows_of(direct=labels, delayed=1 - labels)
    assert {label for _, label in checked(table)[1]} == {"direct", "delayed"}
    assert checked(table, min_positives=21)[1] == {}
