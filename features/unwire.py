"""Compiled reader of tf.train.Example protos: serialized examples -> columns of fixed shapes.

It reads whatever the wire format allows (`features/wire.py` shows the layout): fields in any order,
unknown fields and features, numbers packed, unpacked or both, varints longer than they need be, a
map key twice (the last entry counts), and lists in pieces (they are joined). It is fast where the
examples come from one writer: their features have one order, so the key that comes next is known,
and one comparison of its bytes confirms it. Source: protobuf.dev/programming-guides/encoding.
"""

import numpy as np
from numba import njit

from cmdcm.features.lowlevel import copy, i64, load_u64, u64
from cmdcm.features.wire import FLOAT, INT64
from cmdcm.features.wire_values import (
    ABSENT,
    FINE,
    MALFORMED,
    NO_STRING,
    pad,
    read_feature,
    sized,
    skip,
    varint,
)


@njit(nogil=True, cache=True)
def _same(one: int, other: int, size: int) -> bool:
    """Whether two pieces of memory, readable for 8 bytes more, are equal."""
    while size >= 8:
        if load_u64(one) != load_u64(other):
            return False
        one, other, size = one + 8, other + 8, size - 8
    return size == 0 or (load_u64(one) ^ load_u64(other)) << u64(64 - 8 * size) == u64(0)


@njit(nogil=True, cache=True)
def _find_entry(columns: np.ndarray, first: int, at: int, size: int) -> int:
    """Returns the column, from `first` on and around, whose prefix the entry has; else -1."""
    for step in range(columns.size):
        i = first + step
        if i >= columns.size:
            i -= columns.size
        prefix_size = columns[i].prefix_size
        if prefix_size <= size and _same(columns[i].prefix, at, prefix_size):
            return i
    return -1


@njit(nogil=True, cache=True)
def _find_key(columns: np.ndarray, at: int, size: int) -> int:
    """Returns the column of a key, or -1."""
    for i in range(columns.size):
        column = columns[i]
        key = column.prefix + column.prefix_size - 1 - column.key_size
        if column.key_size == size and _same(key, at, size):
            return i
    return -1


@njit(nogil=True, cache=True)
def _parts_of_entry(at: int, stop: int) -> tuple[bool, int, int, int, int]:
    """Reads an entry of any form: whether it is well-formed, bounds of its key and its Feature."""
    key, key_stop, value, value_stop = at, at, at, at
    while at < stop:
        tag, at = varint(at)
        if at == 0:
            return False, 0, 0, 0, 0
        if tag == u64(0x0A):
            key, key_stop = sized(at, stop)
            at = key_stop
        elif tag == u64(0x12):
            value, value_stop = sized(at, stop)
            at = value_stop
        else:
            at = skip(tag, at, stop)
        if at == 0:
            return False, 0, 0, 0, 0
    return True, key, key_stop, value, value_stop


@njit(nogil=True, cache=True)
def _features(
    columns: np.ndarray, row: int, at: int, stop: int, seen: np.ndarray
) -> tuple[int, int, int]:
    """Reads the fields of a Features message; as `read_examples`, without the example."""
    expected = 0
    while at < stop:
        tag, at = varint(at)
        if at == 0:
            return MALFORMED, -1, 0
        if tag != u64(0x0A):
            at = skip(tag, at, stop)
            if at == 0:
                return MALFORMED, -1, 0
            continue
        at, entry_stop = sized(at, stop)
        if at == 0:
            return MALFORMED, -1, 0
        i = _find_entry(columns, expected, at, entry_stop - at)
        value, value_stop = at, 0
        if i >= 0:
            value, value_stop = sized(at + columns[i].prefix_size, entry_stop)
        if value_stop != entry_stop:  # not the form that writers give it, or not known
            sound, key, key_stop, value, value_stop = _parts_of_entry(at, entry_stop)
            if not sound:
                return MALFORMED, -1, 0
            i = _find_key(columns, key, key_stop - key)
        at = entry_stop
        if i < 0:
            continue
        expected = i + 1 if i + 1 < columns.size else 0
        column = columns[i]
        if column.out == 0:
            continue
        width = 8 if column.kind == INT64 else 4 if column.kind == FLOAT else 16
        out = column.out + row * column.length * width
        status, count = read_feature(column, value, value_stop, out)
        if status != FINE:
            return status, i, count
        seen[i] = count != ABSENT
    return FINE, -1, 0


@njit(nogil=True, cache=True)
def read_examples(
    starts: np.ndarray, stops: np.ndarray, columns: np.ndarray
) -> tuple[int, int, int, int]:
    """Reads serialized examples into columns.

    Args:
        starts: int64 [examples], addresses of the examples' first bytes; the memory before and
            `SLACK` bytes after each is the caller's to keep alive.
        stops: int64 [examples], addresses after their last bytes.
        columns: `TARGET` [columns], in the order in which examples are expected to have them.

    Returns:
        What was found, one of `FINE`, `MALFORMED`, `WRONG_KIND`, `WRONG_COUNT`; unless it is
        `FINE`, also the example, the column (-1 if none) and the kind or the count it has there.
    """
    seen = np.zeros(columns.size, np.bool_)
    for row in range(starts.size):
        seen[:] = False
        at, stop = starts[row], stops[row]
        while at < stop:
            tag, at = varint(at)
            if at == 0:
                return MALFORMED, row, -1, 0
            if tag != u64(0x0A):
                at = skip(tag, at, stop)
                if at == 0:
                    return MALFORMED, row, -1, 0
                continue
            at, end = sized(at, stop)
            if at == 0:
                return MALFORMED, row, -1, 0
            status, i, found = _features(columns, row, at, end, seen)
            if status != FINE:
                return status, row, i, found
            at = end
        for i in range(columns.size):
            if seen[i] or columns[i].out == 0:
                continue
            column = columns[i]
            width = 8 if column.kind == INT64 else 4 if column.kind == FLOAT else 16
            out = column.out + row * column.length * width
            pad(column.kind, out, 0, column.length, column.default)
    return FINE, 0, -1, 0


@njit(nogil=True, cache=True)
def put_strings(spans: np.ndarray, tag: int, index: np.ndarray, out: np.ndarray) -> int:
    """Puts strings one after the other, as length-delimited fields of a proto.

    Args:
        spans: int64 [cells, 2], address and size of each string; `NO_STRING` for the size of one
            that is missing.
        tag: Tag of the fields, one byte.
        index: int64 [cells], to be written: the string's number, from 1; 0 for a missing one.
        out: uint8 [bytes], to be written; 11 bytes and the string's size for each.

    Returns:
        Bytes written.
    """
    at, count = 0, 0
    base = i64(out.ctypes.data)
    for i in range(spans.shape[0]):
        size = spans[i, 1]
        if size == NO_STRING:
            index[i] = 0
            continue
        count += 1
        index[i] = count
        out[at] = tag
        at += 1
        rest = size
        while rest >= 128:
            out[at] = rest & 127 | 128
            rest >>= 7
            at += 1
        out[at] = rest
        at += 1
        copy(base + at, spans[i, 0], size)
        at += size
    return at
