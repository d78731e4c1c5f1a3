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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from upath import UPath

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.locations import Location

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


def sha256(path: Location) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def output_errors(target: Location) -> Iterator[None]:
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


def check_free(target: Location, *, overwrite: bool) -> None:
    """Refuses an output that exists.

    Raises:
        OutputError: It exists and is not an empty directory, and `overwrite` is not set.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"cannot write {target}: a file of that name is in the way")
    if not overwrite and target.exists() and any(target.iterdir()):
        raise OutputError(f"{target} exists and is not empty; pass --overwrite or another path")


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
    check_free(target, overwrite=overwrite)
    staging = target.with_name(f".{target.name}.staging-{os.getpid()}")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
    try:
        with output_errors(target):
            yield staging
            publish_directory(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def upload(directory: Path, target: UPath, *, overwrite: bool, present: Iterable[str] = ()) -> None:
    """Copies a finished local directory; its manifest comes last and makes it visible as a whole.

    Args:
        directory: What to copy.
        target: Where to; all other files there are deleted.
        overwrite: Replace an existing `target`; otherwise its presence is an error.
        present: Relative paths of files that are in `target` already, and stay.

    Raises:
        OutputError: `target` exists (without `overwrite`), or cannot be written.
    """
    check_free(target, overwrite=overwrite)
    names = sorted(
        file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()
    )
    names.sort(key=lambda name: name == MANIFEST)
    try:
        if (target / MANIFEST).exists():
            (target / MANIFEST).unlink()
        kept = {str(target / name) for name in (*names, *present)}
        for old in list(target.rglob("*")) if target.exists() else []:
            if str(old) not in kept and old.is_file():
                old.unlink()
        for name in names:
            put_file(directory / name, target / name)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error}") from error


def put_file(source: Path, target: Location) -> None:
    """Puts a complete local file where it belongs; for a path that is on the same file system."""
    if isinstance(target, Path):
        target.parent.mkdir(exist_ok=True)
        source.replace(target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.fs.put_file(str(source), target.path)


def publish_directory(staging: Path, target: Path) -> None:
    """Flushes a complete directory to disk and renames it to `target`, which it replaces."""
    _sync_tree(staging)
    if target.exists():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        try:
            target.rename(old)
            staging.rename(target)
        except BaseException:  # SIGTERM may come here, too
            if old.exists() and not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)
    _sync(target.parent)


def rename_new(staging: Path, target: Path) -> bool:
    """Flushes a complete directory to disk and renames it to `target`, unless something is there.

    Returns:
        Whether it was renamed; an empty directory of that name is replaced.
    """
    _sync_tree(staging)
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    _sync(target.parent)
    return True


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


def read_json(path: Location, what: str) -> Any:
    """Reads a JSON file; `what` names it in the error when it is absent or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{what} not found at {path}") from error
    except OSError as error:
        raise DataError(f"cannot read {what} at {path}: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{what} at {path} is not valid JSON: {error}") from error


def write_manifest(
    directory: Path,
    description: Mapping[str, Any],
    hashed: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes `manifest.json`: `description`, and size and SHA-256 of every file there is.

    Args:
        directory: The directory to describe.
        description: What else the manifest says.
        hashed: By relative path, `bytes` and `sha256` of files that need not be read again, or
            lie in a remote directory that this one is to complete.
    """
    known = hashed or {}
    files = {
        name: dict(known[name]) if name in known else describe_file(directory / name)
        for name in sorted(_names(directory) | set(known))
    }
    write_json(directory / MANIFEST, {**description, "files": files})


def describe_file(path: Location) -> dict[str, Any]:
    """Returns `bytes` and `sha256` of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _names(directory: Path) -> set[str]:
    """Returns the paths of all files below a directory but its manifest."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and path != directory / MANIFEST
    }


def read_manifest(directory: Location, kind: str) -> dict[str, Any]:
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
    present = _names(directory)
    faults = [f"{name}: missing" for name in sorted(set(listed) - present)]
    faults += [f"{name}: not in the manifest" for name in sorted(present - set(listed))]
    for name in sorted(present & set(listed)):
        entry = listed[name]
        if not isinstance(entry, dict) or sha256(directory / name) != entry.get("sha256"):
            faults.append(f"{name}: SHA-256 differs")
    if faults:
        raise DataError(f"{directory} does not match its manifest: {'; '.join(faults[:10])}")


def _read_manifest(directory: Location, what: str) -> dict[str, Any]:
    path = directory / MANIFEST
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
