"""Mixed precision: the matmuls of dense layers in bfloat16, everything else in float32.

The weights, the tables, what lies between two layers, logits and losses stay float32, so that no
loss needs scaling and the trained model is an ordinary float32 one: it is validated, calibrated and
served as such. Only the steps of training are traced in the other precision.
"""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf


@contextlib.contextmanager
def matmul_precision(model: tf.Module, precision: str) -> Iterator[None]:
    """While it lasts, the dense layers of a model multiply in `precision`.

    Layers of one unit, whose output is a logit or a score, do not.

    Args:
        model: A model.
        precision: `float32` or `bfloat16`.
    """
    if precision == "float32":
        yield
        return
    layers = [
        layer
        for layer in model.submodules
        if isinstance(layer, tf.keras.layers.Dense) and layer.units > 1
    ]
    for layer in layers:
        object.__setattr__(layer, "call", _multiply_in(tf.as_dtype(precision), layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _multiply_in(dtype: tf.DType, layer: tf.keras.layers.Dense) -> Callable[[tf.Tensor], tf.Tensor]:
    def call(inputs: tf.Tensor) -> tf.Tensor:
        product = tf.matmul(tf.cast(inputs, dtype), tf.cast(layer.kernel, dtype))
        product = tf.cast(product, layer.dtype)
        if layer.use_bias:
            product = tf.nn.bias_add(product, layer.bias)
        return product if layer.activation is None else layer.activation(product)

    return call
