"""CPU of one core to build and serialize a scoring request, by signature and candidates.

`user_once` is the client's `score_candidates` request; `examples` has the same values as
tf.train.Examples from our encoder; for `python_examples` these are built value by value, as a plain
Python client does.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows, python_example
from cmdcm.benchmarks.harness import Target, medians, report, timed
from cmdcm.features.spec import FeatureSpec, subset
from cmdcm.serving.rows import dense_arrays, feature_table
from cmdcm.serving.scoring import CANDIDATES_SIGNATURE, Plan, Scoring
from cmdcm.serving.servable import DEFAULT_SIGNATURE

SIZES = (100, 500, 1000)
REPEATS = 50


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    whole = benchmark_spec()
    spec = subset(whole, [feature.name for feature in whole.inputs])
    figures: dict[str, float] = {}
    for size in SIZES:
        for name, milliseconds in _measure(spec, size).items():
            figures[f"{name}_{size}_ms"] = milliseconds
    times = figures["python_examples_500_ms"] / figures["examples_500_ms"]
    targets = {
        "user_once_500_ms": Target(figures.pop("user_once_500_ms"), at_most=0.5),
        "times_python_500": Target(times, at_least=8),
    }
    return report("client", figures, targets)


def _measure(spec: FeatureSpec, size: int) -> dict[str, float]:
    """Returns the CPU milliseconds of a request of `size` candidates, by the way it is built."""
    scoring = Scoring(
        "nowhere",
        "cmdcm",
        spec,
        version=None,
        label="",
        deadline_ms=1000,
        max_bytes=1 << 26,
        sizes=SIZES,
        request_log=None,
    )
    drawn = example_rows(spec, size, seed=0)
    table = feature_table(drawn, spec)
    user = dense_arrays(table.slice(0, 1), spec.user_inputs)
    for columns in spec.sequences().values():
        held = len(table.column(columns[0].name)[0])
        user |= {column.name: user[column.name][:, :held] for column in columns}
    candidates = dense_arrays(table, spec.candidate_inputs)
    rows = drawn.to_pylist()
    rows = [{**row, **{name: rows[0][name] for name in user}} for row in rows]

    def send(plan: Plan) -> None:
        next(plan)[0].SerializeToString()

    ways: dict[str, Callable[[], None]] = {
        "user_once": lambda: send(scoring.score_candidates(user, candidates, CANDIDATES_SIGNATURE)),
        "examples": lambda: send(scoring.score_candidates(user, candidates, DEFAULT_SIGNATURE)),
        "python_examples": lambda: send(scoring.score_examples([python_example(r) for r in rows])),
    }
    repeats = {"user_once": REPEATS, "examples": REPEATS, "python_examples": 1}

    def repeat(name: str) -> None:
        for _ in range(repeats[name]):
            ways[name]()

    seconds = medians(*(timed(partial(repeat, name), time.process_time) for name in ways))
    return {name: 1000 * value / repeats[name] for name, value in zip(ways, seconds, strict=True)}


if __name__ == "__main__":
    sys.exit(main())
