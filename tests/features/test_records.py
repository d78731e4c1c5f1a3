"""The stream of records without TensorFlow: turns, shares, shuffling, numbered batches."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.features.feeding import Batches, Calls
from cmdcm.features.records import Records, batches, share, shuffle, take_turns


def piece(*records: bytes) -> Records:
    data = np.frombuffer(b"".join(records) + bytes(16), np.uint8)
    sizes = np.array([len(r) for r in records], np.int64)
    return Records(data.ctypes.data + np.cumsum(sizes) - sizes, sizes, (data,))


def contents(records: Records) -> list[bytes]:
    (memory,) = records.packed().memory
    stops = np.cumsum(records.sizes).tolist()
    return [memory[a:b].tobytes() for a, b in zip([0, *stops], stops, strict=False)]


def names(count: int) -> list[bytes]:
    """Records of every length from 0 to 18."""
    return [str(i).encode().rjust(i % 19, b".")[: i % 19] + b"%d" % i for i in range(count)]


def stream(count: int, size: int):
    records = names(count)
    return (piece(*records[at : at + size]) for at in range(0, count, size))


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 50), st.integers(0, 3), st.booleans())
def test_shuffle_and_batches_lose_and_change_nothing(count, size, buffer, skip, drop):
    def read():
        return shuffle(stream(count, size), buffer, np.random.default_rng(count))

    everything = [record for part in read() for record in contents(part)]
    assert sorted(everything) == sorted(names(count))
    made = [contents(batch) for batch in batches(read(), 4, drop, skip)]
    expected = [everything[at : at + 4] for at in range(0, count, 4)]
    if drop and count % 4:
        expected.pop()
    assert made == expected[skip:]


def test_shuffle_moves_records_anywhere_within_its_window_and_not_beyond():
    order = [
        int(record.lstrip(b"."))
        for part in shuffle(((piece(b"%d" % i)) for i in range(400)), 40, np.random.default_rng(0))
        for record in contents(part)
    ]
    places = np.argsort(order)
    ahead = np.arange(400) - places
    assert ahead.max() < 40, "no record comes before the buffer reached it"
    assert ahead.max() > 25
    assert (-ahead).max() > 40, "some stay in the buffer for long"
    first = np.bincount([order.index(i) // 100 for i in range(100)], minlength=2)
    assert first[0] > 60


def test_shuffle_keeps_little_more_memory_than_its_buffer():
    """Each piece is 1 kB of ten records; 20 of 1,000 records may stay from any of them."""
    held = []
    for part in shuffle(stream(1000, 10), 40, np.random.default_rng(0)):
        held.append(len(part.memory))
    assert max(held) <= 1 + 5, "the pieces that filled the buffer, and one of those that stayed"


def test_turns_and_shares():
    streams = [iter([piece(b"%d%d" % (s, i)) for i in range(n)]) for s, n in enumerate([3, 1, 2])]
    taken = [contents(p)[0] for p in take_turns(streams, 2)]
    assert taken == [b"00", b"10", b"01", b"02", b"20", b"21"]
    parts = [
        [r for p in share(stream(23, 4), worker, 3) for r in contents(p)] for worker in range(3)
    ]
    assert parts == [names(23)[worker::3] for worker in range(3)]


def numbered(opened: list[int]) -> Batches:
    def open_at(skip: int):
        opened.append(skip)
        return batches(stream(10, 3), 2, False, skip)

    return Batches(open_at)


def records_of(batch: tuple[np.ndarray, np.ndarray]) -> list[bytes]:
    memory, stops = batch
    return [memory[a:b].tobytes() for a, b in zip([0, *stops], stops, strict=False)]


def test_batches_are_a_function_of_their_number():
    opened: list[int] = []
    batch = numbered(opened)
    expected = [names(10)[at : at + 2] for at in range(0, 10, 2)] + [[]]
    assert [records_of(batch(i)) for i in range(6)] == expected
    assert opened == [0], "in order, the stream goes on"
    for number in (3, 1, 4, 4, 9, 2):
        assert records_of(batch(number)) == (expected[number] if number < 5 else [])
    first, second = (numbered(opened) for _ in range(2))
    for i in range(6):  # two iterators of one data set
        assert records_of(first(i)) == records_of(second(i)) == expected[i]


def test_two_iterators_of_one_data_set_have_a_stream_each():
    opened: list[int] = []
    batch = numbered(opened)
    for i in range(5):
        assert records_of(batch(i)) == records_of(batch(i)) == names(10)[2 * i : 2 * i + 2]
    assert opened == [0, 0]


def test_calls_are_over_when_they_are_closed():
    calls, entered, leave, left = Calls(), threading.Event(), threading.Event(), []

    @calls.counted
    def work(number: int) -> int:
        entered.set()
        leave.wait(10)
        left.append(number)
        return number + 1

    thread = threading.Thread(target=work, args=(1,))
    thread.start()
    entered.wait(10)
    threading.Timer(0.2, leave.set).start()
    calls.close()
    assert left == [1]
    thread.join()
    with pytest.raises(ZeroDivisionError):
        calls.counted(lambda: 1 / 0)()
    calls.close()  # a call that failed is over too
