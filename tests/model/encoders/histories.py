"""Four histories with their candidates, and encoders of them."""

import numpy as np
import tensorflow as tf

from cmdcm.core.config import ModelConfig
from cmdcm.model.encoders.choose import make_encoder
from cmdcm.model.inputs import AGE_BUCKETS
from cmdcm.model.sequences import SequenceEncoder

RANDOM = np.random.default_rng(5)
LENGTH = 5
QUERY = RANDOM.normal(0, 1, [4, 6]).astype(np.float32)
KEYS = RANDOM.normal(0, 1, [4, LENGTH, 6]).astype(np.float32)
BUCKETS = RANDOM.integers(0, AGE_BUCKETS, [4, LENGTH])
AGES = np.eye(AGE_BUCKETS, dtype=np.float32)[BUCKETS]
MASK = np.arange(LENGTH) < np.array([[LENGTH], [3], [1], [0]])
"""A full history, two shorter ones, an empty one."""
EMPTY = 3


def encoder(name: str, seed: int = 0) -> SequenceEncoder:
    """A built encoder whose biases are not zero."""
    tf.keras.utils.set_random_seed(seed)
    config = ModelConfig(sequence_encoder=name, attention_units=3, sequence_rank=2)
    layer = make_encoder(config, LENGTH, name)
    layer(QUERY, KEYS, MASK, AGES)
    random = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        if "bias" in variable.name:
            variable.assign(random.normal(0, 1, variable.shape))
    return layer


def kernels(layer: SequenceEncoder) -> dict[str, np.ndarray]:
    """The weights of an encoder in double precision, by the attribute that holds them."""
    found = {}
    for name in ("query", "key", "product", "score", "projection", "evolution"):
        if hasattr(layer, name):
            found[name] = getattr(layer, name).kernel.numpy().astype(np.float64)
    if hasattr(layer, "age"):
        found["age"] = layer.age.kernel.numpy().astype(np.float64)
        found["age_bias"] = layer.age.bias.numpy().astype(np.float64)
    for name in ("compress", "decompress", "sharpness"):
        if hasattr(layer, name):
            found[name] = getattr(layer, name).numpy().astype(np.float64)
    return found
