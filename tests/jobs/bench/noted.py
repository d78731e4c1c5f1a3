"""A task that other processes find under the package's own name."""

import os
from pathlib import Path

from cmdcm.core.errors import DataError


def note(item: tuple[Path, str]) -> None:
    """Leaves its process' number behind; fails or dies if that is asked for."""
    path, way = item
    path.write_text(str(os.getpid()))
    if way == "fail":
        raise DataError("no rows")
    if way == "die":
        os._exit(3)
