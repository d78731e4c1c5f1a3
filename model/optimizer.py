"""The optimizers: one for the embedding tables, one for the dense weights."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from cmdcm.core.config import TrainingConfig
from cmdcm.model.base import RankingModel


def make_optimizer(model: RankingModel, config: TrainingConfig) -> tf.keras.optimizers.Optimizer:
    """Adagrad on the embedding tables, Adam on the dense weights.

    Adagrad touches the looked-up rows alone and slows down for frequent ids; Adam's moments decay
    on every row at every step, which makes it ten times slower on large tables.
    """
    tables = {v.ref() for v in model.table_variables}
    return tfrs.experimental.optimizers.CompositeOptimizer(
        [
            (
                tf.keras.optimizers.legacy.Adagrad(config.table_learning_rate),
                lambda: [v for v in model.trainable_variables if v.ref() in tables],
            ),
            (
                tf.keras.optimizers.legacy.Adam(config.learning_rate),
                lambda: [v for v in model.trainable_variables if v.ref() not in tables],
            ),
        ]
    )
