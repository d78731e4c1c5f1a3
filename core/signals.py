"""SIGTERM, by which schedulers announce that a machine is taken away."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cmdcm.core.closing import Closing
from cmdcm.core.errors import PreemptedError


class Termination(Closing):
    """Notes SIGTERM instead of dying of it, so that work can be saved first.

    It listens until it is closed. Outside a process's main thread, where Python takes no signals,
    it never hears one.

    Attributes:
        asked: Whether SIGTERM has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def close(self) -> None:
        """Gives the signal back to whoever had it."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class _Terminated(BaseException):
    """SIGTERM has come. No error that somebody on the way could take for one of his step."""


@contextlib.contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """Ends a block where it stands when SIGTERM comes, so that what it holds is given back.

    For work that may be killed anywhere: by itself the signal would leave its locks behind. A
    `Termination` inside of the block hears the signal in its place. Outside a process's main
    thread the block never hears it.

    Raises:
        PreemptedError: It has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the way out is not interrupted
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _Terminated:
        raise PreemptedError("stopped by SIGTERM: run the same command to go on") from None
    finally:
        signal.signal(signal.SIGTERM, before)
