"""Rows read back are those that were written."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.features import rows
from cmdcm.features.encode import encode_examples, write_tfrecords
from cmdcm.features.rows import parse_rows, sample_rows
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.tests.features.validation_data import SPEC, sound

ONE = FeatureSpec(features=(Feature(name="n", dtype="int64", side="item"),))


def test_rows_come_back_as_they_were():
    table = sound(
        50,
        price=[None, *[1.5] * 49],
        counts=[None, *[[1, 2]] * 49],
        kind=["", None, "é", *["b"] * 47],
        ages=[[], [0], *[[3, 2, 1]] * 48],
    )
    got = parse_rows(list(encode_examples(table)), SPEC.features)
    for name in table.column_names:
        expected = table[name].to_pylist()
        if name == "kind":
            expected = [None if value is None else value.encode() for value in expected]
        assert got[name].to_pylist() == expected, name


def test_no_rows_have_the_columns():
    assert parse_rows([], SPEC.features).num_rows == 0
    assert parse_rows([], SPEC.features).column_names == list(SPEC.names())


def test_more_than_one_value_of_a_scalar_shows_as_a_list():
    encoded = list(encode_examples(pa.table({"n": [[1, 2], [3]]})))
    assert parse_rows(encoded, ONE.features)["n"].to_pylist() == [[1, 2], [3]]


def test_blocks_of_a_batch_have_one_type(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "_BATCH", 2)
    lists = pa.table({"n": [[5], [], [1], [1, 2], [3]]})
    encoded = list(encode_examples(lists))
    assert parse_rows(encoded, ONE.features)["n"].to_pylist() == [[5], None, [1], [1, 2], [3]]
    assert parse_rows(encoded[:3], ONE.features)["n"].to_pylist() == [5, None, 1]
    (tmp_path / "2024-01-01").mkdir()
    write_tfrecords(tmp_path / "2024-01-01" / "part-00000.tfrecord", [lists])
    manifest = {"rows": 5, "days": {"2024-01-01": {"rows": 5}}}
    with pytest.raises(DataError, match="several values of 'n', which is a scalar"):
        sample_rows(tmp_path, manifest, ONE, 5)


def test_another_type_is_an_error():
    encoded = list(encode_examples(pa.table({"n": ["x"]})))
    with pytest.raises(DataError, match=r"columns of its spec\. Key: n"):
        parse_rows(encoded, ONE.features)


def write_days(directory, days: dict[str, list[int]]) -> dict:
    """Writes days of shards with so many rows; the value is day * 1000 + its number."""
    manifest: dict = {"rows": 0, "days": {}}
    for place, (day, shards) in enumerate(days.items()):
        (directory / day).mkdir(parents=True)
        first = 1000 * place
        for number, size in enumerate(shards):
            table = pa.table({"n": pa.array(range(first, first + size), pa.int64())})
            write_tfrecords(directory / day / f"part-{number:05d}.tfrecord", [table])
            first += size
        manifest["days"][day] = {"rows": sum(shards)}
        manifest["rows"] += sum(shards)
    return manifest


@given(st.integers(1, 60))
def test_a_sample_takes_its_part_of_every_day(tmp_path_factory, count):
    directory = tmp_path_factory.mktemp("days")
    manifest = write_days(directory, {"2024-01-01": [20, 10], "2024-01-02": [10]})
    values = sample_rows(directory, manifest, ONE, count)["n"].to_pylist()
    assert len(values) == len(set(values))
    if count >= 40:
        assert len(values) == 40
    else:
        # Rounded up in each shard; a shard with fewer rows than its part gives all it has.
        assert 0.85 * count <= len(values) <= count + 3
    first_day = sum(value < 1000 for value in values)
    assert abs(first_day - 0.75 * len(values)) <= 4
    assert 0 in values and 20 in values and 1000 in values
    assert values == sample_rows(directory, manifest, ONE, count)["n"].to_pylist()
