"""TensorBoard: losses, speed and the split of a step's time by step; the history by epoch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from cmdcm.model.observers import Observer

_FLUSH_MS = 10_000


class TensorBoard(Observer):
    """Writes event files; the axis of the history's scalars is the epoch, of all others the step.

    What an interrupted part of a run wrote after its last checkpoint is taken back by TensorBoard
    when it reads that the run went on from there.

    Args:
        logs: Directory of the event files.
    """

    def __init__(self, logs: Path):
        self._logs = logs
        self._writer: Any = None
        self._taken = 0

    def started(self, taken: int) -> None:
        """Notes where the run goes on. A file is made by the first value."""
        self._taken = taken

    def stepped(self, taken: int, values: Mapping[str, float]) -> None:
        """Writes the values of steps."""
        self._write(taken, values)

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        """Writes an epoch's record."""
        self._write(epoch, record)
        self._writer.flush()

    def ended(self, error: BaseException | None) -> None:
        """Completes the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._logs), flush_millis=_FLUSH_MS)
            self._restart()
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def _restart(self) -> None:
        """Has TensorBoard take back all values of later steps."""
        log = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        event = tf.compat.v1.Event(step=self._taken + 1, session_log=log)
        tf.raw_ops.ImportEvent(writer=self._writer._resource, event=event.SerializeToString())
