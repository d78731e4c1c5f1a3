"""Compiled reader of one tf.train.Feature: varints, lists of every kind, defaults.

The part of `features/unwire.py` that reads values. Functions return `_BAD`, or an address of 0,
where bytes are malformed. Source: protobuf.dev/programming-guides/encoding.
"""

from typing import Any

import numpy as np
from numba import carray, njit
from numba.cpython.unsafe.numbers import trailing_zeros

from cmdcm.features.lowlevel import (
    copy,
    i64,
    load_u8,
    load_u32,
    load_u64,
    pointer,
    store_u32,
    store_u64,
    u64,
)
from cmdcm.features.wire import BYTES, FLOAT, INT64

SLACK = 16
"""Readable bytes that the data needs after its end."""

SCALAR, VECTOR, SEQUENCE = range(3)
"""Shapes of a column."""

# Fields of a column's description; the type of an array of them is TARGET.
TARGET = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",  # INT64, FLOAT or BYTES
            "shape",
            "length",
            "default",  # bits of the default; for strings not used
            "out",  # address of [examples, length] numbers, or spans of strings; 0: not wanted
            "prefix",  # address and
            "prefix_size",  # size of the entry's start: tag and size of the key, the key, 0x12
            "key_size",
        )
    ]
)

FINE, MALFORMED, WRONG_KIND, WRONG_COUNT = range(4)
"""What was found."""

NO_STRING = -1
"""Size in the span of a string that is missing."""

_MARKS = u64(0x8080808080808080)
_BITS = u64(0x7F7F7F7F7F7F7F7F)
_NO_KIND, ABSENT, _BAD = -1, -2, -3


@njit(nogil=True, cache=True)
def varint(at: int) -> tuple[int, int]:
    """Returns a varint's value, uint64, and the address after it: 0 if it is longer than it may."""
    word = load_u64(at)
    if word & u64(128) == u64(0):
        return word & u64(127), at + 1
    ends = ~word & _MARKS
    if ends != u64(0):
        size = i64(trailing_zeros(ends) >> 3) + 1
        x = word & (ends ^ (ends - u64(1))) & _BITS
        x = (x & u64(0x007F007F007F007F)) | ((x & u64(0x7F007F007F007F00)) >> u64(1))
        x = (x & u64(0x00003FFF00003FFF)) | ((x & u64(0x3FFF00003FFF0000)) >> u64(2))
        x = (x & u64(0x000000000FFFFFFF)) | ((x & u64(0x0FFFFFFF00000000)) >> u64(4))
        return x, at + size
    x, shift = u64(0), u64(0)
    for i in range(10):
        byte = load_u8(at + i)
        x |= (byte & u64(127)) << shift
        if byte < u64(128):
            return x, at + i + 1
        shift += u64(7)
    return x, 0


@njit(nogil=True, cache=True)
def sized(at: int, stop: int) -> tuple[int, int]:
    """Reads a size; returns the bounds of the content after it, (0, 0) if it does not fit."""
    size, at = varint(at)
    if at == 0 or at > stop or size > u64(stop - at):
        return 0, 0
    return at, at + i64(size)


@njit(nogil=True, cache=True)
def skip(tag: int, at: int, stop: int) -> int:
    """Returns the address after a field whose tag was read, 0 if it is malformed."""
    kind = tag & u64(7)
    if kind == u64(0):
        _, at = varint(at)
    elif kind == u64(1):
        at += 8
    elif kind == u64(2):
        _, at = sized(at, stop)
    elif kind == u64(5):
        at += 4
    else:
        return 0
    return at if at <= stop and tag >= u64(8) else 0


@njit(nogil=True, cache=True)
def _integers(at: int, stop: int, out: int, count: int, length: int) -> int:
    """Reads varints until `stop`; writes those before `length`. Returns their count, or `_BAD`."""
    while at < stop:
        if at + 8 <= stop and count + 8 <= length and load_u64(at) & _MARKS == u64(0):
            source = carray(pointer(at), (8,), np.uint8)
            target = carray(pointer(out + 8 * count), (8,), np.int64)
            for i in range(8):
                target[i] = source[i]
            at, count = at + 8, count + 8
            continue
        value, at = varint(at)
        if at == 0 or at > stop:
            return _BAD
        if count < length:
            store_u64(out + 8 * count, value)
        count += 1
    return count


@njit(nogil=True, cache=True)
def _list(kind: int, at: int, stop: int, out: int, count: int, length: int) -> int:
    """Reads a list's fields behind `count` earlier elements; returns the count, or `_BAD`.

    Elements from `length` on are counted, not written.
    """
    while at < stop:
        tag, at = varint(at)
        if at == 0:
            return _BAD
        if tag == u64(0x0A):
            at, end = sized(at, stop)
            if at == 0:
                return _BAD
            if kind == INT64:
                count = _integers(at, end, out, count, length)
                if count == _BAD:
                    return _BAD
            elif kind == FLOAT:
                if (end - at) & 3:
                    return _BAD
                size = (end - at) >> 2
                fits = min(size, length - count)
                if fits > 0:
                    copy(out + 4 * count, at, 4 * fits)
                count += size
            else:
                if count < length:
                    store_u64(out + 16 * count, u64(at))
                    store_u64(out + 16 * count + 8, u64(end - at))
                count += 1
            at = end
        elif tag == u64(0x08) and kind == INT64:
            value, at = varint(at)
            if at == 0 or at > stop:
                return _BAD
            if count < length:
                store_u64(out + 8 * count, value)
            count += 1
        elif tag == u64(0x0D) and kind == FLOAT:
            if at + 4 > stop:
                return _BAD
            if count < length:
                store_u32(out + 4 * count, load_u32(at))
            count += 1
            at += 4
        else:
            at = skip(tag, at, stop)
            if at == 0:
                return _BAD
    return count


@njit(nogil=True, cache=True)
def pad(kind: int, out: int, count: int, length: int, default: int) -> None:
    """Writes the default to the elements from `count` on."""
    if kind == INT64:
        integers = carray(pointer(out), (length,), np.int64)
        for i in range(count, length):
            integers[i] = default
    elif kind == FLOAT:
        for i in range(count, length):
            store_u32(out + 4 * i, u64(default))
    else:
        for i in range(count, length):
            store_u64(out + 16 * i + 8, u64(NO_STRING))


@njit(nogil=True, cache=True)
def read_feature(column: Any, at: int, stop: int, out: int) -> tuple[int, int]:
    """Reads a Feature into a row of a column; returns what was found, and the kind or the count.

    Of the lists of several kinds the last counts, as of all members of a oneof.
    """
    found, count = _NO_KIND, 0
    while at < stop:
        tag, at = varint(at)
        if at == 0:
            return MALFORMED, 0
        kind = _NO_KIND
        if tag == u64(0x1A):
            kind = INT64
        elif tag == u64(0x12):
            kind = FLOAT
        elif tag == u64(0x0A):
            kind = BYTES
        if kind == _NO_KIND:
            at = skip(tag, at, stop)
            if at == 0:
                return MALFORMED, 0
            continue
        at, end = sized(at, stop)
        if at == 0:
            return MALFORMED, 0
        if kind != found:
            found, count = kind, 0
        if kind == column.kind:
            count = _list(kind, at, end, out, count, column.length)
            if count == _BAD:
                return MALFORMED, 0
        at = end
    if found == _NO_KIND:
        return FINE, ABSENT
    if found != column.kind:
        return WRONG_KIND, found
    if column.shape != SEQUENCE:
        return (FINE if count == column.length else WRONG_COUNT), count
    pad(column.kind, out, count, column.length, column.default)
    return FINE, count
