"""tf.data input: values, order, resumption, sharding over workers, corrupted files."""

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.python.framework.config import disable_op_determinism

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features import feeding, tfrecord
from cmdcm.features.encode import encode_examples, write_tfrecords
from cmdcm.features.input import examples, input_errors, parse_examples
from cmdcm.features.records import Shares
from cmdcm.features.spec import Feature, FeatureSpec

SPEC = FeatureSpec(
    features=(
        Feature(name="row", dtype="int64", side="meta"),
        Feature(name="price", dtype="float32", side="item", default=-1.5),
        Feature(name="kind", dtype="string", side="context", default="none"),
        Feature(name="counts", dtype="int64", side="user", shape="vector", length=3, default=9),
        Feature(name="items", dtype="int64", side="user", shape="sequence", length=4, default=-1),
        Feature(name="words", dtype="string", side="user", shape="sequence", length=2, default="?"),
        Feature(name="label", dtype="int64", side="label"),
    )
)


def table(start: int, rows: int) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table(
        {
            "row": pa.array(numbers, pa.int64()),
            "price": pa.array([None if i % 3 == 0 else i / 2 for i in numbers], pa.float32()),
            "kind": pa.array([None if i % 4 == 0 else f"kind {i}" for i in numbers]),
            "counts": pa.array([[i, i + 1, i + 2] for i in numbers]),
            "items": pa.array([list(range(i % 7)) for i in numbers], pa.list_(pa.int64())),
            "words": pa.array([["é"] * (i % 4) for i in numbers], pa.list_(pa.string())),
            "label": pa.array([i % 2 for i in numbers]),
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five files of 10 to 50 rows, 150 in all; the rows are numbered through; two are gzip."""
    paths, start = [], 0
    for number in range(5):
        rows = 10 * (number + 1)
        path = tmp_path / f"part-{number}"
        write_tfrecords(path, [table(start, rows)], gzip=number % 2 == 1)
        paths.append(path)
        start += rows
    return paths


def rows(files: list[Path], **options: Any) -> list[int]:
    """Reads the row numbers alone, in the order in which `examples` gives them."""
    dataset = examples(files, SPEC, columns=["row"], **options)
    return [int(row) for batch in dataset for row in batch["row"].numpy()]


def test_values_defaults_padding_and_cutting(files):
    batches = list(examples(files, SPEC, batch_size=64))
    assert [len(b["row"]) for b in batches] == [64, 64, 22]
    assert list(batches[0]) == list(SPEC.names())
    got = {name: np.concatenate([b[name].numpy() for b in batches]) for name in SPEC.names()}
    np.testing.assert_array_equal(got["row"], np.arange(150))
    for i in (0, 1, 5, 6, 12, 149):
        assert got["price"][i] == (-1.5 if i % 3 == 0 else i / 2)
        assert got["kind"][i] == (b"none" if i % 4 == 0 else f"kind {i}".encode())
        assert got["counts"][i].tolist() == [i, i + 1, i + 2]
        assert got["items"][i].tolist() == ([*range(i % 7)] + [-1] * 4)[:4]
        assert got["words"][i].tolist() == (["é".encode()] * (i % 4) + [b"?"] * 2)[:2]
        assert got["label"][i] == i % 2


def test_shapes_are_static_but_for_the_batch(files):
    element = examples(files, SPEC, batch_size=8).element_spec
    assert element["items"] == tf.TensorSpec([None, 4], tf.int64)
    assert element["counts"] == tf.TensorSpec([None, 3], tf.int64)
    assert element["price"] == tf.TensorSpec([None], tf.float32)
    assert element["kind"] == tf.TensorSpec([None], tf.string)
    dropped = examples(files, SPEC, batch_size=8, drop_remainder=True)
    assert dropped.element_spec["items"] == tf.TensorSpec([8, 4], tf.int64)
    assert sum(1 for _ in dropped) == 150 // 8


@pytest.mark.parametrize("batch", [1, 3])
def test_absent_features_take_their_default(batch):
    parsed = parse_examples(tf.constant([b""] * batch), SPEC.features)
    assert parsed["price"].numpy().tolist() == [-1.5] * batch
    assert parsed["kind"].numpy().tolist() == [b"none"] * batch
    assert parsed["counts"].numpy().tolist() == [[9, 9, 9]] * batch
    assert parsed["items"].numpy().tolist() == [[-1] * 4] * batch
    assert parsed["words"].numpy().tolist() == [[b"?"] * 2] * batch


def test_parse_examples_in_a_graph_of_unknown_batch_size():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def parse(serialized):
        return parse_examples(serialized, SPEC.features)

    for count in (0, 1, 5):
        serialized = tf.constant(list(encode_examples(table(0, count))), tf.string, [count])
        parsed = parse(serialized)
        assert parsed["items"].shape == (count, 4)
        assert parsed["row"].numpy().tolist() == list(range(count))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9), max_size=9))
def test_sequences_round_trip(cells):
    serialized = encode_examples(pa.table({"items": pa.array(cells, pa.list_(pa.int64()))}))
    parsed = parse_examples(tf.constant(list(serialized), tf.string), [SPEC["items"]])["items"]
    assert parsed.numpy().tolist() == [([*(cell or [])] + [-1] * 4)[:4] for cell in cells]


def test_columns(files):
    batch = next(iter(examples(files, SPEC, batch_size=2, columns=["label", "row"])))
    assert list(batch) == ["row", "label"]
    with pytest.raises(ConfigError, match="unknown feature 'nope'"):
        examples(files, SPEC, batch_size=2, columns=["nope"])


def test_shuffled_order_depends_on_seed_and_epoch_alone(files):
    def order(seed: int, epoch: int, global_seed: int) -> list[int]:
        tf.random.set_seed(global_seed)
        return rows(files, batch_size=7, shuffle_seed=seed, epoch=epoch, shuffle_buffer=40)

    first = order(1, 0, 5)
    assert sorted(first) == list(range(150))
    assert first != sorted(first)
    assert order(1, 0, 6) == first
    assert order(1, 1, 5) != first
    assert order(2, 0, 5) != first
    assert len({tuple(order(0, epoch, 5)) for epoch in range(4)}) == 4


def test_one_dataset_repeats_its_order(files):
    dataset = examples(files, SPEC, batch_size=7, shuffle_seed=3, columns=["row"])
    first, second = ([b["row"].numpy().tolist() for b in dataset] for _ in range(2))
    assert first == second


def test_shuffling_mixes_files(files):
    order = rows(files, batch_size=150, shuffle_seed=3)
    ends = np.cumsum([10, 20, 30, 40, 50])
    assert len(set(np.searchsorted(ends, order[:30], "right"))) >= 4


@pytest.mark.parametrize("seed", [None, 4])
def test_skipping_batches_resumes_exactly(files, seed):
    options = {"batch_size": 8, "shuffle_seed": seed, "epoch": 2, "shuffle_buffer": 50}
    undisturbed = rows(files, **options)
    for skip in (1, 5, 18, 19, 30):  # there are 19 batches
        assert rows(files, **options, skip_batches=skip) == undisturbed[8 * skip :]


def test_not_deterministic_is_still_complete(files):
    order = rows(files, batch_size=8, shuffle_seed=1, deterministic=False)
    assert sorted(order) == list(range(150))


@pytest.mark.parametrize(("workers", "seed"), [(2, None), (5, 1), (7, 1)])  # there are 5 files
def test_workers_read_disjoint_parts_of_everything(files, workers, seed):
    parts = [
        rows(files, batch_size=9, shuffle_seed=seed, worker=w, workers=workers)
        for w in range(workers)
    ]
    assert all(parts)
    assert sorted(row for part in parts for row in part) == list(range(150))


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("count", [2, 4])
def test_the_shares_of_a_batch_are_the_batch(files, seed, count):
    """Each replica's share, read for itself, put together: the batches of a single one."""
    options = {"batch_size": 8, "shuffle_seed": seed, "shuffle_buffer": 50}
    whole = list(examples(files, SPEC, pad_remainder=True, **options))
    shares = [
        list(examples(files, SPEC, pad_remainder=True, shares=Shares((n,), count), **options))
        for n in range(count)
    ]
    assert [len(share) for share in shares] == [19] * count
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        assert {len(part["row"]) for part in parts} == {8 // count}
        for name, values in batch.items():
            joined = tf.concat([part[name] for part in parts], axis=0)
            np.testing.assert_array_equal(joined, values, err_msg=name)
    # Several shares of one process take turns.
    both = examples(files, SPEC, pad_remainder=True, shares=Shares((0, 1), count), **options)
    turns = [part["row"] for pair in zip(*shares[:2], strict=True) for part in pair]
    for batch, expected in zip(both, turns, strict=True):
        np.testing.assert_array_equal(batch["row"], expected)


@pytest.mark.parametrize("skip", [1, 5, 18, 19])
def test_shares_resume_exactly(files, skip):
    options = {"batch_size": 8, "shuffle_seed": 3, "shares": Shares((1, 0), 2)}
    undisturbed = rows(files, **options, pad_remainder=True)
    assert rows(files, **options, pad_remainder=True, skip_batches=skip) == undisturbed[8 * skip :]


def test_padding_has_weight_zero_and_default_values(files):
    *full, last = examples(files, SPEC, batch_size=8, pad_remainder=True)
    assert len(full) == 18
    assert all(batch["row_weight"].numpy().tolist() == [1.0] * 8 for batch in full)
    assert last["row"].numpy().tolist() == [*range(144, 150), 0, 0]
    assert last["row_weight"].numpy().tolist() == [1.0] * 6 + [0.0] * 2
    assert last["kind"].numpy().tolist()[-2:] == [b"none"] * 2
    assert last["items"].numpy().tolist()[-1] == [-1] * 4
    dataset = examples(files, SPEC, batch_size=8, pad_remainder=True)
    assert {spec.shape[0] for spec in dataset.element_spec.values()} == {8}


@pytest.mark.parametrize(
    ("size", "options"), [(8, {}), (9, {"pad_remainder": True}), (9, {"drop_remainder": True})]
)
def test_shares_of_unequal_size_are_refused(files, size, options):
    with pytest.raises(ValueError, match=r"2 shares need a `batch_size` that is a multiple"):
        examples(files, SPEC, batch_size=size, shares=Shares((0,), 2), **options)


def test_worker_out_of_range(files):
    with pytest.raises(ValueError, match=r"`worker` should be in \[0, 2\). Received: 2"):
        examples(files, SPEC, batch_size=9, worker=2, workers=2)


def test_no_files_and_missing_file(tmp_path):
    with pytest.raises(DataError, match="no TFRecord files"):
        examples([], SPEC, batch_size=1)
    with pytest.raises(DataError, match="absent: No such file"):
        examples([tmp_path / "absent"], SPEC, batch_size=1)


def test_wrong_length_and_wrong_type_are_named(tmp_path):
    for name, column, problem in (
        ("counts", [[1, 2]], "2 values, expected 3"),
        ("label", [0.5], "float32 values, expected int64"),
        ("items", [["a"]], "string values, expected int64"),
    ):
        write_tfrecords(tmp_path / name, [pa.table({name: column})])
        with (
            pytest.raises(DataError, match=f"feature '{name}' has {problem}"),
            input_errors(),
        ):
            list(examples([tmp_path / name], SPEC, batch_size=1))


def offsets(path: Path) -> list[int]:
    """Returns the offset of every record of a plain file and its size."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        found.append(at)
        at += struct.unpack_from("<Q", data, at)[0] + 16
    return [*found, at]


def damage(path: Path, how: str) -> int:
    """Damages record 6 and returns its offset."""
    begin, end = offsets(path)[6:8]
    data = bytearray(path.read_bytes())
    if how == "truncate":
        data = data[: end - 3]
    elif how == "truncate header":
        data = data[: begin + 5]
    else:
        data[{"data": begin + 20, "length": begin + 1, "data crc": end - 1}[how]] ^= 4
    path.write_bytes(data)
    return begin


DAMAGES = {
    "data": "the CRC of its data does not match",
    "data crc": "the CRC of its data does not match",
    "length": "the CRC of its length does not match",
    "truncate": "is truncated",
    "truncate header": "is truncated: the file ends 5 bytes after its start",
}


@pytest.mark.parametrize(("how", "seed"), [*((how, None) for how in DAMAGES), ("data", 1)])
def test_a_corrupted_record_is_named(files, how, seed):
    at = damage(files[2], how)
    message = f"part-2: record 6, at byte {at}, .*{DAMAGES[how]}"
    with pytest.raises(DataError, match=message), input_errors():
        rows(files, batch_size=4, shuffle_seed=seed)
    with pytest.raises(DataError, match=message):
        tfrecord.verify(files[2])
    with pytest.raises(DataError, match=message):
        list(tfrecord.read_records(files[2]))


@pytest.mark.parametrize(("how", "seed"), [*((how, 1) for how in DAMAGES), ("data", None)])
def test_a_corrupted_file_is_skipped_and_counted(files, how, seed):
    damage(files[2], how)
    skipped: list[DataError] = []
    read = rows(files, batch_size=4, shuffle_seed=seed, on_corrupt="skip", skipped=skipped)
    assert sorted(read) == [i for i in range(150) if not 36 <= i < 60]
    assert len(skipped) == 1
    assert "part-2: record 6" in str(skipped[0])


def test_a_corrupted_gzip_file_is_skipped_and_counted(files):
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 16
    files[1].write_bytes(data)
    skipped: list[DataError] = []
    read = rows(files, batch_size=4, on_corrupt="skip", skipped=skipped)
    assert set(range(150)) - set(range(10, 30)) <= set(read) < set(range(150))
    assert [str(error)[: len(str(files[1]))] for error in skipped] == [str(files[1])]


def test_skipping_reports_nothing_when_all_is_well(files):
    skipped: list[DataError] = []
    read = rows(files, batch_size=4, on_corrupt="skip", skipped=skipped)
    assert read == list(range(150))
    assert skipped == []


@pytest.mark.parametrize("cut", [1, 8, 40, 200])
def test_a_truncated_gzip_file_is_named(files, cut):
    files[1].write_bytes(files[1].read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"part-1: record \d+, at byte \d+ of its uncompressed"):
        tfrecord.verify(files[1])


def test_a_flipped_byte_in_a_gzip_file_is_named(files):
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 16
    files[1].write_bytes(data)
    with pytest.raises(DataError, match="part-1: record"), input_errors():
        rows(files, batch_size=4)


def test_corruption_is_named_through_keras_fit(files):
    import tf_keras as keras

    damage(files[2], "data")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    dataset = examples(files, SPEC, batch_size=4).map(
        lambda b: (tf.cast(b["counts"], tf.float32), b["label"])
    )
    with pytest.raises(DataError, match="part-2: record 6"), input_errors():
        model.fit(dataset, verbose=0)


def test_batches_are_read_ahead_even_if_operations_have_to_be_deterministic(files, monkeypatch):
    numbers: list[int] = []

    class Counted(feeding.Batches):
        def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            numbers.append(number)
            return super().__call__(number)

    monkeypatch.setattr("cmdcm.features.input.Batches", Counted)
    tf.config.experimental.enable_op_determinism()
    try:
        iterator = iter(examples(files, SPEC, batch_size=4, shuffle_seed=1, skip_batches=2))
        next(iterator)
        patience = time.monotonic() + 30
        while len(numbers) < 5 and time.monotonic() < patience:
            time.sleep(0.01)
    finally:
        disable_op_determinism()
    assert numbers[:5] == [2, 3, 4, 5, 6]
