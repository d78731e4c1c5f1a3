"""Models to export, of the small world."""

import numpy as np
import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.base import RankingModel
from cmdcm.model.training import build_model


def model_of(data: ExampleSet, config: Config, name: str) -> tuple[RankingModel, Config]:
    """Returns a model with random weights, and its configuration."""
    tf.keras.utils.set_random_seed(3)
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": name})})
    model = build_model(data, config)
    # Weights far from their start: gates open, biases non-zero.
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(0, 0.1, variable.shape))
    return model, config
