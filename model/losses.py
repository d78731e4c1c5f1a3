"""Losses: pure functions, tensors in, one loss an example out. Reduction is elsewhere, once."""

import tensorflow as tf

from cmdcm.model.probability import Event


def binary_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """BCE from logits: softplus(z) - y z.

    Args:
        labels: [N], 0 or 1 (or a probability).
        logits: [N].

    Returns:
        [N].

    Example:
        >>> binary_cross_entropy(tf.constant([1.0]), tf.constant([0.0])).numpy()
        array([0.6931472], dtype=float32)
    """
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)


def event_cross_entropy(labels: tf.Tensor, event: Event) -> tf.Tensor:
    """BCE of an event given by its log probabilities: -y log p - (1 - y) log (1 - p)."""
    return -labels * event.yes - (1.0 - labels) * event.no


def weighted_mean(
    losses: tf.Tensor, weights: tf.Tensor, base: tf.Tensor | None = None
) -> tf.Tensor:
    """sum(w * loss) / sum(base); zero where the latter is zero.

    On a replica of a distributed step it is the replica's share: its own sum over that of the
    whole batch, so that the shares and their gradients add up to those of the batch.

    Doubling a batch leaves the loss as it is, as doubling all of `weights` and `base` does; rows of
    weight zero have no gradient even where their loss is not finite.

    Args:
        losses: [N].
        weights: [N].
        base: [N], such as ones for a mean over all clicks; None for the weights.
    """
    total = over_replicas(tf.reduce_sum(weights if base is None else base))
    return tf.math.divide_no_nan(weighted_sum(losses, weights), total)


def weighted_sum(losses: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """sum(w * loss) over the rows of a weight above zero; the arguments are [N]."""
    return tf.reduce_sum(weights * tf.where(weights > 0, losses, 0.0))


def over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a value over the replicas of a distributed step; `value` outside one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
