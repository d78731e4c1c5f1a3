"""Checkpoints of a run: written beside the training, whole or not at all, and checked when read."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from cmdcm.core.errors import OutputError
from cmdcm.core.files import output_errors

BEST = "best"
"""Name of the weights of the best epoch."""


class Checkpoints:
    """The states of one run, newest last.

    A state is copied while the run waits and written while it goes on. It counts from the moment in
    which the file `checkpoint` names it, after all of it is on the disk; what a killed run leaves
    half-written is deleted by the next one.

    Args:
        directory: Where they are.
        state: What a checkpoint holds, by name.
        weights: The network's weights, which are kept of the best epoch too.
        keep: How many of the newest are kept.
        background: Whether to write in the background. It takes a copy of the state in memory.
        writes: Whether this process writes at all; of several workers one does.
    """

    def __init__(
        self,
        directory: Path,
        state: Mapping[str, Any],
        weights: tf.train.Checkpoint,
        *,
        keep: int = 3,
        background: bool = True,
        writes: bool = True,
    ):
        self.directory, self._writes, self._weights = directory, writes, weights
        self._checkpoint = tf.train.Checkpoint(**state)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(directory), keep)
        self._options = tf.train.CheckpointOptions(enable_async=background)
        self._saved = self._manager.latest_checkpoint

    def restore(self) -> str | None:
        """Restores the newest state that is whole.

        One that cannot be read is passed over with a warning.

        Returns:
            The path that was restored; None if there is none.

        Raises:
            OutputError: There are checkpoints, but none can be read.
        """
        if self._writes and self.directory.exists():
            _remove_unfinished(self.directory)
        paths = self._manager.checkpoints
        for path in reversed(paths):
            damage = _damage(path)
            if damage is None:
                self._checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
                return str(path)
            logging.warning("checkpoint %s cannot be read, trying the one before: %s", path, damage)
        if paths:
            raise OutputError(
                f"none of the {len(paths)} checkpoints in {self.directory} can be read; start the "
                "run anew with --overwrite"
            )
        return None

    def save(self) -> None:
        """Saves the state, while the run goes on.

        Raises:
            OutputError: This state, or the one before, cannot be written.
        """
        if self._writes:
            with write_errors(self.directory):
                self._saved = self._manager.save(options=self._options)

    def wait(self) -> None:
        """Returns when the last state is on the disk.

        Raises:
            OutputError: It cannot be written.
        """
        if self._writes:
            with write_errors(self.directory):
                self._manager.sync()
                if self._manager.latest_checkpoint != self._saved:
                    # Writing in the background failed; in the foreground it says why.
                    self._saved = self._manager.save()

    def save_best(self) -> None:
        """Keeps the weights as those of the best epoch; they replace others when they are whole."""
        if self._writes:
            with write_errors(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
                self._weights.write(str(self.directory / BEST))

    def restore_best(self) -> None:
        """Restores the weights of the best epoch.

        Raises:
            OutputError: They cannot be read.
        """
        path = str(self.directory / BEST)
        if damage := _damage(path):
            raise OutputError(
                f"the weights of the best epoch, {path}, cannot be read: {damage}. Put a copy of "
                "them there, or start the run anew with --overwrite"
            )
        self._weights.read(path).assert_consumed()


@contextlib.contextmanager
def write_errors(directory: Path) -> Iterator[None]:
    """Turns TensorFlow's errors of writing into an `OutputError`, and removes the unfinished."""
    try:
        with output_errors(directory):
            yield
    except tf.errors.OpError as error:
        _remove_unfinished(directory)
        raise OutputError(
            f"no checkpoint can be written to {directory}: {error.message}. The last one there is "
            "whole: mend the cause, such as a full disk, and run the command again to go on."
        ) from error


def _damage(path: str) -> str | None:
    """Reads all of a checkpoint, whose blocks have checksums; returns what is wrong, if anything.

    Restoring it would find damage after a part of it was assigned.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        return str(error)
    return None


def _remove_unfinished(directory: Path) -> None:
    for pattern in ("*.tempstate*", "*_temp"):
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
