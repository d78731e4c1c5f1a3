"""Time of a training step of the default CM-DCM against the rows of its tables and the batch size.

The user's and the item's table have half of the rows each; ids are random over all of them, so that
a row is looked up twice only where a batch has about as many ids as a table has rows. The batch is
always the same one, in memory. "Growth" is the time of an example with the most rows over that with
the fewest. The tables of one batch size take turns.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows
from cmdcm.benchmarks.harness import Target, medians, report
from cmdcm.benchmarks.trainees import Trainee
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.training import training_columns

ROWS = (100_000, 1_000_000, 10_000_000, 30_000_000)
SIZES = (256, 1024, 4096)
LARGEST_ID = 2**62


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, few steps")
    quick = parser.parse_args(arguments).quick
    table_rows, repeats = (ROWS[:2], 3) if quick else (ROWS, 40)
    figures: dict[str, Any] = {}
    targets: dict[str, Target] = {}
    for size in SIZES:
        trainees = [
            Trainee(spec, batch=random_batch(spec, size), batch_size=size)
            for spec in map(sized, table_rows)
        ]
        seconds = medians(*map(taking, trainees), repeats=repeats)
        for rows, each in zip(table_rows, seconds, strict=True):
            figures[f"us_per_example_{rows:.0e}_rows_batch_{size}"] = 1e6 * each / size
        targets[f"growth_batch_{size}"] = Target(seconds[-1] / seconds[0], at_most=1.3)
    return report("scale", figures, targets)


def taking(trainee: Trainee) -> Callable[[], float]:
    """Returns a measure of one step."""
    return lambda: trainee.take(1)[0]


def sized(rows: int) -> FeatureSpec:
    """Returns the default spec with `rows` rows in the tables of users and items together."""
    return FeatureSpec(
        features=tuple(
            feature.model_copy(update={"buckets": rows // 2})
            if feature.table in ("user", "item")
            else feature
            for feature in benchmark_spec().features
        )
    )


def random_batch(spec: FeatureSpec, size: int) -> Mapping[str, tf.Tensor]:
    """Returns random examples, whose user and item ids are spread over the whole tables."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "examples")
        write_tfrecords(file, [example_rows(spec, size, seed=0)])
        batch = next(iter(examples([file], spec, batch_size=size, columns=training_columns(spec))))
    random = tf.random.Generator.from_seed(0)
    for feature in spec.inputs:
        if feature.table in ("user", "item"):
            shape = tf.shape(batch[feature.name])
            ids = random.uniform(shape, 0, LARGEST_ID, tf.int64)
            batch[feature.name] = ids
    return dict(batch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
