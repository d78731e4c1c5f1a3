"""Which code runs: the version of the package, and the commit it was checked out at."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_UNKNOWN = "unknown"


@functools.cache
def code_revision() -> str:
    """Returns the commit of the checkout that runs, or the version of the installed package.

    A commit ends in `-dirty` where files that git knows were changed since.

    Example:
        >>> code_revision() == code_revision() != ""
        True
    """
    # A folder of site-packages may lie inside of somebody else's repository.
    top = _git("rev-parse", "--show-toplevel")
    if top and Path(top).resolve() == _ROOT:
        commit = _git("rev-parse", "HEAD")
        if commit:
            changed = _git("status", "--porcelain", "--untracked-files=no")
            return f"{commit}-dirty" if changed else commit
    try:
        return f"cmdcm {importlib.metadata.version('cmdcm')}"
    except importlib.metadata.PackageNotFoundError:
        return _UNKNOWN


def _git(*arguments: str) -> str:
    """Returns what git prints about the package's folder; nothing where it cannot."""
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
