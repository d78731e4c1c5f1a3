"""Steps of `parameter_server`: the chief hands batches to workers, the weights lie on servers.

Each worker takes the next batch when it is free and moves the weights without waiting for the
others: there are as many steps as with one device, on the same batches, but of weights that are
some steps old. The chief reads the data, so that a batch of a worker that is lost goes to another
and the place in the data is exact. A lost server ends the run; it goes on from its checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from cmdcm.model.base import RankingModel
from cmdcm.model.steps import Steps
from cmdcm.model.strategies import Place


class ParameterServerSteps(Steps):
    """Takes several steps at a time, each on the next free worker."""

    def __init__(self, model: RankingModel, optimizer: tf.keras.optimizers.Optimizer, place: Place):
        super().__init__(model, optimizer, place)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(place.strategy)

    def take(self, batch: Any, stop: bool = False) -> Any:
        """Hands a step to a worker; returns at once."""
        return self._coordinator.schedule(self._compiled, args=(batch, tf.constant(stop)))

    def fetch(self, pending: Sequence[Any]) -> list[dict[str, float]]:
        """Waits for all steps and returns what they gave."""
        self._coordinator.join()
        return super().fetch([step.fetch() for step in pending])
