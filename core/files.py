"""Writing that is never half done: stage beside the target, verify, rename.

A directory of artefacts is written into a hidden sibling (`.NAME.staging-PID`), every file of it is
hashed into `manifest.json`, flushed to disk, and the sibling is renamed to its final name. A reader
sees the old state or the new one.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmdcm.core.errors import DataError, OutputError

MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_UNWRITABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turns the operating system's write errors into an `OutputError` that names `target`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"no space left while writing {target}; nothing was published there. "
                "Free disk space or choose another output, then run the command again."
            ) from error
        if error.errno in _UNWRITABLE:
            raise OutputError(f"cannot write {target}: {error}") from error
        raise


@contextlib.contextmanager
def staged_directory(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a staging directory that becomes `target` when the block ends without an error.

    Args:
        target: The directory to publish.
        overwrite: Replace an existing `target`; otherwise its presence is an error.

    Raises:
        OutputError: `target` exists (without `overwrite`), cannot be written, or the disk is full.
    """
    target = Path(target).resolve()  # a link to a directory stays a link
    if target.exists() and not target.is_dir():
        raise OutputError(f"cannot write {target}: a file of that name is in the way")
    if target.exists() and not overwrite and any(target.iterdir()):
        raise OutputError(f"{target} exists and is not empty; pass --overwrite or another path")
    staging = target.with_name(f".{target.name}.staging-{os.getpid()}")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
    try:
        with output_errors(target):
            yield staging
            _sync_tree(staging)
            if target.exists():
                old = target.with_name(f".{target.name}.old-{os.getpid()}")
                target.rename(old)
                try:
                    staging.rename(target)
                except OSError:
                    old.rename(target)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                staging.rename(target)
            _sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Yields a path to write; it replaces `target` when the block ends without an error."""
    target = Path(target).absolute()
    staging = target.with_name(f".{target.name}.staging-{os.getpid()}")
    try:
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield staging
            _sync(staging)
            staging.replace(target)
    finally:
        with contextlib.suppress(OSError):  # its folder may not exist
            staging.unlink()


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file; `what` names it in the error when it is absent or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{what} not found at {path}") from error
    except OSError as error:
        raise DataError(f"cannot read {what} at {path}: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{what} at {path} is not valid JSON: {error}") from error


def write_manifest(directory: Path, description: Mapping[str, Any]) -> None:
    """Writes `manifest.json`: `description`, and size and SHA-256 of every file there is."""
    files = {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST
    }
    write_json(directory / MANIFEST, {**description, "files": files})


def read_manifest(directory: Path, kind: str) -> dict[str, Any]:
    """Reads a directory's manifest and checks that it describes a `kind` of artefact."""
    manifest = _read_manifest(directory, f"manifest of the {kind}")
    if manifest.get("kind") != kind:
        raise DataError(f"{directory} holds {manifest.get('kind')!r}, expected {kind!r}")
    return manifest


def verify_manifest(directory: Path) -> None:
    """Checks every file against the manifest: none missing, none extra, all bytes as hashed.

    Raises:
        DataError: Names the first ten files that differ and how.
    """
    directory = Path(directory)
    listed = _read_manifest(directory, "manifest")["files"]
    present = {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and path != directory / MANIFEST
    }
    faults = [f"{name}: missing" for name in sorted(set(listed) - present)]
    faults += [f"{name}: not in the manifest" for name in sorted(present - set(listed))]
    for name in sorted(present & set(listed)):
        if sha256(directory / name) != listed[name]["sha256"]:
            faults.append(f"{name}: SHA-256 differs")
    if faults:
        raise DataError(f"{directory} does not match its manifest: {'; '.join(faults[:10])}")


def _read_manifest(directory: Path, what: str) -> dict[str, Any]:
    path = Path(directory) / MANIFEST
    manifest = read_json(path, what)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{what} at {path} lists no files; it was not written by cmdcm")
    return manifest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        _sync(path)
    _sync(directory)
