"""Adagrad on the rows of an embedding table: the numbers of Keras', many rows at a time."""

from typing import Any

import tensorflow as tf


class Adagrad(tf.keras.optimizers.legacy.Adagrad):
    """Adagrad (Duchi et al., JMLR 2011), whose sparse steps are fast on the host.

    Keras adds up the gradients of a row, and then changes it, row by row: each waits for memory
    anew, which takes a third of a training step's time. Here the sum is a product with a sparse
    matrix of ones, and the rows are gathered, changed together and put back.

    Between the two another worker's step on the same row would be lost. So a parameter server, and
    a device that is no CPU, take Keras' way. TensorFlow Recommenders knows by the class's name what
    a TPU is to do in its place.
    """

    def _resource_apply_sparse_duplicate_indices(
        self, grad: tf.Tensor, handle: tf.Variable, indices: tf.Tensor, **kwargs: Any
    ) -> tf.Operation:
        """Changes the rows `indices`, [n], which may name one several times, by `grad`, [n, d]."""
        if not _on_host(handle):
            return super()._resource_apply_sparse_duplicate_indices(grad, handle, indices, **kwargs)
        rows, place = tf.unique(indices)
        return self._resource_apply_sparse(
            _sums(grad, place, tf.size(rows, tf.int64)), handle, rows, **kwargs
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: tf.Variable,
        indices: tf.Tensor,
        apply_state: dict[tuple[str, tf.DType], dict[str, tf.Tensor]] | None = None,
    ) -> tf.Operation:
        """Changes distinct rows `indices`, [m], by `grad`, [m, d]."""
        if not _on_host(var):
            return super()._resource_apply_sparse(grad, var, indices, apply_state)
        place = (var.device, var.dtype.base_dtype)
        values = (apply_state or {}).get(place) or self._fallback_apply_state(*place)
        accumulator = self.get_slot(var, "accumulator")
        squares = tf.gather(accumulator, indices) + tf.square(grad)
        step = values["lr_t"] * grad / (tf.sqrt(squares) + values["epsilon"])
        changed = tf.gather(var, indices) - step
        return tf.group(
            accumulator.scatter_update(tf.IndexedSlices(squares, indices)),
            var.scatter_update(tf.IndexedSlices(changed, indices)),
        )


def _on_host(variable: tf.Variable) -> bool:
    """Returns whether a variable is a CPU's and not a parameter server's."""
    device = tf.DeviceSpec.from_string(variable.device)
    return device.device_type == "CPU" and device.job != "ps"


def _sums(values: tf.Tensor, place: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Adds up rows, [n, d], by their place below `count`, [n]: [count, d]."""
    size = tf.size(place, tf.int64)
    ones = tf.SparseTensor(
        tf.stack([tf.cast(place, tf.int64), tf.range(size)], axis=1),
        tf.ones([size], values.dtype),
        [count, size],
    )
    return tf.sparse.sparse_dense_matmul(ones, values)
