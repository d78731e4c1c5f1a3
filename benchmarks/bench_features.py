"""Events a second from raw Parquet to TFRecord on disk, on all cores, and peak memory.

Simulated worlds of one and ten million events with Zipf-hot items. Each run is what the command
`cmdcm features` does with the default settings, in a process of its own (`run_features.py`). The
rival computes the same columns of the small world with DuckDB (`duckdb_features.py`) and writes
them as Parquet; all values are compared. Neither time has the imports in it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from cmdcm.benchmarks.duckdb_features import write_features
from cmdcm.benchmarks.harness import BUILD, Target, medians, report
from cmdcm.core.config import Config, load_config
from cmdcm.core.files import read_manifest
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.simulator import simulate
from cmdcm.features.encode import encode_examples
from cmdcm.features.input import parse_examples
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.spec import FeatureSpec, arrow_type
from cmdcm.features.tfrecord import read_records

SMALL, LARGE = 1_000_000, 10_000_000
REPEATS = 3


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    small, large = world(SMALL), world(LARGE)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        ours, theirs = Path(folder, "examples"), Path(folder, "examples.parquet")
        peaks: list[float] = []
        config = Config()
        observed = build(small, ours, peaks)[1]["observed_until_ms"]

        def duckdb() -> float:
            started = time.perf_counter()
            log = open_event_log(small)
            write_features([str(file) for file in log.files], config, observed, theirs)
            return time.perf_counter() - started

        seconds, rival = medians(lambda: build(small, ours, peaks)[0], duckdb, repeats=REPEATS)
        rows = compare(ours, theirs)
        (long,) = medians(lambda: build(large, ours, peaks)[0], repeats=REPEATS)
        manifest = read_manifest(ours, EXAMPLES)
    figures = {
        "events_per_second_1m": SMALL / seconds,
        "duckdb_events_per_second_1m": SMALL / rival,
        "seconds_10m": long,
        "examples_10m": float(manifest["rows"]),
        "rows_with_equal_values": float(rows),
    }
    targets = {
        "events_per_second_10m": Target(LARGE / long, at_least=250_000),
        "times_duckdb": Target(rival / seconds, at_least=3),
        "peak_gib": Target(max(peaks), at_most=4),
        "time_10m_over_1m": Target(long / seconds, at_most=11),
    }
    return report("features", figures, targets)


def world(events: int) -> Path:
    """Simulates an event log, once, and returns its directory."""
    target = BUILD / f"world-{events}"
    if not (target / "events").exists():
        simulate(target, load_config(overrides=[f"simulate.events={events}"]), overwrite=True)
    return target / "events"


def build(events: Path, target: Path, peaks: list[float]) -> tuple[float, dict]:
    """Makes the examples; returns the seconds and the manifest, and adds the peak memory in GiB."""
    script = "cmdcm.benchmarks.run_features"
    answer = subprocess.run(
        [sys.executable, "-m", script, str(events), str(target)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    measured = json.loads(answer.stdout.splitlines()[-1])
    peaks.append(measured["peak_gib"])
    return measured["seconds"], read_manifest(target, EXAMPLES)


def compare(ours: Path, theirs: Path) -> int:
    """Returns the number of examples; all values of both have to be equal."""
    spec = FeatureSpec.load(ours / "spec.json")
    records = [r for shard in sorted(ours.glob("*/part-*")) for r in read_records(shard)]
    rival = pq.read_table(theirs)
    table = pa.table({f.name: rival[f.name].cast(arrow_type(f)) for f in spec.features})
    mine, other = (_sorted(list(some), spec) for some in (records, encode_examples(table)))
    for name, values in mine.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
    return len(records)


def _sorted(records: list[bytes], spec: FeatureSpec) -> dict[str, np.ndarray]:
    batches = [
        parse_examples(tf.constant(records[n : n + 4096]), spec.features)
        for n in range(0, len(records), 4096)
    ]
    columns = {n: np.concatenate([b[n].numpy() for b in batches]) for n in spec.names()}
    keys = ("price", "brand_id", "seller_id", "category_id", "item_id", "user_id", "click_time_ms")
    order = np.lexsort([columns[key] for key in keys])
    return {name: values[order] for name, values in columns.items()}


if __name__ == "__main__":
    sys.exit(main())
