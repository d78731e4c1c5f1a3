"""SRN: soft retargeting (Li et al., arXiv 2206.01894): has he been at this item, or at its like?

Retargeting asks how often, and when, a user met the very candidate; soft retargeting counts what is
similar by how similar it is. With a shared projection P, p(x) = P x / |P x|:

    w_l = exp(beta (p(q) . p(k_l) - 1))            1 for the same item, less for what is unlike
    e_a = sum over l with age bucket a of w_l      the interest's evolution, by age
    output = W log(1 + e)

The paper takes similarities from a graph embedding made beforehand; here they come from the model's
own embeddings by the learned P. beta > 0 is learned too: as it grows, e counts the candidate alone.
The aggregation by age stands for the paper's recurrent model of the evolution; its abstract is what
was public to us.
"""

import numpy as np
import tensorflow as tf

from cmdcm.model.sequences import SequenceEncoder

BETA = 5.0
"""beta at the start: an unrelated item counts as exp(-5)."""


class SRN(SequenceEncoder):
    """See the module.

    Args:
        units: Columns of the projection P.

    Call arguments: see `SequenceEncoder`.
    """

    sums_keys = False

    def __init__(self, units: int, **kwargs: object):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` should be positive. Received: {units}")
        self.units = units
        self.projection = tf.keras.layers.Dense(units, use_bias=False)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates beta, as the inverse of softplus, and W, whose output is as long as the query."""
        start = tf.keras.initializers.Constant(float(np.log(np.expm1(BETA))))
        self.sharpness = self.add_weight("sharpness", [1], initializer=start)
        self.evolution = tf.keras.layers.Dense(int(input_shape[-1]), use_bias=False)
        super().build(input_shape)

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor:
        """See the class."""
        candidate = tf.math.l2_normalize(self.projection(query), axis=-1)
        history = tf.math.l2_normalize(self.projection(keys), axis=-1)
        similarity = tf.reduce_sum(candidate[:, tf.newaxis, :] * history, axis=-1)
        weights = tf.exp(tf.nn.softplus(self.sharpness) * (similarity - 1.0))
        weights = tf.where(mask, weights, 0.0)
        by_age = tf.squeeze(weights[:, tf.newaxis, :] @ ages, axis=1)
        return self.evolution(tf.math.log1p(by_age))

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "units": self.units}
