"""Long work that goes on where it was stopped: a directory that is published when it is complete.

Tasks leave their results in a hidden sibling of the target (`.NAME.unfinished`). A run that is
killed, or fails for lack of space, leaves it there; the next run with the same key finds what is
done. One run at a time may write a target.
"""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import check_free, output_errors, publish_directory


@dataclass(frozen=True)
class Workspace:
    """Two directories to write in.

    Attributes:
        result: Becomes the target.
        work: For what only a later task needs; deleted with the end of the work.
    """

    result: Path
    work: Path


@contextlib.contextmanager
def resumable_directory(target: Path, key: str, *, overwrite: bool = False) -> Iterator[Workspace]:
    """Yields a workspace whose result becomes `target` when the block ends without an error.

    After any other error than a `DataError`, or a kill, it stays for the next run.

    Args:
        target: The directory to publish.
        key: What determines the results (settings, input). What a run with another key left is
            deleted.
        overwrite: Replace an existing `target`; otherwise its presence is an error.

    Raises:
        OutputError: `target` exists (without `overwrite`), another run is writing it, it cannot be
            written, or the disk is full.
    """
    target = Path(target).resolve()  # a link to a directory stays a link
    check_free(target, overwrite=overwrite)
    unfinished = target.with_name(f".{target.name}.unfinished")
    workspace = Workspace(unfinished / "result", unfinished / "work")
    with output_errors(target):
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = (unfinished / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"another run is writing {target}; wait for it or stop it") from error
        try:
            with output_errors(target):
                _prepare(workspace, unfinished / "key", key)
                yield workspace
                publish_directory(workspace.result, target)
        except DataError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        except BaseException:
            logging.warning("%s is unfinished: the same command will go on with it", target)
            raise
        shutil.rmtree(unfinished, ignore_errors=True)


def _prepare(workspace: Workspace, known: Path, key: str) -> None:
    if known.exists() and known.read_text("utf-8") == key:
        logging.info("going on with what an earlier run left in %s", known.parent)
        return
    known.unlink(missing_ok=True)
    for folder in (workspace.result, workspace.work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    known.write_text(key, "utf-8")
