"""Faults of the machine: a full disk, a killed process, bytes that change on their way."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from cmdcm.core.config import Config
from cmdcm.core.files import staged_file, write_json
from cmdcm.jobs.retrain.job import Request


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Makes flushing a file below a folder fail as on a full disk.

    A file system that allocates late (XFS, btrfs, NFS) tells ENOSPC there. Nothing else of the
    machine is touched, so that other files can still be written.
    """
    flush = os.fsync
    below = folder.resolve()

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(below):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with mock.patch("os.fsync", fsync):
        yield


def break_bytes(file: Path) -> None:
    """Flips bytes in the middle of a file; its size stays."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    for place in range(middle, min(middle + 16, len(content))):
        content[place] ^= 0xFF
    file.write_bytes(content)


def run_killed(config: Config, request: Request, now: float, folder: Path) -> str:
    """Runs the job in a process of its own that is killed in its training.

    Returns:
        How the process ended.
    """
    with staged_file(folder / "killed.json") as staging:
        described = {"promotion": request.promotion, "as_of": request.as_of, "by": request.by}
        write_json(
            staging, {"request": described, "now": now, "config": config.model_dump(mode="json")}
        )
    done = subprocess.run(
        [sys.executable, "-m", "cmdcm.jobs.year.worker", str(folder / "killed.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return "SIGKILL in its training"
    return f"exit code {done.returncode}: {done.stderr[-500:]}"
