"""First values of embedding tables."""

import tensorflow as tf

_PHILOX = 1  # TensorFlow's number of the generator
_DRAWS = 4  # that one step of its counter gives


class RowNormal(tf.keras.initializers.Initializer):
    """Normal values of which a row's depend on the row and a seed alone.

    So a table begins with the same values whether it is whole or shared out over parameter servers,
    each of which makes its own part. Keras' own draws every part anew.

    Args:
        deviation: Standard deviation; the mean is zero.

    Attributes:
        key: The seed, uint64 [1], drawn from TensorFlow's global one.
    """

    def __init__(self, deviation: float):
        self.deviation = deviation
        with tf.init_scope():
            seed = tf.random.uniform([1], maxval=tf.int64.max, dtype=tf.int64)
        self.key = tf.cast(seed, tf.uint64)

    def __call__(
        self,
        shape: tf.TensorShape,
        dtype: tf.DType = tf.float32,
        partition_shape: tf.TensorShape | None = None,
        partition_offset: tuple[int, ...] = (0, 0),
    ) -> tf.Tensor:
        """Returns the values of a table [rows, dim], or of some of its rows.

        Args:
            shape: Shape of the table.
            dtype: Type of the values.
            partition_shape: Shape of the part, which has all columns; None for the whole table.
            partition_offset: Its first row, and 0.
        """
        rows, dim = partition_shape or shape
        before = partition_offset[0] % _DRAWS  # rows that the part's first step draws in vain
        step = (partition_offset[0] - before) * dim // _DRAWS
        drawn = tf.raw_ops.StatelessRandomNormalV2(
            shape=[before + rows, dim],
            key=self.key,
            counter=tf.constant([step, 0], tf.uint64),
            alg=_PHILOX,
            dtype=dtype,
        )
        return self.deviation * drawn[before:]
