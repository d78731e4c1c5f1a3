"""One roll-out at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from cmdcm.core.errors import ServingError
from cmdcm.core.files import output_errors


@contextlib.contextmanager
def rollout_lock(config_file: Path) -> Iterator[None]:
    """Holds the lock of a model config file; the system frees it when the process ends, in any way.

    It is a lock on a file beside it, because a roll-out replaces the config file itself.

    Raises:
        ServingError: Another process holds it.
    """
    path = config_file.with_name(f".{config_file.name}.lock")
    with output_errors(path), path.open("a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServingError(
                f"another roll-out or deploy of {config_file} is under way; wait for it to end"
            ) from error
        yield
