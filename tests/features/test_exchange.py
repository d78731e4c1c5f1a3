"""The exchange: every row comes out once, in its partition, in its order."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.exchange import read_partition, write_run


def of_key(partitions):
    return lambda table: table["key"].to_numpy() % partitions


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=3)), max_size=6), max_size=4),
    st.integers(1, 5),
    st.integers(1, 8),
    st.integers(1, 3),
)
def test_rows_come_out_in_the_order_of_their_partition(
    tmp_path_factory, lists, partitions, rows, runs
):
    folder = tmp_path_factory.mktemp("runs")
    schema = pa.schema([("key", pa.int64()), ("text", pa.string())])
    tables = [
        pa.Table.from_pylist([{"key": k, "text": t} for k, t in some], schema) for some in lists
    ]
    paths = [folder / f"{n}.arrow" for n in range(runs)]
    for n, path in enumerate(paths):
        mine = [*tables[n::runs], schema.empty_table()]
        assert write_run(path, mine, partitions, of_key(partitions), rows) == sum(map(len, mine))
    expected = [row for n in range(runs) for table in tables[n::runs] for row in table.to_pylist()]
    for number in range(partitions):
        got = read_partition(paths, number, partitions)
        assert got.schema == schema
        assert got.to_pylist() == [r for r in expected if r["key"] % partitions == number]


def test_memory_is_bounded_by_the_rows_held(tmp_path):
    """A run is written in pieces of the rows asked for, each with a batch for every partition."""
    tables = [pa.table({"key": np.arange(n, n + 10)}) for n in range(0, 100, 10)]
    write_run(tmp_path / "run", iter(tables), 4, of_key(4), 20)
    with pa.ipc.open_file(tmp_path / "run") as reader:
        sizes = [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)]
    assert len(sizes) == 5 * 4
    assert sum(sizes) == 100
    assert max(sizes) == 5


def test_a_run_that_fails_leaves_no_file(tmp_path):
    def tables():
        yield pa.table({"key": [1]})
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_run(tmp_path / "run", tables(), 2, of_key(2), 1)
    assert list(tmp_path.iterdir()) == []
