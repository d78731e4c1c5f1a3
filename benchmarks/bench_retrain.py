"""The whole retraining job, step by step: seconds and memory for each million clicks; a no-op run.

    make bench-retrain

The job runs in a process of its own on a simulated world (`build/benchmarks/retrain`), twice: the
second run finds everything done, and its wall time includes the start of Python.
"""

import os
import shutil
import subprocess
import sys
import time

from cmdcm.benchmarks.harness import BUILD, Target, report
from cmdcm.core.config import Config, load_config
from cmdcm.core.files import read_json
from cmdcm.datasets.simulator import simulate
from cmdcm.jobs.retrain.decision import decision_folder
from cmdcm.jobs.retrain.window import Window

EVENTS = int(os.environ.get("CMDCM_BENCH_EVENTS", "1000000"))
PROMOTION, AS_OF = "double12-2024", "2024-12-01"
FOLDER = BUILD / "retrain"
NO_OP_SECONDS = 10.0
OPEN = "{min_pcoc=0, max_pcoc=0, min_auc=0, max_normalised_entropy=0}"
SETTINGS = (
    f"simulate.events={EVENTS}",
    "training.epochs=1",
    "evaluation.bootstrap=200",
    # The benchmark measures the job to its end, whatever the model is worth.
    f"gate.overall={OPEN}",
    f"gate.slices={OPEN}",
    "gate.min_positives=1",
    "gate.max_latency_ms=5000",
    "gate.max_clipped_share=1",
    "gate.min_effective_rows=0",
    "retrain.max_daily_ratio=1000",
    f"retrain.events={FOLDER / 'world' / 'events'}",
    f"retrain.work={FOLDER / 'work'}",
    f"retrain.output={FOLDER / 'serving'}",
    f"tracking.uri=sqlite:///{FOLDER / 'mlflow.db'}",
)


def job() -> tuple[float, float]:
    """Runs the command in a new process; returns its wall time and its processor time in seconds.

    The processor time, that of its children too, is what other work on the machine changes least.
    """
    command = [sys.executable, "-m", "cmdcm.jobs.main", "retrain"]
    command += ["--promotion", PROMOTION, "--as-of", AS_OF]
    for setting in SETTINGS:
        command += ["--set", setting]
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, os.times()
    used = [t.children_user + t.children_system for t in (before, after)]
    return seconds, used[1] - used[0]


def world(config: Config) -> None:
    """Simulates the world, unless an earlier run of this size has."""
    mark = FOLDER / f"events-{EVENTS}"
    if not mark.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        simulate(FOLDER / "world", config)
        mark.touch()
    for name in ("work", "serving"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    (FOLDER / "mlflow.db").unlink(missing_ok=True)


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    config = load_config(overrides=SETTINGS)
    world(config)
    seconds, cpu_seconds = job()
    folder = decision_folder(config, Window.of(config, PROMOTION, AS_OF))
    steps = read_json(folder / "decision.json", "decision")["steps"]
    clicks = steps["snapshot"]["summary"]["clicks"]
    examples = steps["features"]["summary"]["rows"]
    figures: dict[str, object] = {
        "events": steps["snapshot"]["summary"]["rows"],
        "clicks": clicks,
        "examples": examples,
        "training_rows": steps["train"]["summary"]["rows"],
        "seconds": seconds,
        "seconds_per_million_clicks": seconds / clicks * 1e6,
        "cpu_seconds": cpu_seconds,
        "cpu_seconds_per_million_clicks": cpu_seconds / clicks * 1e6,
    }
    for name, step in steps.items():
        figures[f"{name}_seconds"] = step["seconds"]
        figures[f"{name}_seconds_per_million_clicks"] = step["seconds"] / clicks * 1e6
        figures[f"{name}_peak_mib"] = step["peak_mib"]
    figures["peak_mib"] = max(step["peak_mib"] for step in steps.values())
    no_op = min(job()[0] for _ in range(3))
    return report("retrain", figures, {"no_op_seconds": Target(no_op, at_most=NO_OP_SECONDS)})


if __name__ == "__main__":
    sys.exit(main())
