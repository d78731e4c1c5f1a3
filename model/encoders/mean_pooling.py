"""Mean pooling: the history whatever the candidate (YouTube DNN, Covington et al., RecSys 2016)."""

import tensorflow as tf

from cmdcm.model.sequences import SequenceEncoder, masked_mean


class MeanPooling(SequenceEncoder):
    """The mean of the history's keys: the yardstick of every attention. It has no weights.

    Call arguments: see `SequenceEncoder`.
    """

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor:
        """See the class."""
        mean = masked_mean(keys, mask)
        return tf.broadcast_to(mean, [tf.shape(query)[0], mean.shape[-1]])
