"""The serialized records of a data set as one stream: files in turns, shared, sampled, shuffled.

Everything here passes records on by address and copies them twice in all: out of the way when a
shuffle's memory is given back, and into their batch. Reading checks every record's CRC.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from cmdcm.core.errors import DataError
from cmdcm.features.decode import aligned_memory
from cmdcm.features.lowlevel import copy, i64
from cmdcm.features.tfrecord import read_blocks
from cmdcm.features.wire_values import SLACK

_BLOCK = 1 << 20  # bytes of a file that are read at once


@njit(nogil=True, cache=True)
def _gather(starts: np.ndarray, sizes: np.ndarray, out: np.ndarray) -> None:
    """Copies pieces of memory, int64 [pieces] addresses and sizes, one after the other to `out`."""
    at = i64(out.ctypes.data)
    for i in range(starts.size):
        copy(at, starts[i], sizes[i])
        at += sizes[i]


class Records(NamedTuple):
    """Records in memory.

    Attributes:
        starts: int64 [records], address of each.
        sizes: int64 [records], bytes of each; `wire_values.SLACK` more can be read.
        memory: What owns these bytes.
    """

    starts: np.ndarray
    sizes: np.ndarray
    memory: tuple[np.ndarray, ...]

    def take(self, chosen: np.ndarray | slice) -> "Records":
        """Returns some of the records, in the order of `chosen`."""
        return Records(self.starts[chosen], self.sizes[chosen], self.memory)

    def padded(self, count: int) -> "Records":
        """Returns `count` records: those of here, then empty ones."""
        missing = np.zeros(count - len(self.starts), np.int64)
        starts = np.concatenate([self.starts, missing + self.starts[:1]])
        return Records(starts, np.concatenate([self.sizes, missing]), self.memory)

    def packed(self) -> "Records":
        """Returns copies of the records, one after the other in memory of their own."""
        stops = np.cumsum(self.sizes)
        memory = aligned_memory((int(stops[-1]) if len(stops) else 0) + SLACK)
        _gather(self.starts, self.sizes, memory)
        return Records(memory.ctypes.data + stops - self.sizes, self.sizes, (memory,))

    @classmethod
    def join(cls, parts: Sequence["Records"]) -> "Records":
        """Returns the records of all parts."""
        none = np.empty(0, np.int64)
        return cls(
            np.concatenate([none, *(part.starts for part in parts)]),
            np.concatenate([none, *(part.sizes for part in parts)]),
            tuple(array for part in parts for array in part.memory),
        )


Stream = Iterator[Records]
"""Records in pieces of any size; the order is that of the records."""


def read_file(file: Path, report: Callable[[DataError], None] | None) -> Stream:
    """Reads a TFRecord file.

    Args:
        file: File, plain or gzip.
        report: Receives the error of a corrupted or truncated record, at which reading then ends;
            None raises it.
    """
    try:
        for data, bounds in read_blocks(file, _BLOCK, SLACK):
            starts = data.ctypes.data + bounds[:, 0]
            yield Records(starts, bounds[:, 1] - bounds[:, 0], (data,))
    except DataError as error:
        if report is None:
            raise
        report(error)


def take_turns(streams: Iterable[Stream], at_once: int) -> Stream:
    """Yields pieces of streams in turns: of `at_once` together, and of the next when one ends."""
    waiting, turns = iter(streams), list[Stream]()
    while True:
        while len(turns) < at_once and (stream := next(waiting, None)) is not None:
            turns.append(stream)
        if not turns:
            return
        for stream in list(turns):
            piece = next(stream, None)
            if piece is None:
                turns.remove(stream)
            else:
                yield piece


def share(stream: Stream, worker: int, workers: int) -> Stream:
    """Yields every `workers`-th record, from number `worker` on."""
    seen = 0
    for piece in stream:
        yield piece.take(slice((worker - seen) % workers, None, workers))
        seen += len(piece.starts)


def shuffle(stream: Stream, buffer: int, random: np.random.Generator) -> Stream:
    """Shuffles records within a moving window.

    A buffer is filled with `buffer` records and a random half of them is yielded, in random order,
    until the stream ends; then all are. The bytes of those that stay are copied, so that the memory
    of the others is free: it never holds much more than the buffer's records.
    """
    kept, ended = Records.join([]), False
    rest: Records | None = None
    while not ended:
        parts, count = [kept], len(kept.starts)
        while count < buffer:
            piece = rest if rest is not None else next(stream, None)
            if piece is None:
                ended = True
                break
            room = buffer - count
            rest = piece.take(slice(room, None)) if len(piece.starts) > room else None
            parts.append(piece.take(slice(room)))
            count += len(parts[-1].starts)
        pool = Records.join(parts)
        order = random.permutation(count)
        chosen = count if ended else (count + 1) // 2
        yield pool.take(order[:chosen])
        kept = pool.take(np.sort(order[chosen:])).packed()


def batches(stream: Stream, size: int, drop_remainder: bool, skip: int) -> Stream:
    """Yields pieces of `size` records, of which the last may have fewer or be dropped.

    Args:
        stream: The records.
        size: Records of a batch.
        drop_remainder: Leave a last, smaller batch out.
        skip: Batches to leave out at the front.
    """
    parts, count, left = list[Records](), 0, skip * size
    for piece in stream:
        if left:
            dropped = min(left, len(piece.starts))
            left, piece = left - dropped, piece.take(slice(dropped, None))
        while count + len(piece.starts) >= size:
            room = size - count
            yield Records.join([*parts, piece.take(slice(room))])
            parts, count, piece = [], 0, piece.take(slice(room, None))
        if len(piece.starts):
            parts.append(piece)
            count += len(piece.starts)
    if count and not drop_remainder:
        yield Records.join(parts)


class Shares(NamedTuple):
    """Shares of every batch, for the replicas that train on it together.

    Attributes:
        own: The shares to yield, one after the other.
        of: Shares of a batch, all of one size.
    """

    own: tuple[int, ...]
    of: int


WHOLE = Shares((0,), 1)
"""Batches that are not shared."""


def split(stream: Stream, shares: Shares) -> Stream:
    """Yields shares of batches whose number of records is a multiple of `shares.of`."""
    if shares == WHOLE:
        yield from stream
        return
    for batch in stream:
        size = len(batch.starts) // shares.of
        for own in shares.own:
            yield batch.take(slice(own * size, (own + 1) * size))
