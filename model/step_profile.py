"""How long the parts of a step take, measured by steps that end early.

    forward         the losses of a batch
    backward        ... and their gradients, less the time of the former
    dense update    ... applied to all weights but the tables, less the time of the former
    sparse update   ... applied to the rows of the tables, less the time of the former

Each of the four is a compiled function. They run in turn on one batch, and the median over a few
rounds counts. Then all weights, optimizer slots and tracked means get their values back, bit by
bit: a run with a profile ends with the weights of one without.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from cmdcm.core.memory import free_memory
from cmdcm.model.base import RankingModel
from cmdcm.model.inputs import Tensors
from cmdcm.model.steps import losses_and_gradients
from cmdcm.model.strategies import Place

_ROUNDS = 9


@dataclass(frozen=True)
class StepTimes:
    """Seconds that the parts of a step take, on the slowest replica, with their exchange."""

    forward: float
    backward: float
    dense_update: float
    sparse_update: float


def measure_step(
    model: RankingModel, optimizer: tf.keras.optimizers.Optimizer, place: Place, batch: Any
) -> StepTimes:
    """Measures the parts of a step; holds a copy of all state in memory meanwhile.

    Args:
        model: The model, of which at least one step was trained.
        optimizer: Its optimizer.
        place: The replicas, which all call it at the same step; not asynchronous ones.
        batch: What one step takes.

    Raises:
        MemoryError: There is no room for the copy.
    """
    tables = {variable.ref() for variable in model.table_variables}

    def forward(batch: Tensors) -> list[tf.Tensor]:
        return list(model.loss_parts(batch).values())

    def update(batch: Tensors, dense: bool, sparse: bool) -> list[tf.Tensor]:
        losses, gradients = losses_and_gradients(model, batch)
        pairs = [
            (gradient, variable)
            for gradient, variable in zip(gradients, model.trainable_variables, strict=True)
            if (sparse if variable.ref() in tables else dense)
        ]
        if pairs:
            optimizer.apply_gradients(pairs)
        # What is not returned might not be computed.
        return [losses["loss"], *tf.nest.flatten(gradients, expand_composites=True)]

    prefixes = [
        forward,
        lambda batch: update(batch, dense=False, sparse=False),
        lambda batch: update(batch, dense=True, sparse=False),
        lambda batch: update(batch, dense=True, sparse=True),
    ]
    state = _values(model, optimizer, place)
    size, free = sum(v.dtype.size * v.shape.num_elements() for v in state), free_memory()
    if size > free:
        raise MemoryError(f"a copy of the state takes {size:,} bytes, and {free:,} are free")
    before = [variable.numpy() for variable in state]
    try:
        times = _rounds([_compiled(prefix, place, batch) for prefix in prefixes])
    finally:
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)
    # Differences within a round, because what slows one call down often slows its neighbours too.
    parts = np.median(np.diff(times, axis=1, prepend=0.0), axis=0)
    return StepTimes(*np.maximum(parts, 0.0).tolist())


def _compiled(
    prefix: Callable[[Tensors], list[tf.Tensor]], place: Place, batch: Any
) -> Callable[[], None]:
    """Returns a call that has run once, so that it is compiled."""
    compiled = tf.function(lambda batch: place.strategy.run(prefix, args=(batch,)), autograph=False)

    def call() -> None:
        compiled(batch)
        tf.test.experimental.sync_devices()

    call()
    return call


def _rounds(calls: Sequence[Callable[[], None]]) -> np.ndarray:
    """Returns the seconds that each call takes, [round, call]."""
    seconds = np.zeros((_ROUNDS, len(calls)))
    for row in seconds:
        for place, call in enumerate(calls):
            started = time.perf_counter()
            call()
            row[place] = time.perf_counter() - started
    return seconds


def _values(
    model: RankingModel, optimizer: tf.keras.optimizers.Optimizer, place: Place
) -> list[tf.Variable]:
    """Returns all variables that a step may change, on each replica of this process."""
    tracked = [variable for metric in model.metrics for variable in metric.variables]
    slots = [variable for one in optimizer.optimizers for variable in one.variables()]
    variables = [*model.variables, *tracked, *slots]
    unique = {variable.ref(): variable for variable in variables}.values()
    return [v for whole in unique for v in place.strategy.experimental_local_results(whole)]
