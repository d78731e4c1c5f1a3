"""Raw feature values -> ids, embeddings and numbers, inside the graph (contract 3).

Training, evaluation and serving run the same operations on the same raw values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.row_normal import RowNormal
from cmdcm.model.rows import IdRows
from cmdcm.model.standardize import Standardize

Tensors = Mapping[str, tf.Tensor]

Lookup = Callable[[Sequence[tuple[Feature, tf.Tensor]]], tf.Tensor]
"""Features with values of one shape, [...] -> embeddings side by side, [..., features * dim]."""

AGE_BUCKETS = 32
"""Buckets of an age: powers of two of seconds, up to 68 years."""

LOG_SCALE = 0.25
"""Brings log1p of counts, ages and prices (0 to about 12) to the scale of embeddings."""


def age_bucket(seconds: tf.Tensor) -> tf.Tensor:
    """Returns the log2 bucket [0, AGE_BUCKETS) of ages in seconds; negative ages go to 0."""
    log2 = tf.math.log1p(tf.cast(tf.maximum(seconds, 0), tf.float32)) / tf.math.log(2.0)
    return tf.cast(tf.minimum(log2, AGE_BUCKETS - 1), tf.int64)


def number(encoding: str, values: tf.Tensor) -> tf.Tensor:
    """Returns raw values of a numeric encoding, `log1p` or `raw`, as float32."""
    numbers = tf.cast(values, tf.float32)
    return LOG_SCALE * tf.math.log1p(tf.maximum(numbers, 0.0)) if encoding == "log1p" else numbers


def log_lifts(
    by_kind: tf.Tensor,
    pairs: Sequence[tuple[int, int]],
    log_strength: tf.Tensor,
    prior_logit: tf.Tensor,
) -> tf.Tensor:
    """The formula of `SmoothedRates`: [..., kinds, windows] -> [..., pairs, windows].

    Args:
        by_kind: Counts.
        pairs: Pairs of kinds.
        log_strength: [..., pairs, 1], log of the strength of each pair.
        prior_logit: [..., pairs, 1], logit of the prior mean of each pair.
    """
    by_kind = tf.maximum(by_kind, 0.0)  # a negative count, which is a fault, makes no NaN
    before = tf.gather(by_kind, [a for a, _ in pairs], axis=-2)
    after = tf.gather(by_kind, [b for _, b in pairs], axis=-2)
    strength, prior = tf.exp(log_strength), tf.sigmoid(prior_logit)
    lift = (after / prior + strength) / (before + strength)
    return LOG_SCALE * tf.math.log(lift)


class SmoothedRates(tf.keras.layers.Layer):
    """Log lift of a counter vector's conversion rates over a learned prior.

    For each look-back window and each pair (a, b) of counted kinds with a before b in the funnel:
    log((n_b / m + s) / (n_a + s)), with the prior mean m and the strength s learned for each pair.
    It is the log of the empirical-Bayes (beta-binomial) rate (n_b + s m) / (n_a + s) over m, so a
    vector without counts gives exactly 0. Scaled by `LOG_SCALE` like all numbers.

    Call arguments:
        counts: [batch, kinds * windows], kind-major.

    Returns:
        [batch, pairs * windows].
    """

    def __init__(self, kinds: int, windows: int, **kwargs: object):
        super().__init__(**kwargs)
        if kinds < 2:
            raise ValueError(f"`kinds` should be at least 2. Received: {kinds}")
        self.kinds, self.windows = kinds, windows
        self.pairs = [(a, b) for b in range(1, kinds) for a in range(b)]

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the prior of each pair: mean 5 %, strength 10."""
        shape = [len(self.pairs), 1]
        self.prior_logit = self.add_weight(
            "prior_logit", shape, initializer=tf.keras.initializers.Constant(-3.0)
        )
        self.log_strength = self.add_weight(
            "log_strength", shape, initializer=tf.keras.initializers.Constant(2.3)
        )
        super().build(input_shape)

    def call(self, counts: tf.Tensor) -> tf.Tensor:
        """See the class."""
        by_kind = tf.reshape(tf.cast(counts, tf.float32), [-1, self.kinds, self.windows])
        lifts = log_lifts(by_kind, self.pairs, self.log_strength, self.prior_logit)
        return tf.reshape(lifts, [-1, len(self.pairs) * self.windows])

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "kinds": self.kinds, "windows": self.windows}


@dataclass(frozen=True)
class Encoded:
    """One side of the inputs after encoding.

    Attributes:
        ids: Embeddings of the id features, [batch, features * dim].
        numbers: The numeric features, [batch, numbers].
        target: Item and category embeddings of the candidate, [batch, 2 * dim]; None for the user.
        sequences: Per sequence: keys [batch, length, 2 * dim], zero at padding; mask
            [batch, length]; and the one-hot age buckets [batch, length, AGE_BUCKETS].
        penalty: L2 penalty on the embeddings of the id features, [batch]; None without one.
    """

    ids: tf.Tensor
    numbers: tf.Tensor
    target: tf.Tensor | None
    sequences: dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
    penalty: tf.Tensor | None = None


class InputEncoder(tf.keras.layers.Layer):
    """Encodes the features of the user side and of the candidate side.

    All tables are one variable with an offset a table: one gather and one sparse gradient a batch.

    Args:
        spec: The features.
        dim: Columns of the table.
        l2: L2 penalty on the rows that an example looks up for its scalar ids, summed over
            columns; against the overfitting of ids.
    """

    dense_gradients: ClassVar[bool] = False
    """Whether gradients of tables are dense: devices without sparse updates."""

    def __init__(self, spec: FeatureSpec, dim: int, l2: float = 0.0, **kwargs: object):
        super().__init__(**kwargs)
        self.spec, self.dim, self.l2 = spec, dim, l2
        self.ids = IdRows(spec, name="ids")
        self.rates = {
            f.name: SmoothedRates(*sizes, name=f"rates_{f.name}")
            for f in spec.inputs
            if (sizes := _kinds_windows(f))
        }
        self.user_scale = Standardize(name="user_scale")
        self.candidate_scale = Standardize(name="candidate_scale")

    def build(self, input_shape: object) -> None:
        """Creates the fused table, with the lists of known ids."""
        self.ids.build(None)
        shape = [self.ids.rows, self.dim]
        self.table = self.add_weight("table", shape, initializer=RowNormal(0.01))
        super().build(input_shape)

    @property
    def table_variables(self) -> Sequence[tf.Variable]:
        """The weights that the tables' optimizer trains."""
        return list(getattr(self.table, "variables", [self.table]))  # of parameter servers, shards

    def call(self, user: Tensors, candidates: Tensors) -> tuple[Encoded, Encoded]:
        """Encodes raw features of both sides; their batch sizes need not be equal."""
        lookup = self.lookup_of(user, candidates)
        return (
            self._side(user, self.spec.user_inputs, self.user_scale, lookup),
            self._side(candidates, self.spec.candidate_inputs, self.candidate_scale, lookup),
        )

    def lookup_of(self, user: Tensors, candidates: Tensors) -> Lookup:
        """Returns the look-up of embeddings in a call with these inputs."""
        return self._lookup

    def adapt(self, user: Tensors, candidates: Tensors) -> None:
        """Sets the scale of the numeric features from one large batch of examples."""
        self.user_scale.adapt(self._numbers(user, self.spec.user_inputs))
        self.candidate_scale.adapt(self._numbers(candidates, self.spec.candidate_inputs))

    def _side(
        self, values: Tensors, features: Sequence[Feature], scale: Standardize, lookup: Lookup
    ) -> Encoded:
        scalars = [f for f in features if f.table and not f.sequence]
        batch = tf.shape(values[features[0].name])[0]
        ids, penalty, target = tf.zeros([batch, 0]), None, None
        if scalars:
            ids = lookup([(f, values[f.name]) for f in scalars])
            if self.l2:
                penalty = self.l2 * tf.reduce_sum(tf.square(ids), axis=-1)
        columns = id_columns(features, self.dim)
        if "item_id" in columns:
            of_target = [ids[:, columns[n]] for n in ("item_id", "category_id") if n in columns]
            target = self.item_and_category(tf.concat(of_target, axis=-1))
        return Encoded(
            ids,
            scale(self._numbers(values, features)),
            target,
            self._sequences(values, features, lookup),
            penalty,
        )

    def _numbers(self, values: Tensors, features: Sequence[Feature]) -> tf.Tensor:
        """The numeric features and the rates of one side, [batch, numbers], before scaling."""
        numbers = [self._number(f, values[f.name]) for f in features if is_number(f)]
        numbers += [self.rates[f.name](values[f.name]) for f in features if f.name in self.rates]
        if not numbers:
            return tf.zeros([tf.shape(values[features[0].name])[0], 0])
        return tf.concat(numbers, axis=-1)

    def _sequences(
        self, values: Tensors, features: Sequence[Feature], lookup: Lookup
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        groups: dict[str, dict[str, Feature]] = {}
        for feature in features:
            if feature.sequence:
                part = "age" if feature.encoding == "age" else feature.table
                groups.setdefault(feature.sequence, {})[part] = feature
        encoded = {}
        for name, parts in groups.items():
            ages = values[parts["age"].name]
            keys = self.keys(parts, values, lookup)
            encoded[name] = (keys, ages >= 0, tf.one_hot(age_bucket(ages), AGE_BUCKETS))
        return encoded

    def keys(self, parts: Mapping[str, Feature], values: Tensors, lookup: Lookup) -> tf.Tensor:
        """Returns the keys of one sequence, [batch, length, 2 * dim], zero at padding.

        Args:
            parts: Its columns, by table, and `age`.
            values: Features.
            lookup: Looks up embeddings.
        """
        ages = values[parts["age"].name]
        # Most positions of most histories are padding: only the others are looked up, so that
        # neither the gather nor its sparse gradient pays for it.
        filled = tf.where(ages >= 0)
        embedded = lookup(
            [(f, tf.gather_nd(values[f.name], filled)) for f in item_and_category_of(parts)]
        )
        shape = tf.concat([tf.shape(ages, tf.int64), [2 * self.dim]], axis=0)
        padded = tf.scatter_nd(filled, self.item_and_category(embedded), shape)
        return tf.ensure_shape(padded, [None, ages.shape[1], 2 * self.dim])

    def item_and_category(self, embedded: tf.Tensor) -> tf.Tensor:
        """Returns embeddings of items and maybe categories, with zeros for missing categories."""
        if embedded.shape[-1] == 2 * self.dim:
            return embedded
        return tf.concat([embedded, tf.zeros_like(embedded)], axis=-1)

    def _lookup(self, wanted: Sequence[tuple[Feature, tf.Tensor]]) -> tf.Tensor:
        """Looks up several features of one shape with one gather, whose rows stay in place."""
        rows = [self.ids.of(f, values) for f, values in wanted]
        embedded = self.gather(tf.stack([row for each in rows for row in each], axis=-1))
        if any(len(each) > 1 for each in rows):
            of_each = tf.split(embedded, [len(each) for each in rows], axis=-2)
            embedded = tf.stack([tf.reduce_sum(part, axis=-2) for part in of_each], axis=-2)
        shape = [*tf.unstack(tf.shape(embedded)[:-2]), len(wanted) * self.dim]
        return tf.reshape(embedded, shape)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the table's rows, [..., dim]."""
        return tf.nn.embedding_lookup(self.table, rows)

    def _number(self, feature: Feature, values: tf.Tensor) -> tf.Tensor:
        numbers = number(feature.encoding, values)
        return numbers if feature.shape == "vector" else numbers[:, tf.newaxis]


def item_and_category_of(parts: Mapping[str, Feature]) -> list[Feature]:
    """Returns the columns of a sequence that are looked up, of its `parts` by table."""
    return [parts[table] for table in ("item", "category") if table in parts]


def number_columns(features: Sequence[Feature]) -> dict[str, slice]:
    """The columns of each numeric feature among `Encoded.numbers` of its side; rates come last."""
    columns, start = {}, 0
    for feature in features:
        if is_number(feature):
            columns[feature.name] = slice(start, start + feature.length)
            start += feature.length
    return columns


def id_columns(features: Sequence[Feature], dim: int) -> dict[str, slice]:
    """The columns of each scalar id among `Encoded.ids` of its side."""
    scalars = [f.name for f in features if f.table and not f.sequence]
    return {name: slice(n * dim, (n + 1) * dim) for n, name in enumerate(scalars)}


def is_number(feature: Feature) -> bool:
    """Returns whether a feature is one of the numbers of its side."""
    return feature.encoding in ("log1p", "raw") and not feature.sequence


def _kinds_windows(feature: Feature) -> tuple[int, int] | None:
    """Kinds and windows of a counter vector; None for any other feature.

    A counter vector is `log1p`, and its components are KIND_WINDOW, kind-major, for several kinds
    with equal windows.
    """
    windows: dict[str, list[str]] = {}
    for component in feature.components:
        kind, _, window = component.rpartition("_")
        windows.setdefault(kind, []).append(window)
    kind_major = tuple(f"{k}_{w}" for k, names in windows.items() for w in names)
    if feature.encoding != "log1p" or len(windows) < 2 or kind_major != feature.components:
        return None
    first, *others = windows.values()
    return (len(windows), len(first)) if all(names == first for names in others) else None
