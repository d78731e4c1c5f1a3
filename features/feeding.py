"""What tf.data calls in Python: batches by their number, and an end before the interpreter's."""

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cmdcm.features.records import Stream

_STREAMS = 2  # that one data set keeps open
_QUIET_S = 0.05
_PATIENCE_S = 30  # for a call that hangs itself, as at a file system that is gone


class Calls:
    """The calls from TensorFlow's threads into Python.

    None may be under way when the interpreter shuts down: it would wait for the GIL for ever, and
    an iterator that is cleaned up then waits for it. `close` makes the streams end and returns when
    no call has come for a while.
    """

    def __init__(self) -> None:
        self.closed = False
        self._begun = self._ended = 0
        self._lock = threading.Lock()

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, with its calls counted."""

        def call(*args: Any) -> Any:
            with self._lock:
                self._begun += 1
            try:
                return function(*args)
            finally:
                with self._lock:
                    self._ended += 1

        return call

    def close(self) -> None:
        """See the class."""
        self.closed = True
        seen, patience = -1 if self._begun else 0, time.monotonic() + _PATIENCE_S
        while not seen == self._begun == self._ended and time.monotonic() < patience:
            seen = self._begun
            time.sleep(_QUIET_S)


CALLS = Calls()
atexit.register(CALLS.close)


class Batches:
    """The serialized batches of an epoch as a pure function of their number.

    Called with consecutive numbers it goes on with the stream that it has; with any other it reads
    anew. So tf.data may take it for an operation without state, and iterators need no clean-up:
    with state, tf.data would run nothing ahead of the consumer while TensorFlow's operations are
    to be deterministic.
    """

    def __init__(self, stream: Callable[[int], Stream]):
        self._stream = stream
        self._open: list[tuple[int, Stream]] = []  # with the number of the batch that comes next
        self._lock = threading.Lock()

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a batch's bytes and where each record ends in them; nothing after the last."""
        nothing = np.empty(0, np.uint8), np.empty(0, np.int64)
        with self._lock:
            if CALLS.closed:
                return nothing
            places = [at for at, (follows, _) in enumerate(self._open) if follows == number]
            stream = self._open.pop(places[0])[1] if places else self._stream(number)
            batch = next(stream, None)
            if batch is None:
                return nothing
            self._open = [*self._open, (number + 1, stream)][-_STREAMS:]
            return batch.packed().memory[0], np.cumsum(batch.sizes)
