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
        _blocks.leaving = _blocks.open > 0


class _Blocks:
    """The blocks of `ending_at_sigterm` that the main thread is in.

    Attributes:
        open: How many.
        leaving: Whether SIGTERM has come in one of them.
    """

    open = 0
    leaving = False


_blocks = _Blocks()


class _Terminated(BaseException):
    """SIGTERM has come. No error that somebody on the way could take for one of his step."""


@contextlib.contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """Ends a block where it stands when SIGTERM comes, so that what it holds is given back.

    For work that may be killed anywhere: by itself the signal would leave its locks behind. A
    `Termination` inside of the block hears the signal in its place. The way out, of the blocks
    around it too, is not interrupted by another SIGTERM. Outside a process's main thread the block
    never hears it.

    Raises:
        PreemptedError: It has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if not _blocks.leaving:
            _blocks.leaving = True
            raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    _blocks.open += 1
    try:
        yield
    except _Terminated:
        raise PreemptedError("stopped by SIGTERM: run the same command to go on") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        _blocks.open -= 1
        _blocks.leaving = _blocks.leaving and _blocks.open > 0
