"""Tables on their way between tasks that share no memory: a table in one binary cell of a row.

So whoever moves the rows (Spark) moves few large ones, and knows nothing of the tables' columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MESSAGE = "to int, sender int, name string, data binary"
"""The columns of the rows, as Spark writes them."""

_SCHEMA = pa.schema(
    [("to", pa.int32()), ("sender", pa.int32()), ("name", pa.string()), ("data", pa.binary())]
)
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_BATCH_BYTES = 1 << 22
_READ = pa.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True)
class Message:
    """A table that a task sends to a task of the next stage.

    Attributes:
        to: Number of the task that it goes to.
        sender: Number of the task that it comes from.
        name: What the table is.
        data: The table, as an Arrow stream.

    Example:
        >>> message = Message.of(7, 1, "events", pa.table({"user_id": [1, 2]}))
        >>> message.to, message.table["user_id"].to_pylist()
        (7, [1, 2])
    """

    to: int
    sender: int
    name: str
    data: bytes

    @classmethod
    def of(cls, to: int, sender: int, name: str, table: pa.Table) -> "Message":
        """Packs a table."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_WRITE) as writer:
            writer.write_table(table)
        return cls(to, sender, name, sink.getvalue().to_pybytes())

    @property
    def table(self) -> pa.Table:
        """The table, read anew each time."""
        # Bytes of Python start at a multiple of 16, unlike the cells of a batch they come from.
        with pa.ipc.open_stream(pa.py_buffer(self.data), options=_READ) as reader:
            return reader.read_all()


def to_rows(messages: Iterable[Message]) -> Iterator[pa.RecordBatch]:
    """Yields messages as record batches with the columns of `MESSAGE`."""
    waiting: list[Message] = []
    size = 0
    for message in messages:
        waiting.append(message)
        size += len(message.data)
        if size >= _BATCH_BYTES:
            yield _batch(waiting)
            waiting, size = [], 0
    if waiting:
        yield _batch(waiting)


def _batch(messages: Sequence[Message]) -> pa.RecordBatch:
    columns = [[getattr(message, name) for message in messages] for name in _SCHEMA.names]
    return pa.record_batch(columns, schema=_SCHEMA)


def from_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Message]:
    """Yields the messages of record batches with the columns of `MESSAGE`."""
    for batch in batches:
        for row in zip(*(batch[name].to_pylist() for name in _SCHEMA.names), strict=True):
            yield Message(*row)


def joined(messages: Sequence[Message]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Joins the tables of at least one message; returns them and [rows], each row's sender."""
    tables = [message.table for message in messages]
    senders = np.repeat([m.sender for m in messages], [table.num_rows for table in tables])
    return pa.concat_tables(tables).combine_chunks(), senders
