"""Columnar encoder: Arrow tables -> serialized tf.train.Example -> TFRecord.

| Arrow type (scalar, list, large_list, fixed_size_list)            | feature   |
|-------------------------------------------------------------------|-----------|
| integers and bool                                                 | Int64List |
| float16, float32, float64 (rounded to float32)                    | FloatList |
| string and binary, their large and view forms, dictionary of them | BytesList |

- A null scalar or a null list is an absent feature: a parser gives it its default.
- An empty list is a present feature with an empty list of its kind.
- A column of Arrow's type null, or lists of it, is absent in every row: its kind is not known.
- Features are written in the order of the columns.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from cmdcm.core.closing import Closing
from cmdcm.core.errors import DataError
from cmdcm.core.files import staged_file
from cmdcm.features.tfrecord import gzip_writer
from cmdcm.features.wire import BYTES, COLUMN, FLOAT, INT32, INT64, SLACK, write_examples

_LISTS = (
    pa.ListType,
    pa.LargeListType,
    pa.FixedSizeListType,
    pa.ListViewType,
    pa.LargeListViewType,
)
_STRINGS = (
    pa.string(),
    pa.binary(),
    pa.large_string(),
    pa.large_binary(),
    pa.string_view(),
    pa.binary_view(),
)
_NUMBERS = {pa.int64(): INT64, pa.int32(): INT32, pa.float32(): FLOAT}
_INT32 = (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.bool_())
_BATCH_ROWS = 32_768  # described at once in Python
_BLOCK_ROWS = 256  # encoded at once: their bytes stay in the processor's cache until written


@dataclass(frozen=True)
class EncodedExamples:
    """Serialized tf.train.Example protos, one after the other.

    Attributes:
        data: uint8 [bytes].
        offsets: int64 [examples + 1]; example i is `data[offsets[i]:offsets[i + 1]]`.

    Example:
        >>> examples = encode_examples(pa.table({"x": [3, None]}))
        >>> examples[0].hex(" ")
        '0a 0c 0a 0a 0a 01 78 12 05 1a 03 0a 01 03'
        >>> len(examples), list(examples)[1].hex(" ")
        (2, '0a 00')
    """

    data: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        """Returns one serialized example."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data = self.data.data
        return (bytes(data[start:stop]) for start, stop in pairwise(self.offsets.tolist()))


def encode_examples(table: pa.Table | pa.RecordBatch) -> EncodedExamples:
    """Encodes each row as a serialized tf.train.Example.

    Raises:
        DataError: A column has a type that is not in the table above, a null inside a list, or an
            integer above 2^63 - 1.
    """
    data, sizes = [np.empty(0, np.uint8)], [np.zeros(1, np.int64)]
    for encoded, offsets in _encode(table, framed=False):
        data.append(encoded.copy())
        sizes.append(np.diff(offsets))
    return EncodedExamples(np.concatenate(data), np.cumsum(np.concatenate(sizes)))


def write_tfrecords(path: Path, tables: Iterable[pa.Table], gzip: bool = False) -> int:
    """Writes the rows of `tables` to one TFRecord file, which appears when it is complete.

    Args:
        path: File to write or replace.
        tables: Tables, or record batches, of the columns of an example.
        gzip: Whether to compress (see `cmdcm.features.tfrecord.gzip_writer`).

    Returns:
        Number of records written.

    Raises:
        DataError: As `encode_examples`.
        OutputError: The file cannot be written, or the disk is full.
    """
    with staged_file(path) as staging, RecordWriter(staging, gzip) as writer:
        for table in tables:
            writer.add(table)
    return writer.records


class RecordWriter(Closing):
    """Writes tables to one TFRecord file and hashes its bytes on the way.

    Attributes:
        records: Records written so far.
        bytes: Size of the file; final once it is closed.
    """

    def __init__(self, path: Path, gzip: bool = False) -> None:
        self.records = self.bytes = 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._stream = gzip_writer(cast(BinaryIO, self)) if gzip else None

    def add(self, table: pa.Table | pa.RecordBatch) -> None:
        """Adds the rows of a table; raises as `encode_examples`."""
        for encoded, offsets in _encode(table, framed=True):
            (self._stream or self).write(encoded.data)
            self.records += len(offsets) - 1

    def write(self, data: memoryview) -> int:
        """Takes bytes of the file."""
        self._digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def close(self) -> None:
        """Ends the file."""
        if self._stream is not None:
            self._stream.close()
        self._file.close()

    def sha256(self) -> str:
        """Returns the hexadecimal SHA-256 of the closed file."""
        return self._digest.hexdigest()


def canonical(array: pa.Array, name: str) -> pa.Array | None:
    """Casts a column to the type in which it is encoded.

    Returns:
        An array of int64, int32, float32 or large_binary, or of large_list of one of them, without
        a copy where the column has that layout; None if the column has no values at all.

    Raises:
        DataError: As `encode_examples`.
    """
    is_list = isinstance(array.type, _LISTS)
    type_ = array.type.value_type if is_list else array.type
    if isinstance(type_, pa.DictionaryType):
        type_ = type_.value_type
    if pa.types.is_null(type_):
        return None
    if type_ in _INT32:
        target = pa.int32()
    elif pa.types.is_integer(type_):
        target = pa.int64()
    elif pa.types.is_floating(type_):
        target = pa.float32()
    elif type_ in _STRINGS:
        target = pa.large_binary()
    else:
        raise DataError(
            f"column {name!r} has the type {array.type}, which no tf.train.Feature holds; "
            "cast it to integers, floats or strings"
        )
    if is_list:
        target = pa.large_list(target)
    try:
        array = array if array.type == target else array.cast(target)
    except pa.ArrowInvalid as error:
        raise DataError(f"column {name!r} does not fit {target}: {error}") from error
    if is_list and array.values.null_count and array.flatten().null_count:
        raise DataError(f"column {name!r} has a null inside a list; a tf.train.Feature has none")
    return array


def _encode(
    table: pa.Table | pa.RecordBatch, framed: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of encoded bytes, valid until the next step, and the examples' offsets."""
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if max((c.num_chunks for c in table.columns), default=0) > 1 + table.num_rows // _BATCH_ROWS:
        table = table.combine_chunks()
    prefixes = [entry_prefix(name) for name in table.column_names]
    scratch = out = np.empty(0, np.uint8)
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        arrays, columns, bound = [], [], SLACK
        for name, array, prefix in zip(batch.schema.names, batch.columns, prefixes, strict=True):
            array = canonical(array, name)
            if array is None:
                continue
            arrays.append(array)  # keeps the memory alive
            column, payload_bound = _describe(array)
            columns.append((*column, prefix.ctypes.data, len(prefix) - 8))
            bound += payload_bound + len(array) * (SLACK + len(prefix))
        bound += batch.num_rows * SLACK
        if bound > out.size:
            scratch, out = np.empty(bound, np.uint8), np.empty(bound, np.uint8)
        described = np.array(columns, COLUMN)
        for first in range(0, batch.num_rows, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, batch.num_rows)
            offsets = write_examples(described, first, last, framed, scratch, out)
            yield out[: offsets[-1]], offsets


def entry_prefix(name: str) -> np.ndarray:
    """Returns the constant bytes of a column's map entry, and 8 more to be read in words."""
    key = name.encode()
    size, head = len(key), b"\x0a"
    while size >= 128:
        head += bytes([size & 127 | 128])
        size >>= 7
    return np.frombuffer(head + bytes([size]) + key + b"\x12" + bytes(8), np.uint8)


def _describe(array: pa.Array) -> tuple[tuple[int, ...], int]:
    """Returns the fields of a `COLUMN` before the prefix, and the bound of its payload's bytes."""
    validity = _address(array.buffers()[0]) if array.null_count else 0
    values, lists, first, last = array, 0, 0, len(array)
    if isinstance(array, pa.LargeListArray):
        values, lists = array.values, _address(array.buffers()[1]) + 8 * array.offset
        first, last = _offsets(array)[[0, -1]].tolist()
    memory, ends = _address(values.buffers()[-1]), 0
    if values.type in _NUMBERS:
        kind, bound = _NUMBERS[values.type], 10 * (last - first)
        memory += values.type.byte_width * values.offset
    else:
        kind, ends = BYTES, _address(values.buffers()[1]) + 8 * values.offset
        offsets = _offsets(values)
        bound = 11 * (last - first) + int(offsets[last] - offsets[first])
    return (kind, memory, ends, lists, validity, array.offset), bound


def _offsets(array: pa.Array) -> np.ndarray:
    """Returns the int64 offsets [length + 1] of a large_list or large_binary."""
    buffer = array.buffers()[1]
    if buffer is None or buffer.size == 0:  # allowed when the array is empty
        return np.zeros(1, np.int64)
    return np.frombuffer(buffer, np.int64, len(array) + 1, 8 * array.offset)


def _address(buffer: pa.Buffer | None) -> int:
    return 0 if buffer is None else int(buffer.address)
