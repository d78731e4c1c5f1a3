"""Raw ids -> rows of the embedding tables.

These operations run inside the graph, in training and in serving. Where a device cannot have
strings or look ids up, the input runs the very same ones on the host (`prepare`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import Feature, FeatureSpec

_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's step
_FINGERPRINTS = 2**63 - 1


def hash_ids(values: tf.Tensor, buckets: int | tf.Tensor, number: int | tf.Tensor = 0) -> tf.Tensor:
    """Hashes raw ids into [0, buckets) by one of a family of functions.

    Strings go through FarmHash Fingerprint64 (`tf.strings.to_hash_bucket_fast`), integers through
    SplitMix64 (Steele et al., 2014), of which the id is the seed, so that runs of ids spread
    evenly; `number` tells which of its outputs. Strings take those, but the first, of `id_keys`.

    Args:
        values: Any shape, int64 or string.
        buckets: Number of rows; of integers also an int64 tensor that broadcasts with `values`.
        number: Which function, from 0; of integers also a uint64 tensor that broadcasts.

    Returns:
        int64 of the same shape.

    Example:
        >>> [int(hash_ids(tf.constant(1, tf.int64), 1000, number)) for number in (0, 1)]
        [232, 259]
    """
    if values.dtype == tf.string:
        if isinstance(number, int) and number == 0:
            return tf.strings.to_hash_bucket_fast(values, buckets)
        values = id_keys(values)
    steps = tf.cast(number, tf.uint64) + tf.constant(1, tf.uint64)
    x = tf.cast(values, tf.uint64) + tf.constant(_GOLDEN, tf.uint64) * steps
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64)))
        x *= tf.constant(factor, tf.uint64)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(31, tf.uint64)))
    # The sign bit goes, since integer remainders are defined for int64 on every device.
    return tf.cast(tf.bitwise.right_shift(x, tf.constant(1, tf.uint64)), tf.int64) % buckets


def id_keys(values: tf.Tensor) -> tf.Tensor:
    """Returns int64 keys of ids: integers as they are, strings by 63 bits of their fingerprint.

    Two of n strings have one key with a probability of n^2 / 2^64: a millionth for six millions.
    """
    if values.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(values, _FINGERPRINTS)
    return tf.cast(values, tf.int64)


def known_ids(values: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Returns the place of each id among ascending keys, [n]; n where it is not among them.

    Example:
        >>> known_ids(tf.constant([7, 8, 9, 10], tf.int64), tf.constant([7, 9], tf.int64)).numpy()
        array([0, 2, 1, 2])
    """
    wanted, count = id_keys(values), tf.size(keys, tf.int64)
    place = tf.searchsorted(keys, tf.reshape(wanted, [-1]), out_type=tf.int64)
    place = tf.reshape(tf.minimum(place, count - 1), tf.shape(wanted))
    return tf.where(tf.gather(keys, place) == wanted, place, count)


def vocabulary_ids(values: tf.Tensor, vocabulary: Sequence[str]) -> tf.Tensor:
    """Returns the index of each string in a short vocabulary, `len(vocabulary)` if unknown."""
    equal = tf.equal(values[..., tf.newaxis], tf.constant(list(vocabulary)))
    index = tf.argmax(tf.cast(equal, tf.int32), axis=-1)
    return tf.where(tf.reduce_any(equal, axis=-1), index, len(vocabulary))


def feature_ids(feature: Feature, values: tf.Tensor, number: int = 0) -> tf.Tensor:
    """Returns the rows of `feature.table` that raw values look up, by one of its hashes if any.

    Those of `known` ids need the model's lists (`IdRows`).
    """
    if feature.encoding == "hash":
        return hash_ids(values, feature.buckets, number)
    if feature.encoding == "vocabulary":
        return vocabulary_ids(values, feature.vocabulary)
    return tf.clip_by_value(values, 0, feature.buckets - 1)


class IdRows(tf.keras.layers.Layer):
    """Finds the rows of ids in the fused table, in which each table has an offset.

    Its weights are the lists of the ids that are `known`, ascending keys by table, int64.

    Attributes:
        tables: Rows of each table.
        offsets: First row of each table.
        rows: Rows of all tables.
    """

    def __init__(self, spec: FeatureSpec, **kwargs: object):
        super().__init__(**kwargs)
        self.tables = spec.tables()
        self.offsets: dict[str, int] = {}
        self.rows = 0
        for table, size in self.tables.items():
            self.offsets[table] = self.rows
            self.rows += size
        # Attributes and no dictionary, so that an export finds them (`export/freeze.py`).
        self.listed = sorted({f.table for f in spec.inputs if f.encoding == "known"})

    def build(self, input_shape: object) -> None:
        """Creates the lists; `set_known` fills them."""
        for table in self.listed:
            shape = [self.tables[table] - 1]
            made = self.add_weight(
                f"known_{table}", shape, tf.int64, tf.keras.initializers.Zeros(), trainable=False
            )
            setattr(self, f"known_{table}", made)
        super().build(input_shape)

    def set_known(self, known: Mapping[str, np.ndarray]) -> None:
        """Sets the lists, ascending keys by table."""
        for table in self.listed:
            self.known(table).assign(known[table])

    def known(self, table: str) -> tf.Variable:
        """Returns the list of a table."""
        return getattr(self, f"known_{table}")

    def keys(self, table: str) -> np.ndarray:
        """Returns what is in the list of a table, which may be shared out over servers."""
        return tf.convert_to_tensor(self.known(table)).numpy()

    def of(self, feature: Feature, values: tf.Tensor) -> list[tf.Tensor]:
        """Returns the rows of values; more than one of each if several functions hash it.

        Args:
            feature: A feature with a table.
            values: Raw values of any shape, or what `prepare` made of them.
        """
        if values.dtype == tf.int32:  # raw values are int64 or strings
            return tf.unstack(values, axis=-1)
        if feature.encoding == "known":
            ids = [known_ids(values, self.known(feature.table))]
        else:
            ids = [feature_ids(feature, values, n) for n in range(feature.hashes)]
        return [i + self.offsets[feature.table] for i in ids]

    def prepare(self, spec: FeatureSpec, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns a batch with rows instead of raw ids: int32 [..., hashes]."""
        rows = {
            f.name: tf.cast(tf.stack(self.of(f, batch[f.name]), axis=-1), tf.int32)
            for f in spec.inputs
            if f.table
        }
        return {**batch, **rows}


def check_rows(spec: FeatureSpec) -> None:
    """Checks that prepared rows fit into int32.

    Raises:
        ConfigError: They do not.
    """
    rows = sum(spec.tables().values())
    if rows >= 2**31:
        raise ConfigError(f"the tables have {rows:,} rows, and this strategy takes 2^31 at most")
