"""SIGTERM, by which schedulers announce that a machine is taken away."""

import signal
import threading
from types import FrameType

from cmdcm.core.closing import Closing


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
