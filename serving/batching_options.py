"""How requests are batched: TensorFlow Serving's BatchingParameters, read and checked."""

import os
from dataclasses import dataclass
from pathlib import Path

from cmdcm.core.errors import ConfigError
from cmdcm.serving.config_protos import BatchingParameters, read_text_proto


@dataclass(frozen=True)
class BatchingOptions:
    """How requests are batched; fields and defaults are TensorFlow Serving's.

    Attributes:
        max_batch_size: The most rows of a batch, and so of a request.
        batch_timeout_micros: How long the first request of a batch waits for others.
        max_enqueued_batches: Batches of a signature that may wait for a thread.
        num_batch_threads: Batches that run at once.
        allowed_batch_sizes: Sizes to which batches are padded; none for no padding.
        thread_pool_name: A label in the metrics.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    thread_pool_name: str = "model_server_batch_threads"


def read_batching_options(path: Path) -> BatchingOptions:
    """Reads the options from a text proto of BatchingParameters; what it leaves out has defaults.

    Raises:
        ConfigError: Names the file and the field that is wrong.
    """
    what = "batching parameters file"
    read = read_text_proto(path, BatchingParameters, what)
    fields = {
        name: getattr(read, name).value
        for name in BatchingOptions.__dataclass_fields__
        if name != "allowed_batch_sizes" and read.HasField(name)
    }
    options = BatchingOptions(
        **fields,
        allowed_batch_sizes=tuple(read.allowed_batch_sizes),
    )
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(options, name) < 1:
            raise ConfigError(
                f"{what} {path}: {name} should be at least 1. Received: {getattr(options, name)}"
            )
    if options.batch_timeout_micros < 0:
        raise ConfigError(
            f"{what} {path}: batch_timeout_micros should not be negative. "
            f"Received: {options.batch_timeout_micros}"
        )
    sizes = options.allowed_batch_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1):
        raise ConfigError(
            f"{what} {path}: allowed_batch_sizes entries must be monotonically increasing. "
            f"Received: {list(sizes)}"
        )
    if sizes and sizes[-1] != options.max_batch_size:
        raise ConfigError(
            f"{what} {path}: Last entry in allowed_batch_sizes must match max_batch_size; last "
            f"entry was {sizes[-1]}; expected {options.max_batch_size}"
        )
    if read.pad_variable_length_inputs:
        raise ConfigError(
            f"{what} {path}: pad_variable_length_inputs is not supported by the embedded server; "
            "give inputs a fixed length"
        )
    return options
