"""The network for one user and his N candidates, arranged so that his work is done once.

`Trunk` and `Tower` (`model/network.py`) compute the same numbers, up to rounding, for any batch:
they are what is trained. Here, with U the user's columns of the trunk's input x = [u; c]:

- Kernels are split: x W = u W_u + c W_c, and u W_u is one row a request.
- A cross layer of DCN-v2 keeps the user's columns a product, x_l = u * (1 + sum_k (h_k V_k + b_k)),
  where h_k = x_(k-1) U_k has the layers' low rank. So with G = diag(u) W_u, made once a request,
  (x_l)_u W_u = (1 + sum_k b_k) G + sum_k h_k (V_k)_u G: no candidate ever has the user's columns.
- The attention's kernel is made once for each true position of his history
  (`TargetAttention.of_one_user`); padding costs nothing.
- What the towers of all heads compute of the shared features is one matmul, and so is what their
  gates do, whose prior is one row.
- Trunk and towers run for two halves of the candidates, which need nothing of each other: two
  threads share a request at the price of one hand-over, where TensorFlow's own way, to share each
  matmul, wakes a thread for every one of them.
- All counters, rates, hashed ids and lookups of a side are made together: at N = 500 the number of
  operations counts as much as the arithmetic.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
import tensorflow as tf

from cmdcm.features.spec import Feature
from cmdcm.model.inputs import (
    LOG_SCALE,
    Encoded,
    InputEncoder,
    SmoothedRates,
    Tensors,
    age_bucket,
    is_number,
    number,
)
from cmdcm.model.network import LinearTower, Shared, Tower, Trunk
from cmdcm.model.rows import hash_ids

Histories = Mapping[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
"""Sequence -> its true positions: keys [l, 2 * dim], age buckets [l], ones [l, 1]. Of an empty one
a single position of zeros, since oneDNN ends the process at a matmul without columns."""

Activation = Callable[[tf.Tensor], tf.Tensor]


def knows(trunk: Trunk) -> bool:
    """Returns whether the arrangement here is that of a trunk: one without experts or gates."""
    return type(trunk) is Trunk and trunk.experts is None


def one_user_logits(
    trunk: Trunk, towers: Mapping[str, Tower | LinearTower], user: Tensors, candidates: Tensors
) -> dict[str, tf.Tensor]:
    """Returns the logit of each tower, [N].

    Args:
        trunk: The built trunk.
        towers: The built towers to compute, by head.
        user: The user's raw features, one row.
        candidates: The candidates' raw features, N rows.
    """
    parts = [_logits(towers, shared) for shared in shared_features(trunk, user, candidates)]
    return {name: tf.concat([logits[name] for logits in parts], axis=0) for name in towers}


def shared_features(trunk: Trunk, user: Tensors, candidates: Tensors) -> list[Shared]:
    """Returns what `trunk` does for each part of the candidates; the prior has one row."""
    encoder = trunk.encoder
    of_user = encode(encoder, user, encoder.spec.user_inputs, encoder.user_scale)
    of_candidate = encode(
        encoder, candidates, encoder.spec.candidate_inputs, encoder.candidate_scale
    )
    histories = encode_histories(encoder, user)
    attended = [
        trunk.attention[name].of_one_user(of_candidate.target, keys, ages, true)
        for name, (keys, ages, true) in histories.items()
    ]
    means = [
        tf.math.divide_no_nan(tf.reduce_sum(keys, 0, keepdims=True), tf.reduce_sum(true))
        for keys, _, true in histories.values()
    ]
    rows = tf.shape(of_candidate.ids)[0]
    modifiers = [m.of(of_user, of_candidate) for m in trunk.modifiers]
    user_columns = tf.concat([of_user.ids, of_user.numbers], axis=-1)
    candidate_columns = tf.concat([of_candidate.ids, of_candidate.numbers, *attended], axis=-1)
    prior = tf.concat([of_user.numbers, *means], axis=-1)
    modifier_columns = tf.concat(
        [tf.zeros([rows, 0])]
        + [tf.broadcast_to(value, [rows, value.shape[-1]]) for value in modifiers],
        axis=-1,
    )
    return [
        Shared(_trunk(trunk, user_columns, candidate_columns[part]), prior, modifier_columns[part])
        for part in _halves(rows)
    ]


def _halves(rows: tf.Tensor) -> list[slice]:
    """Returns the slices of two halves; the second one of few rows has none.

    The first has a multiple of 16 rows, so that both are aligned and TensorFlow copies neither.
    """
    middle = tf.minimum(16 * ((rows + 31) // 32), rows)
    return [slice(None, middle), slice(middle, None)]


def _trunk(trunk: Trunk, user: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """The cross layers and the MLP over [1, d] columns of the user and [N, c] of the candidates."""
    d = user.shape[-1]
    x, gain = candidates, tf.ones_like(user)
    low_rank: list[tf.Tensor] = []  # h_k
    ups: list[tf.Tensor] = []  # (V_k)_u

    def dense(kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
        once = tf.squeeze((gain * user) @ kernel[:d], axis=0)
        # The bias is added here and not after the product: on MatMul + BiasAdd + Add Grappler's
        # remapper fails, and then fuses nothing.
        once = once if bias is None else once + bias
        if not low_rank:
            return tf.nn.bias_add(x @ kernel[d:], once)
        of_user = tf.concat(ups, 0) @ (tf.transpose(user) * kernel[:d])
        columns = tf.concat([x, *low_rank], axis=1)
        return tf.nn.bias_add(columns @ tf.concat([kernel[d:], of_user], axis=0), once)

    if trunk.cross is not None:
        # tensorflow-recommenders gives no public name to the layers of its cross network.
        downs, up = trunk.cross._dense_u_kernels, trunk.cross._dense_v_kernels
        for down_layer, up_layer in zip(downs, up, strict=True):
            h, v, b = dense(down_layer.kernel), up_layer.kernel, up_layer.bias
            x += candidates * tf.nn.bias_add(h @ v[:, d:], b[d:])
            gain += b[:d]
            low_rank.append(h)
            ups.append(v[:, :d])
    first, *others = trunk.mlp._sublayers
    x = first.activation(dense(first.kernel, first.bias))
    for layer in others:
        x = layer(x)
    return x


def _logits(towers: Mapping[str, Tower | LinearTower], shared: Shared) -> dict[str, tf.Tensor]:
    deep = {name: t for name, t in towers.items() if isinstance(t, Tower)}
    logits = {n: t(shared) for n, t in towers.items() if isinstance(t, LinearTower)}
    return logits | tower_logits(deep, shared)


def tower_logits(towers: Mapping[str, Tower], shared: Shared) -> dict[str, tf.Tensor]:
    """Returns the logits of towers of one shape, [N] each; the prior has one row.

    The hidden units of all heads lie side by side: what they compute of the shared features is one
    matmul, and each head's own kernel multiplies its columns alone.
    """
    if not towers:
        return {}
    each = list(towers.values())
    x = shared.features
    prior_columns = shared.prior.shape[-1]
    for n in range(len(each[0].hidden)):
        layers = [tower.hidden[n] for tower in each]
        y = (_of_each if n else _of_all)(x, layers, tf.nn.relu)
        if each[0].gates:
            gates = [tower.gates[n] for tower in each]
            kernel = tf.concat([gate.hidden.kernel for gate in gates], 1)
            once = tf.squeeze(shared.prior @ kernel[:prior_columns], 0)
            once += tf.concat([gate.hidden.bias for gate in gates], 0)
            hidden = tf.nn.relu(tf.nn.bias_add(shared.features @ kernel[prior_columns:], once))
            y *= 2.0 * _of_each(hidden, [gate.scale for gate in gates], tf.sigmoid)
        x = y
    last = [tower.logit for tower in each]
    logits = (_of_each if each[0].hidden else _of_all)(x, last, tf.identity)
    return dict(zip(towers, tf.unstack(logits, axis=1), strict=True))


def _of_all(
    x: tf.Tensor, layers: Sequence[tf.keras.layers.Dense], activation: Activation
) -> tf.Tensor:
    """Returns dense layers of one input, [N, i], side by side."""
    kernel = tf.concat([layer.kernel for layer in layers], 1)
    return activation(tf.nn.bias_add(x @ kernel, tf.concat([layer.bias for layer in layers], 0)))


def _of_each(
    x: tf.Tensor, layers: Sequence[tf.keras.layers.Dense], activation: Activation
) -> tf.Tensor:
    """Returns dense layers side by side, each of its own columns of [N, layers * i]."""
    columns = tf.split(x, len(layers), axis=1)
    return tf.concat(
        [
            activation(tf.nn.bias_add(own @ layer.kernel, layer.bias))
            for own, layer in zip(columns, layers, strict=True)
        ],
        axis=1,
    )


def encode(
    encoder: InputEncoder,
    values: Tensors,
    features: Sequence[Feature],
    scale: tf.keras.layers.Layer,
) -> Encoded:
    """Encodes one side but for its sequences, as `InputEncoder` does."""
    batch = tf.shape(values[features[0].name])[0]
    scalars = [f for f in features if f.table and not f.sequence]
    embedded = look_up(encoder, {f: values[f.name] for f in scalars})
    by_name = {f.name: e for f, e in embedded.items()}
    ids = [by_name[f.name] for f in scalars]
    target = None
    if "item_id" in by_name:
        category = by_name.get("category_id", tf.zeros_like(by_name["item_id"]))
        target = tf.concat([by_name["item_id"], category], axis=-1)
    return Encoded(
        tf.concat([tf.zeros([batch, 0]), *ids], axis=-1),
        scale(tf.concat([tf.zeros([batch, 0]), *_numbers(encoder, values, features)], axis=-1)),
        target,
        {},
    )


def _numbers(
    encoder: InputEncoder, values: Tensors, features: Sequence[Feature]
) -> list[tf.Tensor]:
    """The numeric features in their order, neighbours of one kind together, then the rates."""
    values = {
        f.name: tf.cast(tf.reshape(values[f.name], [-1, f.length]), tf.float32)
        for f in features
        if is_number(f)
    }
    parts = [
        number(encoding, tf.concat([values[f.name] for f in group], axis=-1))
        for encoding, group in groupby(filter(is_number, features), lambda f: f.encoding)
    ]
    return parts + [
        _log_lifts(encoder.rates[f.name], values[f.name])
        for f in features
        if f.name in encoder.rates
    ]


def _log_lifts(rates: SmoothedRates, counts: tf.Tensor) -> tf.Tensor:
    """Returns what `rates` does of [N, kinds * windows].

    Pairs are picked, scaled and shifted by a matmul with a bias: to gather them, a few numbers at a
    time, and to broadcast over them takes three times as long.
    """
    before, after = (
        np.kron(np.eye(rates.kinds, dtype=np.float32)[:, list(kinds)], np.eye(rates.windows))
        for kinds in zip(*rates.pairs, strict=True)
    )
    strength, prior = (
        tf.repeat(tf.squeeze(value, 1), rates.windows)
        for value in (tf.exp(rates.log_strength), tf.sigmoid(rates.prior_logit))
    )
    # No count is infinite, as zero times that would be no number.
    counts = tf.clip_by_value(counts, 0.0, tf.float32.max)
    lifts = tf.nn.bias_add(counts @ (after.astype(np.float32) / prior), strength)
    lifts /= tf.nn.bias_add(counts @ before.astype(np.float32), strength)
    return LOG_SCALE * tf.math.log(lifts)


def look_up(encoder: InputEncoder, wanted: Mapping[Feature, tf.Tensor]) -> dict[Feature, tf.Tensor]:
    """Looks up the embeddings of ids of one shape, [...]: [..., dim] each, by one gather."""
    if not wanted:
        return {}
    hashed = [
        (f, n)
        for f in wanted
        if f.encoding == "hash" and f.dtype == "int64"
        for n in range(f.hashes)
    ]
    others = [f for f in wanted if f not in {f for f, _ in hashed}]
    found = {f: encoder.ids.of(f, wanted[f]) for f in others}
    rows = [row for each in found.values() for row in each]
    if hashed:
        values = tf.stack([wanted[f] for f, _ in hashed])
        shape = [-1] + [1] * (len(values.shape) - 1)
        buckets = tf.reshape(tf.constant([f.buckets for f, _ in hashed], tf.int64), shape)
        offsets = tf.constant([encoder.ids.offsets[f.table] for f, _ in hashed], tf.int64)
        numbers = tf.reshape(tf.constant([n for _, n in hashed], tf.uint64), shape)
        rows = [hash_ids(values, buckets, numbers) + tf.reshape(offsets, shape), *rows]
    first, *single = rows if hashed else [tf.stack(rows)]
    ids = tf.concat([first, tf.stack(single)], 0) if single else first
    embedded: dict[Feature, tf.Tensor] = {}
    of_row = [*(f for f, _ in hashed), *(f for f in others for _ in found[f])]
    for feature, row in zip(of_row, tf.unstack(encoder.gather(ids)), strict=True):
        embedded[feature] = embedded[feature] + row if feature in embedded else row
    return embedded


def encode_histories(encoder: InputEncoder, user: Tensors) -> Histories:
    """Encodes the true positions of the user's sequences, those with an age of zero or more."""
    parts = {
        name: {"age" if f.encoding == "age" else f.table: f for f in columns}
        for name, columns in encoder.spec.sequences().items()
    }
    encoded: dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]] = {}
    for _, group in groupby(parts, lambda name: _kind(parts[name])):
        names = list(group)
        joined = {
            part: tf.concat([user[parts[name][part].name][0] for name in names], 0)
            for part in parts[names[0]]
        }
        lengths = [parts[name]["age"].length for name in names]
        masks = [_first_if_none(mask) for mask in tf.split(joined["age"] >= 0, lengths)]
        positions = tf.squeeze(tf.where(tf.concat(masks, 0)), axis=1)
        kept = {part: tf.gather(values, positions) for part, values in joined.items()}
        of_first = parts[names[0]]
        embedded = {
            f.table: e
            for f, e in look_up(
                encoder, {of_first[part]: kept[part] for part in of_first if part != "age"}
            ).items()
        }
        category = embedded.get("category", tf.zeros_like(embedded["item"]))
        true = tf.cast(kept["age"] >= 0, tf.float32)[:, tf.newaxis]
        keys = true * tf.concat([embedded["item"], category], axis=-1)
        counts = [tf.math.count_nonzero(mask) for mask in masks]
        split = [tf.split(values, counts) for values in (keys, age_bucket(kept["age"]), true)]
        encoded |= dict(zip(names, zip(*split, strict=True), strict=True))
    return {name: encoded[name] for name in parts}


def _first_if_none(mask: tf.Tensor) -> tf.Tensor:
    first = tf.range(tf.size(mask)) == 0
    return mask | (first & ~tf.reduce_any(mask))


def _kind(parts: Mapping[str, Feature]) -> list[tuple[str, str, str, str, int, int]]:
    return [(part, f.dtype, f.encoding, f.table, f.buckets, f.hashes) for part, f in parts.items()]
