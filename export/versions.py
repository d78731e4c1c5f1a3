"""Versions of a served model: numbered folders under a base path, published whole or not at all.

A local version is staged in `BASE/.staging-HOST-PID-...`, which no server looks at, flushed to disk
and renamed to the next free number; a rename never replaces a version, so that of two exporters one
takes the number after. On a remote file system a number is claimed by making `BASE/.claim-NUMBER`,
which fails if it is there; then the files are uploaded, `saved_model.pb` last: without it a server
takes a folder for no version. What a killed exporter leaves behind is one of these hidden names, or
a remote folder without `saved_model.pb` whose number is not used again. A version that a check
refused after it was published becomes `BASE/.refused-NUMBER`, which no server looks at either.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from cmdcm.core.errors import ExportError
from cmdcm.core.files import MANIFEST, output_errors, put_file, rename_new, verify_manifest
from cmdcm.core.locations import Location
from cmdcm.export.trust import check_saved_model

MODEL_FILE = "saved_model.pb"
_STAGING, _CLAIM, _REFUSED = ".staging", ".claim", ".refused"


def versions(base: Location) -> list[int]:
    """Returns the version numbers under a base path, in order."""
    if not base.is_dir():
        return []
    return sorted(int(p.name) for p in base.iterdir() if p.name.isdecimal() and p.is_dir())


def check_version(directory: Path, *, require_manifest: bool) -> None:
    """Checks the files of a version against its manifest, and what its graph may do.

    Args:
        directory: The version, ours or another SavedModel.
        require_manifest: Refuse a version without a manifest, as other SavedModels are.

    Raises:
        DataError: A file is missing, differs or was added, or the graph is not trusted.
    """
    if require_manifest or (directory / MANIFEST).exists():
        verify_manifest(directory)
    check_saved_model(directory)


def withdraw(base: Path, number: int) -> None:
    """Takes a version away from the servers of a local base path; its number is not used again.

    It stays as `BASE/.refused-NUMBER`, for who looks into what was wrong with it.
    """
    with output_errors(base):
        (base / str(number)).rename(base / f"{_REFUSED}-{number}")


@contextlib.contextmanager
def staging_directory(base: Location) -> Iterator[Path]:
    """Yields an empty local directory for a version of `base`; it is gone afterwards.

    Removes the ones that dead processes of this machine left in a local base path.
    """
    if not isinstance(base, Path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    own = f"{_STAGING}-{socket.gethostname()}-"
    with output_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        for old in base.glob(f"{own}*"):
            if not _is_alive(old.name.removeprefix(own).partition("-")[0]):
                shutil.rmtree(old, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-", dir=base))
        staging.chmod(0o755)  # mkdtemp's own mode would hide the version from a server's user
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, base: Location) -> int:
    """Publishes a complete directory as the next version; returns its number.

    Raises:
        OutputError: The base path cannot be written, or its disk is full.
        ExportError: A remote file system failed; no version can be seen there.
    """
    if isinstance(base, Path):
        number = max([*versions(base), *_numbers(base, _REFUSED)], default=0) + 1
        with output_errors(base):
            while not rename_new(staging, base / str(number)):
                number += 1
        return number
    try:
        return _upload(staging, base)
    except (OSError, NotImplementedError, ValueError) as error:  # drivers differ
        raise ExportError(f"cannot publish to {base}: {error}; no version was made") from error


def _upload(staging: Path, base: UPath) -> int:
    number, claim = _claimed(base)
    target = base / str(number)
    names = [p.relative_to(staging).as_posix() for p in staging.rglob("*") if p.is_file()]
    for name in sorted(names, key=lambda name: (name == MODEL_FILE, name)):
        put_file(staging / name, target / name)
        size, arrived = (staging / name).stat().st_size, (target / name).stat().st_size
        if arrived != size:
            (target / name).unlink()
            raise OSError(f"{name} arrived with {arrived} of {size} bytes")
    claim.unlink()
    return number


def _claimed(base: UPath) -> tuple[int, UPath]:
    base.mkdir(parents=True, exist_ok=True)
    number = max([*versions(base), *_numbers(base, _CLAIM)], default=0)
    while True:
        number += 1
        claim = base / f"{_CLAIM}-{number}"
        try:
            with base.fs.open(claim.path, "xb") as stream:
                stream.write(f"{socket.gethostname()} {os.getpid()}\n".encode())
        except FileExistsError:
            continue
        if not (base / str(number)).exists():
            return number, claim
        claim.unlink()


def _numbers(base: Location, prefix: str) -> list[int]:
    """Returns the numbers of hidden names under a base path."""
    names = [p.name for p in base.iterdir() if p.name.startswith(f"{prefix}-")]
    return [int(n) for n in (name.rpartition("-")[2] for name in names) if n.isdecimal()]


def _is_alive(process: str) -> bool:
    if not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
