"""The optimizers: of the embedding tables, of the dense weights, and of linear heads if any."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from cmdcm.core.config import TrainingConfig
from cmdcm.model.adagrad import Adagrad
from cmdcm.model.base import RankingModel

LINEAR_RATE = 10.0
"""The learning rate of linear heads, in those of the dense weights. Their risk is convex in a few
coefficients, so they gain by larger steps, and the best epoch of the network may come early."""

ABSOLUTE_THRESHOLD = 1e-2
"""What ClippyAdagrad may always change of a weight, whose own size would hold it at zero."""

Optimizer = Any
"""Keras' optimizers of either generation, which share no base."""


def _clippy_adagrad(rate: float) -> Optimizer:
    """ClippyAdagrad (Tang et al., KDD 2023): steps shrunk to the size of the weights."""
    return tfrs.experimental.optimizers.ClippyAdagrad(rate, absolute_threshold=ABSOLUTE_THRESHOLD)


OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {
    "adagrad": Adagrad,
    "adam": tf.keras.optimizers.legacy.Adam,
    "clippy_adagrad": _clippy_adagrad,
    "ftrl": tf.keras.optimizers.legacy.Ftrl,
}
"""By the settings' names: learning rate -> optimizer."""


def make_table_optimizer(config: TrainingConfig) -> Optimizer:
    """Returns the optimizer of the embedding tables."""
    return OPTIMIZERS[config.table_optimizer](config.table_learning_rate)


def make_optimizer(
    model: RankingModel, config: TrainingConfig, of_tables: Optimizer | None = None
) -> tf.keras.optimizers.Optimizer:
    """One optimizer on the tables, one on the dense weights, a faster one on linear heads.

    They come with all their slots, so that a checkpoint has them from the first.

    Those of tables touch the looked-up rows alone and slow down for frequent ids; Adam's moments
    decay on every row at every step, which makes it ten times slower on large tables.

    Args:
        model: The built model.
        config: Names them and their learning rates.
        of_tables: The one of the tables, if the tables needed it to be built.
    """
    tables = {v.ref() for v in model.table_variables}
    linear = {v.ref() for v in model.linear_variables}
    dense = OPTIMIZERS[config.dense_optimizer]
    optimizers = [
        (
            of_tables or make_table_optimizer(config),
            lambda: [v for v in model.trainable_variables if v.ref() in tables],
        ),
        (
            dense(config.learning_rate),
            lambda: [v for v in model.trainable_variables if v.ref() not in tables | linear],
        ),
    ]
    if linear:
        optimizers.append(
            (
                dense(LINEAR_RATE * config.learning_rate),
                lambda: [v for v in model.trainable_variables if v.ref() in linear],
            )
        )
    # One without weights, as of frozen tables, takes no steps; those of the first are counted.
    optimizers = [o for o in optimizers if o[1]()]
    for optimizer, weights in optimizers:
        _create_slots(optimizer, weights())
    return tfrs.experimental.optimizers.CompositeOptimizer(optimizers)


def _create_slots(optimizer: Optimizer, weights: Sequence[tf.Variable]) -> None:
    """Creates what else comes with the first step: a state saved before that would lack it."""
    if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
        optimizer._create_all_weights(weights)
    else:
        optimizer.build(weights)
