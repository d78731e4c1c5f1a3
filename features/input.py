"""Input of training and evaluation: TFRecord files -> tf.data batches of a spec's tensors.

Records are batched while serialized and parsed by one op a batch, which is nine times faster than
one by one. `parse_examples` is the same in training and in the serving signature.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
from absl import logging

from cmdcm.core.errors import DataError
from cmdcm.features.spec import Feature, FeatureSpec, subset
from cmdcm.features.tfrecord import is_gzip, is_whole, verify

_DTYPES = {"int64": tf.int64, "float32": tf.float32, "string": tf.string}
_OPEN_FILES = 8  # that shuffled reading takes turns of
_TURN = 16  # records
_PARALLEL_READS = 2
_PARALLEL_PARSES = 2
_PREFETCH = 4  # batches


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
    skip_batches: int = 0,
    deterministic: bool = True,
    worker: int = 0,
    workers: int = 1,
    on_corrupt: Literal["fail", "skip"] = "fail",
    skipped: list[DataError] | None = None,
) -> tf.data.Dataset:
    """Reads TFRecord files, plain or gzip, as batches of one epoch.

    Iterate inside `input_errors(files)` to have a corrupted file or a wrong column named.

    Args:
        files: Files of examples, the same list on every worker.
        spec: The columns of the examples.
        batch_size: Examples of a batch; the last one may have fewer.
        columns: Names of the columns to parse; all of the spec by default.
        shuffle_seed: Shuffles files and records, in an order that depends on the files, this seed
            and `epoch` alone. Without it the order is that of the files and of their records.
        epoch: Number of the epoch.
        shuffle_buffer: Records in the shuffle buffer.
        drop_remainder: Leave a last, smaller batch out; batches then have a static size.
        skip_batches: Batches to pass over; the rest is as it would have been. They are read, but
            not parsed.
        deterministic: Keep the order fixed; otherwise batches may overtake each other.
        worker: Number of this worker, from 0.
        workers: Workers that share the examples, each reading a part: whole files when there is
            one for each worker, else every `workers`-th record.
        on_corrupt: What to do at a corrupted or truncated record: `fail`, or log a warning and
            `skip` the rest of its file.
        skipped: Receives the error of every file whose rest was skipped.

    Returns:
        A data set of dicts of tensors by name, as `parse_examples` gives them.

    Raises:
        DataError: There are no files, or one cannot be read.
    """
    if not files:
        raise DataError("there are no TFRecord files to read")
    if not 0 <= worker < workers:
        raise ValueError(f"`worker` should be in [0, {workers}). Received: {worker}")
    wanted = spec if columns is None else subset(spec, columns)
    by_file = len(files) >= workers
    names = [str(file) for file in (files[worker::workers] if by_file else files)]
    random = np.random.default_rng((shuffle_seed or 0, epoch))
    if shuffle_seed is not None:
        random.shuffle(names)
    kinds = ["GZIP" if is_gzip(Path(name)) else "" for name in names]

    def report(file: Path) -> None:
        try:
            verify(file)
        except DataError as error:
            logging.warning("skipped the rest of a file: %s", error)
            if skipped is not None:
                skipped.append(error)

    def records(name: tf.Tensor, kind: tf.Tensor) -> tf.data.Dataset:
        dataset = tf.data.TFRecordDataset(name, kind)
        if on_corrupt == "skip":
            return _watched(dataset.ignore_errors(), name, report)
        return _watched(dataset, name, _check_end)

    dataset = tf.data.Dataset.from_tensor_slices((names, kinds))
    if shuffle_seed is None:
        dataset = dataset.flat_map(records)
    else:
        dataset = dataset.interleave(
            records,
            _OPEN_FILES,
            _TURN,
            num_parallel_calls=_PARALLEL_READS,
            deterministic=deterministic,
        )
    if not by_file:
        dataset = dataset.shard(workers, worker)
    if shuffle_seed is not None:
        dataset = _shuffle(dataset, shuffle_buffer, random)
    dataset = dataset.batch(batch_size, drop_remainder).skip(skip_batches)
    dataset = dataset.map(
        lambda serialized: parse_examples(serialized, wanted.features),
        num_parallel_calls=_PARALLEL_PARSES,
        deterministic=deterministic,
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # its bookkeeping costs a tenth of the whole
    # `worker` has split the examples; a distribution strategy is not to split them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(_PREFETCH).with_options(options)


def _shuffle(dataset: tf.data.Dataset, buffer: int, random: np.random.Generator) -> tf.data.Dataset:
    """Shuffles records as `Dataset.shuffle` does, which would mix in TensorFlow's global seed."""
    seed, seed2 = random.integers(1, 2**31, 2)
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(buffer, tf.int64),
        seed=tf.constant(seed, tf.int64),
        seed2=tf.constant(seed2, tf.int64),
        output_types=[tf.string],
        output_shapes=[[]],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, dataset.element_spec)


def _watched(
    dataset: tf.data.Dataset, name: tf.Tensor, check: Callable[[Path], None]
) -> tf.data.Dataset:
    """Runs `check` on a file when its records are through."""

    def run(name: bytes) -> bool:
        check(Path(name.decode()))
        return False

    # An empty data set behind the records.
    end = tf.data.Dataset.from_tensors(name).filter(
        lambda name: tf.ensure_shape(tf.numpy_function(run, [name], tf.bool), [])
    )
    return dataset.concatenate(end)


def _check_end(file: Path) -> None:
    """Checks what TensorFlow passes over: a plain file that ends inside a record's header.

    A gzip file would have to be read a second time; its manifest's checksum guards it.
    """
    if not (is_gzip(file) or is_whole(file)):
        verify(file)


@contextlib.contextmanager
def input_errors(files: Sequence[Path]) -> Iterator[None]:
    """Turns TensorFlow's errors at bad input into errors that name the file or the column.

    Raises:
        DataError: Names the first of `files` with a corrupted or truncated record and its offset,
            or the feature whose values do not have the type or the length of the spec.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.UnknownError):
        for file in files:
            verify(file)
        raise
    except tf.errors.InvalidArgumentError as error:
        if "Key: " not in error.message:
            raise
        reason = error.message[error.message.index("Key: ") :].splitlines()[0]
        raise DataError(f"an example does not have the columns of its spec. {reason}") from error
