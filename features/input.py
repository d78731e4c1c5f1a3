"""Input of training and evaluation: TFRecord files -> tf.data batches of a spec's tensors.

Compiled Python reads, shuffles and decodes (`records.py`, `decode.py`) under tf.data, which runs it
ahead of the consumer, on several threads: the GIL is free meanwhile. `parse_examples` gives the
same tensors by TensorFlow's ops alone, for the serving signatures.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from absl import logging

from cmdcm.core.errors import DataError
from cmdcm.features.decode import Decoder, Strings
from cmdcm.features.feeding import CALLS, Batches
from cmdcm.features.records import (
    WHOLE,
    Shares,
    Stream,
    batches,
    read_file,
    share,
    shuffle,
    split,
    take_turns,
)
from cmdcm.features.sampling import WEIGHT, RowWeights, outputs
from cmdcm.features.spec import Feature, FeatureSpec, subset
from cmdcm.features.tfrecord import is_gzip

_DTYPES = {"int64": tf.int64, "float32": tf.float32, "string": tf.string}
_OPEN_FILES = 8  # that shuffled reading takes turns of
_PARALLEL_DECODES = 2
_PREFETCH = 4  # batches, serialized and decoded each


def parse_examples(serialized: tf.Tensor, features: Sequence[Feature]) -> dict[str, tf.Tensor]:
    """Parses a batch of serialized tf.train.Examples.

    Args:
        serialized: string [batch].
        features: What to parse; other features in the examples are passed over.

    Returns:
        Tensors by name, of each feature's dtype: [batch] for a scalar, [batch, length] for a
        vector or a sequence. A sequence keeps its first `length` elements and is padded with
        `default`, which also stands for a missing scalar or vector.

    Example:
        >>> from cmdcm.features.encode import encode_examples
        >>> import pyarrow as pa
        >>> carts = Feature(name="carts", dtype="int64", side="user", shape="sequence", length=2)
        >>> encoded = encode_examples(pa.table({"carts": [[7], [], [1, 2, 3], None]}))
        >>> parse_examples(tf.constant(list(encoded)), [carts])["carts"].numpy().tolist()
        [[7, 0], [0, 0], [1, 2], [0, 0]]
    """
    parsed = tf.io.parse_example(serialized, {f.name: _parser(f) for f in features})
    return {
        f.name: _fixed_length(parsed[f.name], f) if f.shape == "sequence" else parsed[f.name]
        for f in features
    }


def _parser(feature: Feature) -> tf.io.FixedLenFeature | tf.io.FixedLenSequenceFeature:
    dtype, default = _DTYPES[feature.dtype], _default(feature)
    if feature.shape == "sequence":
        return tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True, default_value=default)
    if feature.shape == "vector":
        return tf.io.FixedLenFeature([feature.length], dtype, [default] * feature.length)
    return tf.io.FixedLenFeature([], dtype, default)


def _default(feature: Feature) -> int | float | str:
    convert = {"int64": int, "float32": float, "string": str}[feature.dtype]
    return convert(feature.default)


def _fixed_length(values: tf.Tensor, feature: Feature) -> tf.Tensor:
    """Cuts or pads [batch, longest] to [batch, length]."""
    values = values[:, : feature.length]
    missing = feature.length - tf.shape(values)[1]
    padding = tf.constant(_default(feature), values.dtype)
    values = tf.pad(values, [[0, 0], [0, missing]], constant_values=padding)
    return tf.ensure_shape(values, [None, feature.length])


def examples(
    files: Sequence[Path],
    spec: FeatureSpec,
    *,
    batch_size: int,
    columns: Sequence[str] | None = None,
    shuffle_seed: int | None = None,
    epoch: int = 0,
    shuffle_buffer: int = 50_000,
    drop_remainder: bool = False,
    pad_remainder: bool = False,
    shares: Shares = WHOLE,
    skip_batches: int = 0,
    deterministic: bool = True,
    worker: int = 0,
    workers: int = 1,
    on_corrupt: Literal["fail", "skip"] = "fail",
    skipped: list[DataError] | None = None,
    weights: RowWeights | None = None,
) -> tf.data.Dataset:
    """Reads TFRecord files, plain or gzip, as batches of one epoch.

    Iterate inside `input_errors()` to have a corrupted file or a wrong column named.

    Args:
        files: Files of examples, the same list on every worker.
        spec: The columns of the examples.
        batch_size: Examples of a batch; the last one may have fewer.
        columns: Names of the columns to decode; all of the spec by default.
        shuffle_seed: Shuffles files and records, in an order that depends on the files, this seed
            and `epoch` alone. Without it the order is that of the files and of their records.
        epoch: Number of the epoch.
        shuffle_buffer: Records in the shuffle buffer.
        drop_remainder: Leave a last, smaller batch out; batches then have a static size.
        pad_remainder: Fill a last, smaller batch with rows of the features' defaults and of weight
            0; batches then have a static size, and the column `row_weight`, float32 [batch].
        shares: Which shares of every batch to yield; with more than one to a batch, the remainder
            must be dropped or padded.
        skip_batches: Batches to pass over; the rest is as it would have been. They are read, but
            not decoded.
        deterministic: Keep the order fixed; otherwise batches may overtake each other.
        worker: Number of this worker, from 0.
        workers: Workers that share the examples, each reading a part: whole files when there is
            one for each worker, else every `workers`-th record.
        on_corrupt: What to do at a corrupted or truncated record: `fail`, or log a warning and
            `skip` the rest of its file.
        skipped: Receives the error of every file whose rest was skipped.
        weights: Leaves negative rows out, before they are batched, and adds the column
            `row_weight`, float32 [batch], if any are asked for.

    Returns:
        A data set of dicts of tensors by name, as `parse_examples` gives them.

    Raises:
        DataError: There are no files, or one cannot be read.
        ConfigError: Unknown columns.
    """
    if not files:
        raise DataError("there are no TFRecord files to read")
    if not 0 <= worker < workers:
        raise ValueError(f"`worker` should be in [0, {workers}). Received: {worker}")
    static = drop_remainder or pad_remainder
    if batch_size % shares.of or (shares.of > 1 and not static):
        raise ValueError(
            f"{shares.of} shares need a `batch_size` that is a multiple of it, without a remainder."
            f" Received: {batch_size}"
        )
    wanted = (spec if columns is None else subset(spec, columns)).features
    weights = weights or RowWeights(spec)
    by_file = len(files) >= workers
    own = [Path(file) for file in (files[worker::workers] if by_file else files)]
    for file in own:
        is_gzip(file)  # it can be read

    def report(error: DataError) -> None:
        logging.warning("skipped the rest of a file: %s", error)
        if skipped is not None:
            skipped.append(error)

    def stream(skip: int) -> Stream:
        random = np.random.default_rng((shuffle_seed or 0, epoch))
        order = own if shuffle_seed is None else [own[i] for i in random.permutation(len(own))]
        records = take_turns(
            (read_file(file, report if on_corrupt == "skip" else None) for file in order),
            1 if shuffle_seed is None else _OPEN_FILES,
        )
        if not by_file:
            records = share(records, worker, workers)
        records = weights.sample(records, shuffle_seed or 0, epoch)
        if shuffle_seed is not None:
            records = shuffle(records, shuffle_buffer, random)
        whole = batches(records, batch_size, drop_remainder, skip // len(shares.own))
        if pad_remainder:
            whole = (piece.padded(batch_size) for piece in whole)
        return islice(split(whole, shares), skip % len(shares.own), None)

    first = skip_batches * len(shares.own)
    dataset = _numbered(Batches(stream), first).prefetch(_PREFETCH)
    rows = batch_size // shares.of if static else None
    dataset = dataset.map(
        _decoding(spec, wanted, weights, rows, pad_remainder),
        num_parallel_calls=_PARALLEL_DECODES,
        deterministic=deterministic,
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # its bookkeeping costs a tenth of the whole
    # `worker` has split the examples; a distribution strategy is not to split them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(_PREFETCH).with_options(options)


def _numbered(batch: Batches, first: int) -> tf.data.Dataset:
    read = CALLS.counted(lambda number: batch(int(number)))

    def call(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        memory, stops = tf.numpy_function(read, [number], [tf.uint8, tf.int64], stateful=False)
        return tf.ensure_shape(memory, [None]), tf.ensure_shape(stops, [None])

    numbers = tf.data.Dataset.range(first, tf.int64.max)
    return numbers.map(call).take_while(lambda memory, stops: tf.size(stops) > 0)


def _decoding(
    spec: FeatureSpec,
    wanted: Sequence[Feature],
    weights: RowWeights,
    batch_size: int | None,
    padded: bool,
) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function from a serialized batch to its tensors."""
    decoder = Decoder(spec, outputs(wanted, weights))
    types = [
        t
        for f in wanted
        for t in ((tf.int64, tf.string) if f.dtype == "string" else (_DTYPES[f.dtype],))
    ]
    weighted = weights.asked or padded
    types += [tf.float32] if weighted else []

    def decode(memory: np.ndarray, stops: np.ndarray) -> list[Any]:
        address = memory.ctypes.data
        starts = np.concatenate([[0], stops[:-1]])
        columns = decoder.decode_memory(address + starts, address + stops)
        arrays = list[Any]()
        for feature in wanted:
            column = columns[feature.name]
            arrays += [column.index, column.proto] if isinstance(column, Strings) else [column]
        if weighted:
            true = (stops > starts).astype(np.float32)  # padding is empty records
            arrays.append(weights.weigh(columns, len(stops)) * true)
        return arrays

    counted = CALLS.counted(decode)

    def tensors(memory: tf.Tensor, stops: tf.Tensor) -> dict[str, tf.Tensor]:
        made = iter(tf.numpy_function(counted, [memory, stops], types, stateful=False))
        batch = {}
        for feature in wanted:
            tensor = next(made)
            if feature.dtype == "string":
                strings = tf.ensure_shape(tf.io.parse_tensor(next(made), tf.string), [None])
                tensor = tf.gather(strings, tensor)
            shape = [] if feature.shape == "scalar" else [feature.length]
            batch[feature.name] = tf.ensure_shape(tensor, [batch_size, *shape])
        if weighted:
            batch[WEIGHT] = tf.ensure_shape(next(made), [batch_size])
        return batch

    return tensors


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turns the errors that reading and decoding raise inside TensorFlow into their own.

    Raises:
        DataError: Names the first file with a corrupted or truncated record and its offset, or the
            feature whose values do not have the type or the number of the spec.
    """
    try:
        yield
    except tf.errors.UnknownError as error:
        _, ours, text = error.message.partition(f"{DataError.__name__}: ")
        if not ours:
            raise
        raise DataError(text.partition("\nTraceback")[0]) from error
