"""Examples a second of the training input on all cores, in the steady state.

Records are shuffled and every input and label is parsed; no model runs. Data is in the page cache.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows
from cmdcm.benchmarks.harness import Target, medians, report, timed
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import examples
from cmdcm.features.spec import FeatureSpec

FILES = 16
ROWS_PER_FILE = 10_000
BATCH = 2_048
BATCHES = 60  # of one measurement


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    spec = benchmark_spec()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"part-{number}") for number in range(FILES)]
        for number, file in enumerate(files):
            write_tfrecords(file, [example_rows(spec, ROWS_PER_FILE, seed=number)])
        take = _reader(files, spec)
        take()  # fills the shuffle buffer
        wall, processor = medians(timed(take), timed(take, time.process_time))
    count = BATCH * BATCHES
    figures = {"processor_microseconds_per_example": processor / count * 1e6}
    targets = {"examples_per_second": Target(count / wall, at_least=250_000)}
    return report("input", figures, targets)


def _reader(files: list[Path], spec: FeatureSpec) -> Callable[[], None]:
    columns = [feature.name for feature in (*spec.inputs, *spec.of("label"))]
    dataset: tf.data.Dataset = examples(
        files, spec, batch_size=BATCH, columns=columns, shuffle_seed=0
    )
    batches = iter(dataset.repeat())

    def take() -> None:
        for _ in range(BATCHES):
            next(batches)

    return take


if __name__ == "__main__":
    sys.exit(main())
