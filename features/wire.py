"""Compiled writer of tf.train.Example protos, straight from the memory of Arrow columns.

A few rows at a time, the payloads go column by column into a scratch space, which reads memory in
its order. Then all sizes are known, and the examples are put together row by row, each length in
its shortest form. Both spaces stay in the processor's cache. Wire format:
protobuf.dev/programming-guides/encoding, tensorflow/core/example/{example,feature}.proto:

    Example    0A <size> entry*             one entry a feature that is present
    entry      0A <size> 0A <size> key 12 <size> Feature
    Feature    1A <size> Int64List  |  12 <size> FloatList  |  0A <size> BytesList
    Int64List  [0A <size> varint*]          packed; nothing when empty
    FloatList  [0A <size> float*]
    BytesList  (0A <size> bytes)*
"""

import numpy as np
from numba import carray, njit
from numba.cpython.unsafe.numbers import leading_zeros

from cmdcm.features.lowlevel import (
    copy,
    i64,
    load_u8,
    load_u64,
    pointer,
    store_u8,
    store_u16,
    store_u64,
    u64,
)
from cmdcm.features.tfrecord import FOOTER, HEADER, frame

INT64, INT32, FLOAT, BYTES = range(4)
"""Kinds of a column, by the type of its values."""

# Fields of a column's description; the type of an array of them is COLUMN. Addresses may be 0.
COLUMN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            "values",  # address of the numbers, or of all strings' bytes
            "ends",  # address of the int64 offsets of the strings
            "lists",  # address of the int64 offsets of the rows' lists; 0: one value a row
            "validity",  # address of the bitmap of rows that are not null; 0: all rows
            "first_bit",  # the first row's place in that bitmap
            "prefix",  # address and
            "prefix_size",  # size of the entry's constant part: key, then the tag of the Feature
        )
    ]
)

# A feature whose payload is in the scratch space: its address, its size or -1 when the feature is
# absent, and the size of the map entry.
_CELL = np.dtype([(name, np.int64) for name in ("address", "payload", "entry")])
_ROWS = 64  # put together at a time

SLACK = 128
"""Bytes that one example, or one of its features, may need beside its key and its payload."""

_LIST_TAGS = np.array([0x1A, 0x1A, 0x12, 0x0A])  # by kind
_ITEM = 0x0A


@njit(nogil=True, cache=True, inline="always")
def _varint_size(value: int) -> int:
    bits = 64 - i64(leading_zeros(u64(value) | u64(1)))
    return (bits * 9 + 64) >> 6


@njit(nogil=True, cache=True)
def _varint(at: int, value: int) -> int:
    """Writes a varint, and slack within 8 bytes; returns the address after it."""
    x = u64(value)
    if x >> u64(56):  # 9 or 10 bytes
        while x >= u64(128):
            store_u8(at, (x & u64(127)) | u64(128))
            x >>= u64(7)
            at += 1
        store_u8(at, x)
        return at + 1
    size = _varint_size(value)
    # Groups of 7 bits become bytes by halving, without a branch on the size; then all bytes but
    # the last get their mark.
    x = (x & u64(0x000000000FFFFFFF)) | ((x & u64(0x00FFFFFFF0000000)) << u64(4))
    x = (x & u64(0x00003FFF00003FFF)) | ((x & u64(0x0FFFC0000FFFC000)) << u64(2))
    x = (x & u64(0x007F007F007F007F)) | ((x & u64(0x3F803F803F803F80)) << u64(1))
    marks = ((u64(1) << u64(8 * (size - 1))) - u64(1)) & u64(0x8080808080808080)
    store_u64(at, x | marks)
    return at + size


@njit(nogil=True, cache=True)
def _head(at: int, tag: int, size: int) -> int:
    """Writes a field's tag and the size of its content; returns the address of the content."""
    if size < 128:
        store_u16(at, u64(tag | size << 8))
        return at + 2
    store_u8(at, u64(tag))
    return _varint(at + 1, size)


@njit(nogil=True, cache=True)
def _union(values: np.ndarray) -> int:
    union = u64(0)
    for i in range(values.size):
        union |= u64(values[i])
    return union


@njit(nogil=True, cache=True)
def _varints(at: int, values: np.ndarray) -> int:
    union, count = _union(values), values.size
    if union < u64(128):
        target = carray(pointer(at), (count,), np.uint8)
        for i in range(count):
            target[i] = np.uint8(values[i])
        return at + count
    if union < u64(1 << 14):  # at most two bytes each
        for i in range(count):
            value = i64(values[i])
            two = i64(value >= 128)
            store_u16(at, u64((value & 127) | (two << 7) | (value >> 7 << 8)))
            at += 1 + two
        return at
    for i in range(count):
        at = _varint(at, values[i])
    return at


@njit(nogil=True, cache=True)
def _payload(at: int, kind: int, values: int, ends: int, start: int, count: int) -> int:
    """Writes packed numbers, or the items of a BytesList; returns the address after them."""
    if kind == INT64:
        return _varints(at, carray(pointer(values + 8 * start), (count,), np.int64))
    if kind == INT32:
        return _varints(at, carray(pointer(values + 4 * start), (count,), np.int32))
    if kind == FLOAT:
        copy(at, values + 4 * start, 4 * count)
        return at + 4 * count
    offsets = carray(pointer(ends + 8 * start), (count + 1,), np.int64)
    for i in range(count):
        length = offsets[i + 1] - offsets[i]
        at = _head(at, _ITEM, length)
        copy(at, values + offsets[i], length)
        at += length
    return at


@njit(nogil=True, cache=True)
def _column_payloads(
    at: int, columns: np.ndarray, i: int, first: int, last: int, cells: np.ndarray
) -> int:
    """Writes the payloads of rows of column `i`; returns the address after them."""
    column = columns[i]
    for row in range(first, last):
        cell = cells[row - first, i]
        cell.payload = -1
        if column.validity != 0:
            bit = column.first_bit + row
            if not (load_u8(column.validity + (bit >> 3)) >> u64(bit & 7)) & u64(1):
                continue
        start, count = row, 1
        if column.lists != 0:
            start = i64(load_u64(column.lists + 8 * row))
            count = i64(load_u64(column.lists + 8 * row + 8)) - start
        cell.address = at
        if count == 1 and column.kind == INT64:
            at = _varint(at, i64(load_u64(column.values + 8 * start)))
        else:
            at = _payload(at, column.kind, column.values, column.ends, start, count)
        payload = at - cell.address
        size = payload
        if payload > 0 and column.kind != BYTES:
            size += 1 + _varint_size(payload)
        size += 1 + _varint_size(size)
        cell.payload = payload
        cell.entry = column.prefix_size + _varint_size(size) + size
    return at


@njit(nogil=True, cache=True)
def _example(at: int, columns: np.ndarray, cells: np.ndarray) -> int:
    """Puts one example together and returns the address after it."""
    total = 0
    for i in range(columns.size):
        if cells[i].payload >= 0:
            total += 1 + _varint_size(cells[i].entry) + cells[i].entry
    at = _head(at, 0x0A, total)
    for i in range(columns.size):
        cell, column = cells[i], columns[i]
        payload = cell.payload
        if payload < 0:
            continue
        at = _head(at, 0x0A, cell.entry)
        done = 0
        while done < column.prefix_size:
            store_u64(at + done, load_u64(column.prefix + done))
            done += 8
        at += column.prefix_size
        packed = payload > 0 and column.kind != BYTES
        if packed and payload < 124:  # every size takes one byte: one word of all tags
            tags = (payload + 4) | _LIST_TAGS[column.kind] << 8 | (payload + 2) << 16
            store_u64(at, u64(tags | _ITEM << 24 | payload << 32))
            at += 5
        else:
            size = payload + (1 + _varint_size(payload) if packed else 0)
            at = _varint(at, 1 + _varint_size(size) + size)
            at = _head(at, _LIST_TAGS[column.kind], size)
            if packed:
                at = _head(at, _ITEM, payload)
        if payload <= 16:
            store_u64(at, load_u64(cell.address))
            store_u64(at + 8, load_u64(cell.address + 8))
        else:
            copy(at, cell.address, payload)
        at += payload
    return at


@njit(nogil=True, cache=True)
def write_examples(
    columns: np.ndarray, first: int, last: int, framed: bool, scratch: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """Writes rows as protos, one after the other.

    Args:
        columns: `COLUMN` [columns]; the memory they point to is the caller's to keep alive.
        first: First row to write.
        last: The row after the last one to write.
        framed: Whether to make each proto a TFRecord.
        scratch: uint8, as large as `out`.
        out: uint8, to be written from its start; the caller makes it large enough: for each row
            `SLACK`, and for each of its features `SLACK`, the prefix rounded up to 8 bytes, and
            the payload's bound (10 bytes an integer, 4 a float, 11 and its length a string).

    Returns:
        int64 [last - first + 1]: where each example, or record, starts in `out`, and the end of
        the last.
    """
    cells = np.empty((_ROWS, columns.size), _CELL)
    offsets = np.empty(last - first + 1, np.int64)
    base = i64(out.ctypes.data)
    at = base
    offsets[0] = 0
    for begin in range(first, last, _ROWS):
        end = min(begin + _ROWS, last)
        free = i64(scratch.ctypes.data)
        for i in range(columns.size):
            free = _column_payloads(free, columns, i, begin, end, cells)
        for row in range(begin, end):
            example = at + HEADER if framed else at
            at = _example(example, columns, cells[row - begin])
            if framed:
                frame(example, at - example)
                at += FOOTER
            offsets[row - first + 1] = at - base
    return offsets
