"""One job a promotion: a lock with an owner and an expiry, that survives kills and machines."""

import contextlib
import fcntl
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.errors import RetrainError
from cmdcm.core.files import output_errors, read_json, staged_file, write_json
from cmdcm.core.user import user_name


class LostLockError(RetrainError):
    """A run whose lock expired, and which another run has now: it touches nothing more."""


class JobLock:
    """A held lock; `check` before anything that others see.

    Attributes:
        path: Its file.
        token: What tells this holder from a later one.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    def check(self) -> None:
        """Makes sure that nobody has taken the lock after it expired.

        Raises:
            LostLockError: Somebody has.
        """
        holder = _holder(self.path)
        if holder is None or holder["token"] != self.token:
            by = holder["owner"] if holder else "nobody"
            raise LostLockError(
                f"the lock {self.path} expired and is held by {by} now: this run goes no further "
                "(retrain.lock_hours)"
            )


@contextlib.contextmanager
def job_lock(path: Path, hours: float, clock: Callable[[], float]) -> Iterator[JobLock]:
    """Holds the lock of a promotion's jobs.

    A lock whose process is gone (on the same machine) or whose time is over is taken.

    Args:
        path: The lock's file.
        hours: After so many others may take it.
        clock: Seconds since the epoch.

    Raises:
        RetrainError: Another run holds it; says who, since when and until when.
    """
    token = uuid.uuid4().hex
    with _exclusive(path):
        holder = _holder(path)
        if holder is not None and not _gone(holder, clock()):
            raise RetrainError(
                f"{holder['owner']} has been at it since {_iso(holder['since'])} and holds {path} "
                f"until {_iso(holder['until'])}: wait, or stop that run. If it is dead on another "
                "machine, delete the file"
            )
        if holder is not None:
            logging.warning("taking the lock of %s, whose run is over", holder["owner"])
        now = clock()
        with staged_file(path) as staging:
            write_json(
                staging,
                {
                    "owner": f"{user_name()}@{socket.gethostname()} process {os.getpid()}",
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "since": now,
                    "until": now + hours * 3600,
                    "token": token,
                },
            )
    lock = JobLock(path, token)
    try:
        yield lock
    finally:
        with _exclusive(path):
            held = _holder(path)
            if held is not None and held["token"] == token:
                path.unlink()


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Serialises the few instructions that look at the lock and change it."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".guard").open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def _holder(path: Path) -> dict[str, Any] | None:
    return dict(read_json(path, "lock")) if path.exists() else None


def _gone(holder: dict[str, Any], now: float) -> bool:
    if now >= holder["until"]:
        return True
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
