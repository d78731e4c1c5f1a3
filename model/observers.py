"""Observers of a training run: who is told what it does, such as TensorBoard or a tracking server.

A run is not to be harmed by its records: an observer that fails is left out from then on, with one
warning.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import logging


class Observer:
    """Base of all observers. Each method returns quickly, because the training waits for it."""

    def started(self, taken: int) -> None:
        """Is called before the first step.

        Args:
            taken: Steps that the run took before it was interrupted; 0 for a new one.
        """

    def stepped(self, taken: int, values: Mapping[str, float]) -> None:
        """Is called every few steps.

        Args:
            taken: Steps since the start of the run, over all epochs.
            values: Means over the steps since the last call, by name.
        """

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        """Is called after an epoch.

        Args:
            epoch: Its number, from 1.
            record: Its record in the history, and its speed.
        """

    def ended(self, error: BaseException | None) -> None:
        """Is called last; `error` is what ended the run before its model was published."""


class Observers(Observer):
    """Several observers as one that never fails."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = list(observers)

    @contextlib.contextmanager
    def watch(self, taken: int) -> Iterator[None]:
        """Tells start and end of a run, which is the block; see `started`."""
        self.started(taken)
        try:
            yield
        except BaseException as error:
            self.ended(error)
            raise
        self.ended(None)

    def started(self, taken: int) -> None:
        """Tells all."""
        self._tell(lambda observer: observer.started(taken))

    def stepped(self, taken: int, values: Mapping[str, float]) -> None:
        """Tells all."""
        self._tell(lambda observer: observer.stepped(taken, values))

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        """Tells all."""
        self._tell(lambda observer: observer.finished_epoch(epoch, record))

    def ended(self, error: BaseException | None) -> None:
        """Tells all."""
        self._tell(lambda observer: observer.ended(error))

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in list(self._observers):
            try:
                call(observer)
            except Exception as error:
                self._observers.remove(observer)
                name = type(observer).__name__
                logging.warning("%s records nothing more of this run: %r", name, error)
