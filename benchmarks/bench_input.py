"""Examples a second of the training input on all cores, and its cost beside the model's step.

Records are shuffled and every input and label is decoded, as training does; no model runs. The
second reader is tf.data alone: TFRecordDataset, interleave, shuffle, batch, one tf.io.parse_example
a batch. The step is one of training, with the default CM-DCM. Data is in the page cache, and times
are of the steady state.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows
from cmdcm.benchmarks.harness import Target, medians, report, timed
from cmdcm.core.config import Config
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import examples, parse_examples
from cmdcm.features.spec import FeatureSpec, subset
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.registry import make_model
from cmdcm.model.training import training_columns

FILES = 16
ROWS_PER_FILE = 10_000
BATCH = Config().training.batch_size
BUFFER = Config().training.shuffle_buffer
BATCHES = 120  # of one measurement
STEPS = 20  # of one measurement


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    spec = benchmark_spec()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"part-{number}") for number in range(FILES)]
        for number, file in enumerate(files):
            write_tfrecords(file, [example_rows(spec, ROWS_PER_FILE, seed=number)])
        ours = examples(
            files, spec, batch_size=BATCH, columns=training_columns(spec), shuffle_seed=0
        )
        figures: dict[str, float] = {}
        rate, figures["processor_us_per_example"] = _read(ours)
        figures["tf_data_examples_per_second"], figures["tf_data_processor_us_per_example"] = _read(
            _tf_data(files, spec)
        )
        figures["model_step_processor_us_per_example"] = _step(spec, next(iter(ours)))
    figures["percent_of_model_step"] = (
        100 * figures["processor_us_per_example"] / figures["model_step_processor_us_per_example"]
    )
    targets = {"examples_per_second": Target(rate, at_least=250_000)}
    return report("input", figures, targets)


def _read(dataset: tf.data.Dataset) -> tuple[float, float]:
    """Returns examples a second, and microseconds of processor time an example."""
    batches = iter(dataset.repeat())
    take = _taker(batches)
    take()  # fills the shuffle buffer
    wall, processor = medians(timed(take), timed(take, time.process_time))
    return BATCH * BATCHES / wall, processor / (BATCH * BATCHES) * 1e6


def _taker(batches: Iterator[object]) -> Callable[[], None]:
    def take() -> None:
        for _ in range(BATCHES):
            next(batches)

    return take


def _tf_data(files: list[Path], spec: FeatureSpec) -> tf.data.Dataset:
    features = subset(spec, training_columns(spec)).features
    options = tf.data.Options()
    options.autotune.enabled = False
    return (
        tf.data.Dataset.from_tensor_slices([str(file) for file in files])
        .interleave(tf.data.TFRecordDataset, 8, 16, num_parallel_calls=2)
        .shuffle(BUFFER, seed=0)
        .batch(BATCH)
        .map(lambda serialized: parse_examples(serialized, features), num_parallel_calls=2)
        .prefetch(4)
        .with_options(options)
    )


def _step(spec: FeatureSpec, batch: dict[str, tf.Tensor]) -> float:
    """Returns the microseconds of processor time an example of a training step."""
    config = Config()
    model = make_model(spec, config.model)
    model.compute_loss(batch)
    model.compile(optimizer=make_optimizer(model, config.training))
    step = model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def run() -> None:
        for _ in range(STEPS):
            step(batches)

    (seconds,) = medians(timed(run, time.process_time), repeats=3)
    return seconds / (STEPS * BATCH) * 1e6


if __name__ == "__main__":
    sys.exit(main())
