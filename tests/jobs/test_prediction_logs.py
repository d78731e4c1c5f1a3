"""What logged requests carry, in either layout, and what is wrong with them."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.encode import encode_examples
from cmdcm.jobs.prediction_logs import read_requests
from cmdcm.tests.features.validation_data import SPEC, sound


def record(**inputs: object) -> bytes:
    """A logged Predict request."""
    log = prediction_log_pb2.PredictionLog()
    for name, value in inputs.items():
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


def candidates(prices: list[float], **replaced: object) -> bytes:
    """A request of one user and some candidates; None leaves a feature out."""
    inputs: dict[str, object] = {
        "user_id": np.array([7]),
        "counts": np.array([[3, 4]]),
        "ages": np.array([[0, 5, -1]]),
        "hour": np.array([13]),
        "kind": np.array([b"a"], object),
        "price": np.array(prices, np.float32),
        **replaced,
    }
    return record(**{name: value for name, value in inputs.items() if value is not None})


def examples(table: pa.Table) -> bytes:
    return record(examples=np.array(list(encode_examples(table)), object))


def read(tmp_path, *records: bytes, max_rows: int = 1000, max_bytes: int = 1 << 20):
    path = tmp_path / "requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in records:
            writer.write(data)
    return read_requests([path], SPEC, max_rows=max_rows, max_bytes=max_bytes)


def test_the_user_counts_once_a_request_and_every_candidate(tmp_path):
    served = read(tmp_path, candidates([1.0, 2.0, 2.0]), candidates([4.0], hour=np.array([14])))
    assert (served.requests, served.candidates, served.examples) == (2, 4, 0)
    assert served.columns["price"].numbers == {1: 1, 2: 2, 4: 1}
    assert sum(served.columns["user_id"].hashes.values()) == 2
    assert served.columns["counts"].components == {"click": {3: 2}, "cart": {4: 2}}
    assert served.columns["kind"].strings == {"a": 2}
    assert served.columns.keys() == {f.name for f in SPEC.inputs}
    for counter in (served.unknown, served.missing, served.wrong_type, served.wrong_shape):
        assert not counter


def test_padding_is_no_value(tmp_path):
    ages = [np.array([row]) for row in ([0, 5, -1], [-1, -1, -1], [3, 2, 1])]
    served = read(tmp_path, *(candidates([1.0], ages=row) for row in ages))
    assert served.columns["ages"].length_bins == {0: 1, 2: 1, 3: 1}
    assert served.columns["ages"].range == (0, 5)


def test_both_layouts_of_the_same_rows_give_the_same_statistics(tmp_path):
    table = sound(20, seed=3)
    by_example = read(tmp_path, examples(table.slice(0, 7)), examples(table.slice(7)))
    assert (by_example.requests, by_example.examples, by_example.candidates) == (2, 20, 0)
    requests = []
    for row in table.to_pylist():
        requests.append(
            candidates(
                [row["price"]],
                user_id=np.array([row["user_id"]]),
                counts=np.array([row["counts"]]),
                ages=np.array([[*row["ages"], *[-1] * (3 - len(row["ages"]))]]),
                hour=np.array([row["hour"]]),
                kind=np.array([row["kind"].encode()], object),
            )
        )
    by_candidate = read(tmp_path, *requests)
    assert by_candidate.columns.keys() == by_example.columns.keys()
    for name, column in by_example.columns.items():
        assert column._proto == by_candidate.columns[name]._proto, name


def test_labels_in_examples_are_passed_over(tmp_path):
    served = read(tmp_path, examples(sound(5)))
    assert not served.unknown
    assert "direct" not in served.columns


def test_unknown_and_missing_features(tmp_path):
    served = read(
        tmp_path,
        candidates([1.0], prise=np.array([1.0], np.float32)),
        candidates([1.0], kind=None),
        candidates([1.0], kind=None),
        examples(sound(2, kind=None).append_column("prise", [[1.0, 2.0]])),
    )
    assert served.unknown == {"prise": 2}
    assert served.missing == {"kind": 2}
    assert served.columns["kind"].present == 1
    assert "kind" not in read(tmp_path, candidates([1.0], kind=None)).columns


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("price", np.array([1.0]), "wrong_type"),
        ("user_id", np.array([7], np.int32), "wrong_type"),
        ("kind", np.array([3]), "wrong_type"),
        ("counts", np.array([[1, 2, 3]]), "wrong_shape"),
        ("counts", np.array([1, 2]), "wrong_shape"),
        ("hour", np.array([1, 2]), "wrong_shape"),
        ("ages", np.array([[1]]), "wrong_shape"),
    ],
)
def test_wrong_types_and_shapes_of_tensors(tmp_path, name, value, kind):
    served = read(tmp_path, candidates([1.0], **{name: value}))
    assert getattr(served, kind) == {name: 1}
    assert name not in served.columns
    assert served.columns.keys() == {f.name for f in SPEC.inputs} - {name}


def test_wrong_types_and_shapes_in_examples(tmp_path):
    table = sound(2, counts=[[1, 2, 3], [1, 2]])
    place = table.column_names.index("price")
    table = table.set_column(place, "price", [["dear", "cheap"]])
    table = table.set_column(table.column_names.index("hour"), "hour", [[[1, 2], [3]]])
    served = read(tmp_path, examples(table))
    assert served.wrong_type == {"price": 1}
    assert served.wrong_shape == {"counts": 1, "hour": 1}
    assert served.columns.keys() == {"user_id", "ages", "kind"}


def test_what_cannot_be_read_is_counted(tmp_path):
    other = prediction_log_pb2.PredictionLog()
    other.classify_log.request.model_spec.name = "m"
    large = candidates([1.0] * 500)
    served = read(
        tmp_path,
        other.SerializeToString(),
        record(examples=np.array([b"\xff\xff"], object)),
        record(examples=np.array([1.0])),
        large,
        candidates([2.0]),
        max_bytes=1000,
    )
    assert served.requests == 1
    assert served.skipped.pop("classify_log") == 1
    assert served.skipped.pop("its input is no serialized tf.train.Example") == 2
    ((reason, count),) = served.skipped.items()
    assert count == 1 and "exceeds the limit of" in reason


def test_reading_ends_at_the_row_that_was_asked_for(tmp_path):
    records = [candidates([1.0, 1.0])] * 5
    served = read(tmp_path, *records, max_rows=4)
    assert (served.candidates, served.complete) == (4, False)
    served = read(tmp_path, *records, max_rows=10)
    assert (served.candidates, served.complete) == (10, True)


def test_compressed_logs_and_several_files(tmp_path):
    plain = tmp_path / "one"
    with tf.io.TFRecordWriter(str(plain)) as writer:
        writer.write(candidates([1.0]))
    packed = tmp_path / "two.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    served = read_requests([plain, packed], SPEC, max_rows=9, max_bytes=1 << 20)
    assert (served.files, served.requests) == (2, 2)


def test_a_file_of_something_else_is_named(tmp_path):
    with pytest.raises(DataError, match=r"requests: record 1 is no PredictionLog"):
        read(tmp_path, candidates([1.0]), b"\xff\xff\xff")
    with pytest.raises(DataError, match="nowhere"):
        read_requests([tmp_path / "nowhere"], SPEC, max_rows=1, max_bytes=1)
