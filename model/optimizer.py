"""The optimizers: of the embedding tables, of the dense weights, and of linear heads if any."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from cmdcm.core.config import TrainingConfig
from cmdcm.model.base import RankingModel

LINEAR_RATE = 10.0
"""The learning rate of linear heads, in those of the dense weights. Their risk is convex in a few
coefficients, so they gain by larger steps, and the best epoch of the network may come early."""


def make_optimizer(model: RankingModel, config: TrainingConfig) -> tf.keras.optimizers.Optimizer:
    """Adagrad on the embedding tables, Adam on the dense weights, a faster Adam on linear heads.

    Adagrad touches the looked-up rows alone and slows down for frequent ids; Adam's moments decay
    on every row at every step, which makes it ten times slower on large tables.
    """
    tables = {v.ref() for v in model.table_variables}
    linear = {v.ref() for v in model.linear_variables}
    optimizers = [
        (
            tf.keras.optimizers.legacy.Adagrad(config.table_learning_rate),
            lambda: [v for v in model.trainable_variables if v.ref() in tables],
        ),
        (
            tf.keras.optimizers.legacy.Adam(config.learning_rate),
            lambda: [v for v in model.trainable_variables if v.ref() not in tables | linear],
        ),
    ]
    if linear:
        optimizers.append(
            (
                tf.keras.optimizers.legacy.Adam(LINEAR_RATE * config.learning_rate),
                lambda: [v for v in model.trainable_variables if v.ref() in linear],
            )
        )
    return tfrs.experimental.optimizers.CompositeOptimizer(optimizers)
