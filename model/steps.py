"""The steps of training: each takes one batch, on all replicas, and moves the weights once.

The loss is that of the whole batch, whatever the number of replicas: a replica computes its share
(`cmdcm.model.losses.weighted_mean`), and the shares' gradients are added up before the optimizer
sees them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from cmdcm.features.records import Shares
from cmdcm.model.base import RankingModel
from cmdcm.model.inputs import Tensors
from cmdcm.model.strategies import Place
from cmdcm.model.tpu import HostInput

Pending = Mapping[str, tf.Tensor]
"""What a step gives, maybe before it is there: losses of the whole batch, by name."""


class Steps:
    """Takes steps in which all replicas see one batch and the same weights.

    Args:
        model: The built model.
        optimizer: Its optimizer.
        place: The replicas.
    """

    def __init__(self, model: RankingModel, optimizer: tf.keras.optimizers.Optimizer, place: Place):
        self._model, self._optimizer, self._place = model, optimizer, place
        self._compiled: Any = None

    def batches(self, make: Callable[[Shares], tf.data.Dataset]) -> Iterator[Any]:
        """Returns the batches that `take` takes.

        Args:
            make: Returns the data set of some shares of every batch.
        """
        strategy, replicas = self._place.strategy, self._place.replicas
        on_host = self._place.device_tables or (
            self._place.asynchronous and self._model.trunk.encoder.ids.listed
        )
        prepare = HostInput(self._model) if on_host else None

        def prepared(shares: Shares) -> tf.data.Dataset:
            dataset = make(shares)
            return dataset if prepare is None else dataset.map(prepare).prefetch(2)

        if replicas == 1 and not self._place.device_tables:
            dataset = prepared(Shares((0,), 1))
        else:

            def own(context: tf.distribute.InputContext) -> tf.data.Dataset:
                count = replicas // context.num_input_pipelines
                first = context.input_pipeline_id * count
                return prepared(Shares(tuple(range(first, first + count)), replicas))

            dataset = strategy.distribute_datasets_from_function(own)
        if self._compiled is None:
            signature = [dataset.element_spec, tf.TensorSpec([], tf.bool)]
            self._compiled = tf.function(self._step, input_signature=signature, autograph=False)
        return iter(dataset)

    def take(self, batch: Any, stop: bool = False) -> Pending:
        """Takes a step.

        Args:
            batch: One of those that `batches` returned.
            stop: Whether this process wants to stop.

        Returns:
            The loss, its parts by name, and in how many replicas' processes `stop` was set.
        """
        return self._compiled(batch, tf.constant(stop))

    @property
    def taken(self) -> int:
        """Steps since the start of the run, in all its epochs and processes."""
        with self._place.strategy.scope():
            return int(self._optimizer.iterations.numpy())

    def fetch(self, pending: Sequence[Pending]) -> list[dict[str, float]]:
        """Waits for steps and returns what they gave."""
        return [{name: float(value) for name, value in step.items()} for step in pending]

    def meet(self) -> None:
        """Returns when all workers are here."""
        if self._place.replicas > 1 and self._place.workers > 1:
            strategy = self._place.strategy
            here = strategy.run(lambda: tf.constant(1.0))
            strategy.reduce(tf.distribute.ReduceOp.SUM, here, axis=None)

    def _step(self, batch: Any, stop: tf.Tensor) -> Pending:
        strategy = self._place.strategy
        parts = strategy.run(self._replica_step, args=(batch, stop))
        if self._place.replicas == 1:
            return parts
        return {
            name: strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)
            for name, part in parts.items()
        }

    def _replica_step(self, batch: Tensors, stop: tf.Tensor) -> Pending:
        return {
            **train_step(self._model, self._optimizer, batch),
            "stop": tf.cast(stop, tf.float32),
        }


def train_step(
    model: RankingModel, optimizer: tf.keras.optimizers.Optimizer, batch: Tensors
) -> Pending:
    """Moves the weights once; returns the replica's share of the loss and of its parts."""
    losses, gradients = losses_and_gradients(model, batch)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return losses


def losses_and_gradients(model: RankingModel, batch: Tensors) -> tuple[Pending, Sequence[Any]]:
    """Returns the replica's share of the loss and of its parts, and the weights' gradients."""
    with tf.GradientTape() as tape:
        parts = model.loss_parts(batch)
        loss = tf.add_n(list(parts.values()))
    losses = {"loss": loss, **{f"loss_{name}": part for name, part in parts.items()}}
    gradients = tape.gradient(loss, model.trainable_variables)
    if model.trunk.encoder.dense_gradients:
        gradients = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
    return losses, gradients
