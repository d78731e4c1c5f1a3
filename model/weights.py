"""Importance weights, and what to know of them."""

from typing import NamedTuple

import tensorflow as tf


class Weights(NamedTuple):
    """Importance weights and what to know of them.

    Attributes:
        values: [N], no gradient.
        mean: Mean over the rows with a weight.
        largest: Largest weight.
        effective: Effective sample size (sum w)^2 / sum w^2 (Kish).
        clipped: Share of the rows with a weight that met the bound.
    """

    values: tf.Tensor
    mean: tf.Tensor
    largest: tf.Tensor
    effective: tf.Tensor
    clipped: tf.Tensor


def importance_weights(chosen: tf.Tensor, probability: tf.Tensor, clip: float) -> Weights:
    """Inverse-probability weights chosen / max(probability, clip), without a gradient.

    Args:
        chosen: [N], 1 for the rows that were observed under the arm, else 0.
        probability: [N], the probability to be observed under it.
        clip: Lower bound of the probability; 1 / clip caps the weights.
    """
    chosen = tf.cast(chosen, tf.float32)
    probability = tf.stop_gradient(probability)
    clipped = chosen * tf.cast(probability < clip, tf.float32)
    return _described(chosen, chosen / tf.maximum(probability, clip), clipped)


def capped_weights(values: tf.Tensor, cap: float) -> Weights:
    """Weights that an estimator computed: without a gradient, at most `cap`.

    Args:
        values: [N], from 0 on.
        cap: Upper bound; what exceeds it is counted as clipped.

    Example:
        >>> capped_weights(tf.constant([0.5, 30.0]), 10.0).values.numpy().tolist()
        [0.5, 10.0]
    """
    values = tf.stop_gradient(values)
    clipped = tf.cast(values > cap, tf.float32)
    return _described(tf.ones_like(values), tf.minimum(values, cap), clipped)


def overlap_weights(chosen: tf.Tensor, probability: tf.Tensor) -> Weights:
    """Overlap weights chosen * (1 - probability), without a gradient (Li et al., 2018).

    In the population that the weights make, a row x counts e(x) (1 - e(x)) in either arm. None
    exceeds 1, so nothing is clipped.

    Args:
        chosen: [N], 1 for the rows that were observed under the arm, else 0.
        probability: [N], the probability to be observed under it.
    """
    chosen = tf.cast(chosen, tf.float32)
    values = chosen * (1.0 - tf.stop_gradient(probability))
    return _described(chosen, values, tf.zeros_like(chosen))


def _described(chosen: tf.Tensor, values: tf.Tensor, clipped: tf.Tensor) -> Weights:
    total, count = tf.reduce_sum(values), tf.reduce_sum(chosen)
    return Weights(
        values=values,
        mean=tf.math.divide_no_nan(total, count),
        largest=tf.reduce_max(values),
        effective=tf.math.divide_no_nan(tf.square(total), tf.reduce_sum(tf.square(values))),
        clipped=tf.math.divide_no_nan(tf.reduce_sum(clipped), count),
    )
