"""DIN (Zhou et al., KDD 2018): the activation unit's scores are the weights, without a softmax."""

import tensorflow as tf

from cmdcm.model.sequences import TargetAttention


class DIN(TargetAttention):
    """sum over the history of score(q, k) * k, eq. 3 of the paper, whose section 4.3 argues for it.

    Without a softmax the sum of the weights stays: the intensity of an interest, and with it the
    length of a history, reaches the output. The activation unit is that of `TargetAttention`, with
    relu where the paper has PReLU or Dice.

    Args and call arguments: see `TargetAttention`.
    """

    def weights_of(self, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """The scores as they are, zero where `mask` is False."""
        return tf.where(mask, scores, 0.0)

    def pooled(self, scores: tf.Tensor, keys: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
        """The keys by their scores, for one user; keys are zero at what is no true position."""
        return scores @ keys
