"""The call that a thread works on: which API it came for, and when its deadline passes.

The transports set it and what runs below them reads it, so that the handlers need not pass it on.
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc

from cmdcm.serving.status import StatusError


@dataclass(frozen=True)
class Call:
    """A call under way.

    Attributes:
        api: Name of the call: `Predict`, `Classify` ...
        deadline: `time.monotonic()` after which nobody waits for the answer; None for never.
        arrived: `time.monotonic()` at which it came.
    """

    api: str
    deadline: float | None = None
    arrived: float = field(default_factory=time.monotonic)

    def expired(self) -> bool:
        """Returns whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call | None:
    """Returns the call that this thread works on; None in warm-up and in a program's own calls."""
    return _CURRENT.get()


@contextlib.contextmanager
def work_on(call: Call) -> Iterator[None]:
    """Makes `call` the current one in the block.

    Raises:
        StatusError: DEADLINE_EXCEEDED, it expired before: its work is not begun.
    """
    if call.expired():
        raise deadline_exceeded("Deadline exceeded before the request was run")
    token = _CURRENT.set(call)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def deadline_exceeded(message: str) -> StatusError:
    """Returns the error for work that came, or was done, too late."""
    return StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, message)
