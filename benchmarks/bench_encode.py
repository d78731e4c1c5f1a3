"""Rows a second of one core from Arrow to TFRecord, against Python's protobuf and tfx_bsl.

Ours writes a file, with framing and CRC. Python builds a tf.train.Example from the values of each
row and writes it with tf.io.TFRecordWriter. tfx_bsl makes serialized protos in memory and no more;
it runs in an environment of its own, because its requirements exclude ours. All in processor time.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows, python_example
from cmdcm.benchmarks.harness import BUILD, Target, medians, report, timed
from cmdcm.features.encode import canonical, write_tfrecords

ROWS = 40_000
PYTHON_ROWS = 1_000
TFX_BSL = "tfx-bsl==1.21.0"
ENCODER = "tfx_bsl.cc.tfx_bsl_extension.coders"


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    table = example_rows(benchmark_spec(), ROWS, seed=0)
    python_rows = table.slice(0, PYTHON_ROWS).to_pylist()
    figures: dict[str, float | str] = {}
    targets: dict[str, Target] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "part")
        measures = [
            timed(lambda: write_tfrecords(path, [table]), time.process_time),
            timed(lambda: write_tfrecords(path, [table], gzip=True), time.process_time),
            timed(lambda: _write_with_python(python_rows, path), time.process_time),
        ]
        try:
            worker = _start_tfx_bsl(table, Path(folder, "rows.arrow"))
        except (OSError, subprocess.CalledProcessError) as error:
            figures["tfx_bsl"] = f"not measured, {TFX_BSL} does not install or run here: {error}"
            ours, compressed, python = medians(*measures)
        else:
            with worker:
                ours, compressed, python, theirs = medians(*measures, _seconds_of(worker))
            figures["tfx_bsl_rows_per_second"] = ROWS / theirs
            targets["times_tfx_bsl"] = Target(theirs / ours, at_least=2)
        write_tfrecords(path, [table])
        figures["bytes_per_row"] = path.stat().st_size / ROWS
    figures["gzip_rows_per_second"] = ROWS / compressed
    figures["python_rows_per_second"] = PYTHON_ROWS / python
    targets["times_python"] = Target(python / PYTHON_ROWS / (ours / ROWS), at_least=12)
    targets["rows_per_second"] = Target(ROWS / ours, at_least=334_000)
    return report("encode", figures, targets)


def _write_with_python(rows: list[dict], path: Path) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(python_example(row))


def _start_tfx_bsl(table: pa.Table, path: Path) -> subprocess.Popen:
    """Installs tfx_bsl, once, and starts its encoder on the rows of `table`."""
    environment = BUILD / "tfx_bsl"
    python = environment / "bin" / "python"
    if not (environment / "installed").exists():
        requirements = [TFX_BSL, f"pyarrow=={pa.__version__}", f"numpy=={np.__version__}"]
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", *requirements]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        subprocess.run([str(python), "-c", f"import {ENCODER}"], check=True)
        (environment / "installed").touch()
    lists = {name: _as_lists(table[name].combine_chunks(), name) for name in table.column_names}
    batch = pa.record_batch(lists)
    with pa.ipc.new_file(path, batch.schema) as writer:
        for start in range(0, ROWS, 4096):
            writer.write_batch(batch.slice(start, 4096))
    script = Path(__file__).with_name("tfx_bsl_encoder.py")
    return subprocess.Popen(
        [python, script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _as_lists(column: pa.Array, name: str) -> pa.Array:
    """Returns the column in the types that tfx_bsl takes: large_list of int64 and others."""
    array: pa.Array = canonical(column, name)
    if not isinstance(array, pa.LargeListArray):
        array = pa.LargeListArray.from_arrays(np.arange(len(array) + 1), array)
    is_int32 = array.type.value_type == pa.int32()
    return array.cast(pa.large_list(pa.int64())) if is_int32 else array


def _seconds_of(worker: subprocess.Popen) -> Callable[[], float]:
    assert worker.stdin and worker.stdout
    question, answer = worker.stdin, worker.stdout

    def measure() -> float:
        question.write("run\n")
        question.flush()
        return float(answer.readline())

    return measure


if __name__ == "__main__":
    sys.exit(main())
