"""The embedded server in a process of its own, for benchmarks and tests."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_READY = re.compile(r"serving .*: gRPC (\S+?), (?:REST http://\S+:(\d+)|no REST)\n")
_STOP_SECONDS = 30


@dataclass(frozen=True)
class ServerProcess:
    """A running server.

    Attributes:
        process: Its process.
        target: HOST:PORT of its gRPC port.
        rest_port: Its REST port; -1 without one.
    """

    process: subprocess.Popen
    target: str
    rest_port: int

    @property
    def resident_mb(self) -> float:
        """Memory that the process holds, in MB (2^20 bytes)."""
        statm = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextlib.contextmanager
def server_process(log: Path, *flags: str) -> Iterator[ServerProcess]:
    """Starts `cmdcm serve --embedded` with flags and yields it once it answers; stops it after.

    Args:
        log: File for what the server logs.
        flags: Flags of `cmdcm serve`; the ports are free ones.

    Raises:
        RuntimeError: It does not start; the message ends with the last lines of the log.
    """
    command = [sys.executable, "-m", "cmdcm.jobs.main", "serve", "--embedded", "--port=0", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = _READY.fullmatch(process.stdout.readline())
            if ready is None:
                process.kill()
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                raise RuntimeError("the server does not start: " + "\n".join(lines[-5:]))
            yield ServerProcess(process, ready[1], int(ready[2] or -1))
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()
