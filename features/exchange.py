"""An exchange on disk: tables come in any order, and are read back by partition.

Each task of a writing stage leaves one file, a *run*: an Arrow file of record batches in which
batch b holds rows of partition b modulo the number of partitions. A task holds as many rows as it
is told, whatever comes; a reader holds one partition. Any number of partitions needs no more than
one open file.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cmdcm.core.files import staged_file

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def write_run(
    path: Path,
    tables: Iterable[pa.Table],
    partitions: int,
    partition: Callable[[pa.Table], npt.NDArray[np.int64]],
    rows: int,
) -> int:
    """Writes one run, which appears when it is complete.

    Args:
        path: File to write.
        tables: Tables of one schema, at least one; no column is dictionary-encoded.
        partitions: Number of partitions.
        partition: Returns [rows], the partition of each row of a table.
        rows: Rows that are held before they are written.

    Returns:
        Rows written.
    """
    written = 0
    with staged_file(path) as staging, pa.OSFile(str(staging), "wb") as sink:
        writer: pa.RecordBatchFileWriter | None = None
        for table in _collected(tables, rows):
            if writer is None:
                writer = pa.ipc.new_file(sink, table.schema, options=_OPTIONS)
                empty = pa.RecordBatch.from_pylist([], table.schema)
            for part in split(table, partition(table), partitions):
                batches = part.to_batches()
                writer.write_batch(batches[0] if batches else empty)
            written += table.num_rows
        if writer is not None:
            writer.close()
    return written


def split(table: pa.Table, of_row: npt.NDArray[np.int64], partitions: int) -> Iterator[pa.Table]:
    """Yields the rows of each partition, in their order and as one chunk; a view of one copy.

    Example:
        >>> table = pa.table({"id": [1, 2, 3]})
        >>> [part["id"].to_pylist() for part in split(table, np.array([1, 0, 1]), 3)]
        [[2], [1, 3], []]
    """
    # NumPy's stable sort of small integers is a radix sort.
    small = of_row.astype(np.uint16 if partitions <= 1 << 16 else np.int64)
    ordered = table.take(pa.array(np.argsort(small, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(small, minlength=partitions)).tolist()
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        yield ordered.slice(first, last - first)


def read_partition(runs: Iterable[Path], partition: int, partitions: int) -> pa.Table:
    """Returns the rows of one partition in all `runs`, in their order."""
    batches: list[pa.RecordBatch] = []
    schema: pa.Schema | None = None
    for path in runs:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            schema = reader.schema
            batches += [
                reader.get_batch(number)
                for number in range(partition, reader.num_record_batches, partitions)
            ]
    return pa.Table.from_batches([b for b in batches if b.num_rows], schema)


def _collected(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Joins tables until they have at least `rows` rows."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(t.num_rows for t in waiting) >= rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
