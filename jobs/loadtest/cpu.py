"""CPU time of this process and of the server's."""

import os
import time
from pathlib import Path

from cmdcm.core.errors import ConfigError

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """Measures CPU seconds, user and system, since `start`.

    Args:
        server_pid: The server's process on this machine; None for no watching.

    Raises:
        ConfigError: There is no such process, or the system has no /proc.
    """

    def __init__(self, server_pid: int | None):
        self._pid = server_pid
        self.start()

    def start(self) -> None:
        """Begins to measure, or begins again."""
        self._client = time.process_time()
        self._server = self._server_seconds()

    def client(self) -> float:
        """Returns the seconds that all threads of this process took."""
        return time.process_time() - self._client

    def server(self) -> float | None:
        """Returns the seconds that the server's process took; None if it is not watched."""
        now = self._server_seconds()
        return None if now is None or self._server is None else now - self._server

    def _server_seconds(self) -> float | None:
        if self._pid is None:
            return None
        path = Path("/proc") / str(self._pid) / "stat"
        try:
            # The second field is the program's name in parentheses and may hold anything.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError as error:
            raise ConfigError(f"--server_pid {self._pid}: no such process here: {error}") from error
        user, system = int(fields[11]), int(fields[12])  # fields 14 and 15 in proc(5)
        return (user + system) / _TICKS_A_SECOND
