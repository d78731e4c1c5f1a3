"""Behaviour sequences -> one vector: the contract of the encoders, and the default one, attention.

The others are in `model/encoders/`.
"""

import tensorflow as tf

from cmdcm.model.inputs import AGE_BUCKETS


class SequenceEncoder(tf.keras.layers.Layer):
    """A user's past items and a candidate -> a vector as long as the candidate's.

    What stands at padding, and how much of it there is, changes no output; an empty history gives
    zeros.

    Call arguments:
        query: The candidate, [N, d].
        keys: The history, newest first, [U, L, d], U = N or 1 (one user for all candidates).
        mask: [U, L], False at padding.
        ages: One-hot age buckets, [U, L, a].

    Returns:
        [N, d].

    Attributes:
        sums_keys: Whether the output is a weighted sum of the keys, and so has their columns.
    """

    sums_keys = True

    def of_one_user(
        self, query: tf.Tensor, keys: tf.Tensor, ages: tf.Tensor, true: tf.Tensor
    ) -> tf.Tensor:
        """The same for one user without his padding.

        Args:
            query: The candidates, [N, d].
            keys: The true positions of the history, [l, d]; zeros at any other.
            ages: Their age buckets, [l].
            true: 1 at true positions, 0 at others, [l, 1].
        """
        mask = tf.transpose(true) > 0
        one_hot = tf.one_hot(ages, AGE_BUCKETS)[tf.newaxis]
        return self(query, keys[tf.newaxis], mask, one_hot)

    def penalty(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor | None:
        """What training adds to an example's loss, [N]; None for nothing."""
        del query, keys, mask, ages
        return None


class TargetAttention(SequenceEncoder):
    """Weights a user's past items by their relevance to the candidate.

    The activation unit of DIN (Zhou et al., KDD 2018, eq. 3), score = v . relu(W [q; k; q - k;
    q * k] + U[age] + b), with the kernel W split so that the user's half is computed once a
    request: Q q + K k + P (q * k). Unlike DIN's (`model/encoders/din.py`), the scores pass a
    softmax over the true positions: the counters tell how much there is in a history, and the
    output's scale then does not depend on the history's length.

    Args:
        units: Hidden units of the activation unit.
    """

    def __init__(self, units: int, **kwargs: object):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` should be positive. Received: {units}")
        self.units = units
        self.query = tf.keras.layers.Dense(units, use_bias=False)
        self.key = tf.keras.layers.Dense(units, use_bias=False)
        self.product = tf.keras.layers.Dense(units, use_bias=False)
        self.age = tf.keras.layers.Dense(units)
        self.score = tf.keras.layers.Dense(1, use_bias=False)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights that are used without their layers; keys are as wide as queries."""
        self.key.build(input_shape)
        self.product.build(input_shape)
        super().build(input_shape)

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor:
        """See the class."""
        # K k + P (q * k) = (K + P diag(q)) k: one matmul, and no q * k for every position.
        kernel = self.key.kernel + query[:, :, tf.newaxis] * self.product.kernel
        if not self.age.built:  # how many columns ages have is known here alone
            self.age.build(ages.shape)
        # The bias is added where it meets one row an example, not each position of the history.
        once = tf.nn.bias_add(self.query(query), self.age.bias)
        history = tf.matmul(keys, kernel) + tf.tensordot(ages, self.age.kernel, 1)
        hidden = tf.nn.relu(once[:, tf.newaxis, :] + history)
        weights = self.weights_of(tf.squeeze(self.score(hidden), axis=-1), mask)
        return tf.squeeze(tf.matmul(weights[:, tf.newaxis, :], keys), axis=1)

    def weights_of(self, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Turns scores [N, L] into the weights of the keys; zero where `mask` [U, L] is False."""
        return masked_softmax(scores, mask)

    def pooled(self, scores: tf.Tensor, keys: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
        """The keys by the weights of scores [N, l], for one user."""
        # Sum and weighted sum in one matmul; a softmax of so few columns costs more by itself.
        weights = tf.exp(scores - tf.reduce_max(scores, axis=1, keepdims=True))
        sums = weights @ tf.concat([keys, true], axis=1)
        return tf.math.divide_no_nan(sums[:, :-1], sums[:, -1:])

    def of_one_user(
        self, query: tf.Tensor, keys: tf.Tensor, ages: tf.Tensor, true: tf.Tensor
    ) -> tf.Tensor:
        """See the base: here one matmul for all candidates.

        Q q + P (q * k) = (Q + P diag(k)) q, whose kernel is made once for each position.
        """
        d = query.shape[-1]
        kernel = tf.transpose(keys)[:, :, tf.newaxis] * self.product.kernel[:, tf.newaxis, :]
        kernel += self.query.kernel[:, tf.newaxis, :]
        history = keys @ self.key.kernel + tf.gather(self.age.kernel, ages) + self.age.bias
        hidden = tf.nn.relu(
            tf.nn.bias_add(query @ tf.reshape(kernel, [d, -1]), tf.reshape(history, [-1]))
        )
        scores = tf.reshape(hidden, [-1, self.units]) @ self.score.kernel
        scores = tf.reshape(scores, [tf.shape(query)[0], tf.shape(keys)[0]])
        return self.pooled(scores, keys, true)

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "units": self.units}


def masked_softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis where `mask` holds, zero elsewhere; all zero for an empty mask.

    Args:
        scores: [N, L].
        mask: [N, L] or [1, L].
    """
    scores = tf.where(mask, scores, tf.float32.min)
    scores -= tf.stop_gradient(tf.reduce_max(scores, axis=-1, keepdims=True))
    weights = tf.where(mask, tf.exp(scores), 0.0)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=-1, keepdims=True))


def masked_mean(keys: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean of [U, L, d] over the positions where `mask` [U, L] holds; zeros for none."""
    kept = tf.cast(mask, keys.dtype)[:, tf.newaxis, :]
    total = tf.squeeze(tf.matmul(kept, keys), axis=1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(kept, axis=2))
