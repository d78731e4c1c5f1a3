"""The most memory that this process held, from a moment on (Linux; elsewhere since its start)."""

import contextlib
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Lets the peak begin anew, where the system can."""
    with contextlib.suppress(OSError):
        _RESET.write_text("5")


def peak_mib() -> float:
    """Returns the peak of resident memory in MiB."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = _STATUS.read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 1024)
