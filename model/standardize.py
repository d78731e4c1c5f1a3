"""Numeric inputs at one scale: fixed means and deviations of the training data."""

import tensorflow as tf

LIMIT = 5.0
"""Standardised values are cut to [-LIMIT, LIMIT]: a later promotion may show counts that no earlier
one had, and the network should not extrapolate far."""


class Standardize(tf.keras.layers.Layer):
    """Subtracts a mean and divides by a deviation, column by column, then cuts at `LIMIT`.

    Both are weights that no optimizer trains: `adapt` sets them once before training from some
    batches, and they travel with the checkpoint and the export. Fresh, the mean is 0 and the
    deviation 1.

    Hundreds of counters that all lie on one side of zero would let each step of the optimizer move
    every prediction at once; centred, they do not.

    Call arguments:
        values: [batch, columns].

    Returns:
        [batch, columns].
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates mean and deviation."""
        columns = input_shape[-1]
        self.mean = self.add_weight("mean", [columns], initializer="zeros", trainable=False)
        self.deviation = self.add_weight(
            "deviation", [columns], initializer="ones", trainable=False
        )
        super().build(input_shape)

    def adapt(self, values: tf.Tensor) -> None:
        """Takes the mean and the deviation of [rows, columns]; a constant column keeps 1."""
        mean, variance = tf.nn.moments(values, axes=[0])
        self.mean.assign(mean)
        self.deviation.assign(tf.where(variance > 1e-6, tf.sqrt(variance), 1.0))

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return tf.clip_by_value((values - self.mean) / self.deviation, -LIMIT, LIMIT)
