"""The audit log of roll-outs: JSON lines beside the model config file, only ever appended to."""

import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any

from cmdcm.core.files import output_errors


def audit_path(config_file: Path) -> Path:
    """Returns the audit log of a model config file."""
    return config_file.with_name(f"{config_file.name}.audit.jsonl")


def entries(config_file: Path) -> list[dict[str, Any]]:
    """Returns the entries so far; a line that a full disk has cut off is passed over."""
    path, found = audit_path(config_file), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def audit(config_file: Path, entry: dict[str, Any]) -> None:
    """Appends an entry with the time, and flushes it to the disk.

    Raises:
        OutputError: It cannot be written.
    """
    path = audit_path(config_file)
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with output_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"time": time, **entry}) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
