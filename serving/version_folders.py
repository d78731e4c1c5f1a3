"""The version folders of a base path: which there are, and whether their files have changed."""

from pathlib import Path

Fingerprint = frozenset[tuple[str, int, int]]
"""Name, size and time of change of every file of a version."""

_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_MAX_VERSION = 2**63 - 1


def find_versions(base_path: Path) -> dict[int, Path]:
    """Returns the complete version folders; one without its model file is still being written."""
    found: dict[int, Path] = {}
    for path in sorted(base_path.iterdir()):
        if not (path.name.isascii() and path.name.isdigit()) or int(path.name) > _MAX_VERSION:
            continue
        if any((path / name).is_file() for name in _MODEL_FILES):
            found.setdefault(int(path.name), path)
    return found


def fingerprint_of(path: Path) -> Fingerprint:
    """Returns name, size and time of change of every file, to see whether any has changed."""
    files = [file for file in path.rglob("*") if file.is_file()]
    stats = [(file, file.stat()) for file in files]
    return frozenset((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
