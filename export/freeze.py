"""Weights as an export holds them: small ones as constants of the graph, tables as variables.

TensorFlow folds what follows from constants alone - split and joined kernels, parameters of rates -
when a signature first runs, fuses matmul, bias and activation, and reads no variable for them. A
constant lies in `saved_model.pb`, which is a proto and so below 2 GB, and is held in memory twice
while it loads; so large weights stay variables.

The embedding table may be held with less precision: `bfloat16`, half the bytes, or `int8`, about a
third at 8 columns: a row is q * s with q in -127..127 and s = max |row| / 127, one float32 a row.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from cmdcm.core.config import ExportConfig
from cmdcm.model.base import RankingModel

Weight = Any
"""A `tf.Tensor` or a `tf.Variable`."""


@contextlib.contextmanager
def served_weights(model: RankingModel, config: ExportConfig) -> Iterator[list[tf.Variable]]:
    """While it lasts, what is traced over `model` holds its weights as the export will.

    Args:
        model: A built model. It is as before afterwards.
        config: Size of the largest constant, and type of the table.

    Yields:
        The weights that stay variables.
    """
    variables: list[tf.Variable] = []

    def held(value: Weight) -> Weight:
        if value.dtype.size * value.shape.num_elements() <= config.constant_bytes:
            return tf.constant(value.numpy()) if isinstance(value, tf.Variable) else value
        variable = value if isinstance(value, tf.Variable) else tf.Variable(value)
        variables.append(variable)
        return variable

    encoder = model.trunk.encoder
    changes: list[tuple[Any, str, Any]] = []
    if config.table_dtype != "float32":
        changes.append((encoder, "gather", _quantised(encoder.table, config.table_dtype, held)))
    kept = {
        id(v): held(v)
        for v in model.weights
        if v is not encoder.table or config.table_dtype == "float32"
    }
    changes += [
        (layer, name, kept[id(value)])
        for layer in model.submodules
        for name, value in vars(layer).items()
        if id(value) in kept
    ]
    originals = [(layer, name, vars(layer).get(name)) for layer, name, _ in changes]
    try:
        for layer, name, value in changes:
            object.__setattr__(layer, name, value)  # Keras would track it as a weight
        yield variables
    finally:
        for layer, name, original in originals:
            if original is None:
                object.__delattr__(layer, name)
            else:
                object.__setattr__(layer, name, original)


def _quantised(
    table: tf.Variable, dtype: str, held: Callable[[Weight], Weight]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the look-up of float32 rows in a copy of the table of another type."""
    if dtype == "bfloat16":
        halved = held(tf.cast(table, tf.bfloat16))
        return lambda rows: tf.cast(tf.gather(halved, rows), tf.float32)
    values, scales = row_wise_int8(tf.convert_to_tensor(table))
    values, scales = held(values), held(scales)
    return lambda rows: tf.cast(tf.gather(values, rows), tf.float32) * tf.gather(scales, rows)


def row_wise_int8(table: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns int8 values [rows, dim] and float32 scales [rows, 1]; their product is the table.

    Example:
        >>> values, scales = row_wise_int8(tf.constant([[-1.0, 0.5], [0.0, 0.0]]))
        >>> values.numpy().tolist(), [round(float(s), 5) for s in scales[:, 0]]
        ([[-127, 64], [0, 0]], [0.00787, 0.0])
    """
    scales = tf.reduce_max(tf.abs(table), axis=1, keepdims=True) / 127.0
    return tf.cast(tf.round(tf.math.divide_no_nan(table, scales)), tf.int8), scales
