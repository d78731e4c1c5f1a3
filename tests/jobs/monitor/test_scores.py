"""Logged predictions as rows: both layouts, their time, and what is passed over."""

import numpy as np
import polars as pl
import pytest
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import to_ms
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.rows import parse_rows
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.monitor.scores import read_scores
from cmdcm.tests.jobs.monitor.logs import logged, predictions, rates, records, write

MAX_BYTES = 64 << 20
END = to_ms("2024-12-12", "Asia/Shanghai")


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


def read(data, *files, until_ms=END, slices=("promotion_kind",)):
    return read_scores(
        files, data.spec, data.calendar, slices=slices, until_ms=until_ms, max_bytes=MAX_BYTES
    )


def test_rows_have_user_item_time_version_and_scores(data, tmp_path):
    _, frame = records(data, "test")
    values = np.random.default_rng(1).uniform(size=len(frame)).astype(np.float32)
    path = write(tmp_path / "log", logged(data, "test", lambda _: {"p_direct": values}, (3, 4)))
    scores = read(data, path)
    assert scores.skipped == {}
    assert (scores.rows["user_id"] == frame["user_id"]).all()
    assert (scores.rows["item_id"] == frame["item_id"]).all()
    # The time comes from hours as float32.
    assert ((scores.rows["time_ms"] - frame["click_time_ms"]).abs() <= 1000).all()
    assert np.array_equal(scores.rows["p_direct"].to_numpy(), values.astype(float))
    assert scores.rows["p_cart"].null_count() == len(frame)
    assert set(scores.rows["version"]) == {3, 4}
    assert set(scores.rows["slice:promotion_kind"]) == {"double12"}


def test_both_layouts_give_the_same_rows(data, tmp_path):
    serialized, _ = records(data, "test")
    one = serialized[:1] * 3
    spec = data.spec
    columns = [f for f in spec.inputs if f.shape == "scalar"]
    table = parse_rows(one, columns)
    candidates = {f.name for f in spec.candidate_inputs}
    tensors = {
        f.name: np.array(
            table[f.name].to_pylist()[: 3 if f.name in candidates else 1],
            object if f.dtype == "string" else f.dtype,
        )
        for f in columns
    }
    outputs = {"p_conversion": np.array([0.25, 0.5, 0.125])}
    files = [
        write(tmp_path / name, iter([predictions(one, outputs, rate=0.5, inputs=inputs)]))
        for name, inputs in (("examples", None), ("tensors", tensors))
    ]
    first, second = (read(data, file).rows for file in files)
    assert first.equals(second)
    assert first["p_conversion"].to_list() == [0.25, 0.5, 0.125]
    assert first["weight"].to_list() == [2.0, 2.0, 2.0]


def test_what_cannot_be_used_is_counted_with_the_reason(data, tmp_path):
    serialized, _ = records(data, "test")
    good = predictions(serialized[:2], {"p_direct": np.array([0.5, 0.5])})
    silent = predictions(serialized[:2], {})
    other = predictions(serialized[:2], {"y": np.array([0.5, 0.5])})
    short = predictions(serialized[:2], {"p_direct": np.array([0.5])})
    lacking = predictions([], {"p_direct": np.array([0.5])}, inputs={"user_id": np.array([1])})
    classify = prediction_log_pb2.PredictionLog()
    classify.classify_log.SetInParent()
    logs = [good, silent, other, short, lacking, classify]
    scores = read(data, write(tmp_path / "log", iter(logs)))
    assert (scores.requests, len(scores.rows)) == (1, 2)
    assert sorted(scores.skipped.values()) == [1] * 5
    for reason in ("no answer is logged", "none of", "for 1 scores", "lacks", "no Predict call"):
        assert any(reason in text for text in scores.skipped), reason


def test_a_request_is_of_the_last_promotion_that_fits_and_never_of_the_future(data, tmp_path):
    path = write(tmp_path / "log", logged(data, "test", rates))
    _, frame = records(data, "test")
    now = int(frame["click_time_ms"].median())  # type: ignore[arg-type]
    scores = read(data, path, until_ms=now)
    assert scores.rows["time_ms"].max() <= now + 1000
    (reason,) = scores.skipped
    assert "no pre-promotion window" in reason
    assert scores.skipped[reason] == len(frame) - len(scores.rows) > 0


def test_an_empty_log_has_no_rows(data, tmp_path):
    scores = read(data, write(tmp_path / "log", iter([])))
    assert scores.rows.is_empty()
    assert scores.rows.schema["p_direct"] == pl.Float64


def test_a_slice_has_to_be_a_scalar_input(data, tmp_path):
    for name in ("user_counts", "direct", "nothing"):
        with pytest.raises(ConfigError, match=f"'{name}' as a scalar input"):
            read(data, tmp_path / "log", slices=(name,))


def test_identifiers_may_be_text(data, tmp_path):
    spec = FeatureSpec(
        features=tuple(
            f.model_copy(update={"dtype": "string", "default": ""})
            if f.name in ("user_id", "item_id")
            else f
            for f in data.spec.features
        )
    )
    inputs = {
        "user_id": np.array([b"u-\xc3\xa4"], object),
        "item_id": np.array([b"i1", b"i2"], object),
        "hours_to_promotion": np.array([1.0], np.float32),
        "promotion_kind": np.array([b"double12"], object),
    }
    log = predictions([], {"p_direct": np.array([0.5, 0.25])}, inputs=inputs)
    scores = read_scores(
        [write(tmp_path / "log", iter([log]))], spec, data.calendar, until_ms=END, max_bytes=99
    )
    assert scores.rows.select("user_id", "item_id", "p_direct").rows() == [
        ("u-ä", "i1", 0.5),
        ("u-ä", "i2", 0.25),
    ]
    assert scores.rows["time_ms"].to_list() == [END - 3_600_000] * 2
