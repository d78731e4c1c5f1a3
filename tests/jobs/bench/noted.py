"""A task that other processes find under the package's own name."""

import fcntl
import os
import signal
import time
from pathlib import Path

from cmdcm.core.errors import DataError
from cmdcm.core.signals import ending_at_sigterm


def note(item: tuple[Path, str]) -> None:
    """Leaves its process' number behind; fails or dies if that is asked for.

    Late it begins after a second. As an orphan it kills the process that started it, and holds a
    lock for as long as it lives.
    """
    path, way = item
    if way == "late":
        time.sleep(1)
    path.write_text(str(os.getpid()))
    if way == "fail":
        raise DataError("no rows")
    if way == "told to end":
        with ending_at_sigterm():
            signal.raise_signal(signal.SIGTERM)
    if way == "die":
        os._exit(3)
    if way == "orphan":
        with path.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
