"""LREA: low-rank attention over long histories (Song et al., SIGIR 2025, arXiv 2503.02542).

The history's length L is compressed to a rank r before it meets the candidate and decompressed
after it: with q' = Q q, k'_l = K k_l + U[age_l], C in R^(r x L) and D in R^(L x r),

    scores = D ((C K') q') / sqrt(units)   in R^L,      output = sum over l of scores_l * k_l.

No activation follows, so that serving absorbs the projections: output = (q' (C K')^T) (D^T V),
where C K' and D^T V are made once a user and no candidate ever meets L positions. In place of an
activation, training penalises negative scores, `penalty`: the paper's loss that keeps what an
attention is. The paper's abstract and summaries are what was public to us: the scaling, the ages
and the penalty's form (the mean of relu(-score) over the history) are ours.
"""

import tensorflow as tf

from cmdcm.model.sequences import SequenceEncoder


class LREA(SequenceEncoder):
    """See the module.

    Position l of C and D is the l-th newest event, wherever padding stands.

    Args:
        units: Columns of the projected query and keys.
        length: The most positions of a history, L.
        rank: r; at most `length` is used.

    Call arguments: see `SequenceEncoder`.
    """

    def __init__(self, units: int, length: int, rank: int, **kwargs: object):
        super().__init__(**kwargs)
        if min(units, length, rank) < 1:
            raise ValueError(
                "`units`, `length` and `rank` should be positive. "
                f"Received: {units}, {length}, {rank}"
            )
        self.units, self.length, self.rank = units, length, min(rank, length)
        self.query = tf.keras.layers.Dense(units, use_bias=False)
        self.key = tf.keras.layers.Dense(units, use_bias=False)
        self.age = tf.keras.layers.Dense(units)

    def build(self, input_shape: object) -> None:
        """Creates C (transposed) and D."""
        shape = [self.length, self.rank]
        self.compress = self.add_weight("compress", shape)
        self.decompress = self.add_weight("decompress", shape)
        super().build(input_shape)

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor:
        """See the class."""
        scores = self.scores(query, keys, mask, ages)
        return tf.reduce_sum(scores[:, :, tf.newaxis] * keys, axis=1)

    def scores(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor:
        """The weight of each key, [N, L]; 0 at padding."""
        place = tf.maximum(tf.cumsum(tf.cast(mask, tf.int32), axis=1) - 1, 0)
        kept = tf.cast(mask, keys.dtype)[:, :, tf.newaxis]
        compress = kept * tf.gather(self.compress, place)
        decompress = kept * tf.gather(self.decompress, place)
        projected = kept * (self.key(keys) + self.age(ages))
        compressed = tf.matmul(compress, projected, transpose_a=True)  # [U, r, units]
        candidate = self.query(query)[:, :, tf.newaxis] * self.units**-0.5
        return tf.squeeze(decompress @ (compressed @ candidate), axis=-1)

    def of_one_user(
        self, query: tf.Tensor, keys: tf.Tensor, ages: tf.Tensor, true: tf.Tensor
    ) -> tf.Tensor:
        """See the base: the history is absorbed into one [d, d] matrix."""
        size = tf.shape(keys)[0]
        projected = keys @ self.key.kernel + tf.gather(self.age.kernel, ages) + self.age.bias
        compressed = tf.matmul(self.compress[:size] * true, projected, transpose_a=True)
        values = tf.matmul(self.decompress[:size], keys, transpose_a=True)  # D^T V, [r, d]
        absorbed = tf.matmul(compressed, values, transpose_a=True) * self.units**-0.5
        return query @ (self.query.kernel @ absorbed)

    def penalty(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, ages: tf.Tensor
    ) -> tf.Tensor:
        """The mean of relu(-score) over the history, [N]; 0 for an empty one."""
        negative = tf.nn.relu(-self.scores(query, keys, mask, ages))
        count = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)
        return tf.math.divide_no_nan(tf.reduce_sum(negative, axis=1), count)

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        own = {"units": self.units, "length": self.length, "rank": self.rank}
        return {**super().get_config(), **own}
