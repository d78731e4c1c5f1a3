"""Examples a second of training the default CM-DCM, beside three rivals, with two sizes of tables.

The input is that of `cmdcm train`, over the 2.3 M examples of a simulated world. Every table of
hashed ids has 100 k rows, then 1 M. The rivals:

    frozen   the same network and input, whose tables are not trained: the upper bound
    adam     the same network and input, all weights trained by Keras' Adam
    peer     torch-rechub's MMOE with the tables, the dimensions, the MLP's and the towers' widths
             of CM-DCM, as many tasks, two experts, on the same examples in memory, in an
             environment of its own (`torch_rechub_mmoe.py`). It has no attention, no cross layers
             and no gates: the mean of each sequence is all that it takes of it.

All of the steady state; the four take turns, so that a disturbance of the machine meets all.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cmdcm.benchmarks.harness import BUILD, Target, medians, report
from cmdcm.benchmarks.trainees import Trainee, all_files, example_set, resized
from cmdcm.core.config import Config
from cmdcm.features.columns import LABELS
from cmdcm.features.input import examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.inputs import is_number, number
from cmdcm.model.rows import feature_ids
from cmdcm.model.training import training_columns

ROWS = {"100k": 100_000, "1m": 1_000_000}
PEER = BUILD / "torch-rechub"
REQUIREMENTS = ("torch==2.13.0", "torch-rechub==0.9.0")
EXPERTS = 2
STEPS = 5  # of one measurement
BATCHES = 30  # that the peer goes through again and again


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats")
    quick = parser.parse_args(arguments).quick
    repeats = 2 if quick else 30
    data, python = example_set(), peer_python()
    files, batch_size = all_files(data), Config().training.batch_size
    figures: dict[str, Any] = {"examples": data.manifest["rows"], "batch_size": batch_size}
    targets: dict[str, Target] = {}
    waits = list[float]()
    for name, rows in ROWS.items():
        seconds = measure(python, resized(data.spec, rows), files, repeats, waits)
        rates = {rival: STEPS * batch_size / each for rival, each in seconds.items()}
        for rival, rate in rates.items():
            figures[f"{rival}_{name}_examples_per_second"] = rate
        ours = rates["cmdcm"]
        targets[f"of_frozen_{name}"] = Target(ours / rates["frozen"], at_least=0.65)
        least = {"100k": 1.5, "1m": 10.0}[name]
        targets[f"times_peer_{name}"] = Target(ours / rates["peer"], at_least=least)
        figures[f"times_adam_{name}"] = ours / rates["adam"]
    targets["times_adam_1m"] = Target(figures.pop("times_adam_1m"), at_least=5)
    targets["percent_input_wait"] = Target(100 * statistics.median(waits), at_most=3)
    return report("train", figures, targets)


def measure(
    python: Path, spec: FeatureSpec, files: Sequence[Path], repeats: int, waits: list[float]
) -> dict[str, float]:
    """Returns the seconds of `STEPS` steps of each, and adds shares of ours that are input wait."""
    ours = Trainee(spec, files)
    others = [Trainee(spec, files, frozen=True), Trainee(spec, files, stock=True)]
    for trainee in (ours, *others):
        trainee.take(3)

    def watched() -> float:
        seconds, waited = ours.take(STEPS)
        waits.append(waited / seconds)
        return seconds

    def taking(trainee: Trainee) -> Callable[[], float]:
        return lambda: trainee.take(STEPS)[0]

    with peer(python, spec, files) as steps:
        names = ("cmdcm", "frozen", "adam", "peer")
        taken = medians(watched, *map(taking, others), lambda: steps(STEPS), repeats=repeats)
    return dict(zip(names, taken, strict=True))


def peer_python() -> Path:
    """Returns the interpreter of the peer's environment, which is made once."""
    python = PEER / "bin" / "python"
    done = PEER / "requirements.txt"
    if not done.exists() or done.read_text() != "\n".join(REQUIREMENTS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEER], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
        subprocess.run(install, check=True)
        done.write_text("\n".join(REQUIREMENTS))
    return python


@contextlib.contextmanager
def peer(
    python: Path, spec: FeatureSpec, files: Sequence[Path]
) -> Iterator[Callable[[int], float]]:
    """Starts the peer; yields what takes so many of its steps and returns their seconds."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        arguments = peer_input(spec, files, Path(folder))
        script = Path(__file__).with_name("torch_rechub_mmoe.py")
        with subprocess.Popen(
            [python, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            asked, answers = process.stdin, process.stdout
            assert asked is not None and answers is not None
            print(f"peer: {int(answers.readline()):,} weights", flush=True)

            def steps(count: int) -> float:
                print(count, file=asked, flush=True)
                return float(answers.readline())

            yield steps
            asked.close()


def peer_input(spec: FeatureSpec, files: Sequence[Path], folder: Path) -> tuple[Path, Path]:
    """Writes the first batches of the order of training, and the peer's settings."""
    config, ids = Config(), {f.name: f for f in spec.inputs if f.table}
    settings = {
        "ids": {name: (f.table, f.length) for name, f in ids.items()},
        "tables": spec.tables(),
        "dim": config.model.embedding_dim,
        "experts": EXPERTS,
        "expert_units": config.model.trunk_units,
        "tower_units": config.model.tower_units,
        "tasks": len(LABELS),
        "threads": os.cpu_count(),
    }
    columns, arrays = training_columns(spec), dict[str, Any]()
    batches = examples(
        files, spec, batch_size=config.training.batch_size, columns=columns, shuffle_seed=0
    )
    for n, batch in enumerate(islice(batches, BATCHES)):
        for name, feature in ids.items():
            # Row 0 is the padding.
            rows = feature_ids(feature, batch[name]).numpy() + 1
            if feature.sequence:
                ages = next(f for f in spec.sequences()[feature.sequence] if f.encoding == "age")
                rows *= batch[ages.name].numpy() >= 0
            arrays[f"{n}/{name}"] = rows
        parts = [
            np.reshape(number(f.encoding, batch[f.name]), [-1, f.length])
            for f in spec.inputs
            if is_number(f)
        ]
        arrays[f"{n}/numbers"] = np.concatenate(parts, axis=1)
        labels = [batch[label].numpy() for label in LABELS]
        arrays[f"{n}/labels"] = np.stack(labels, axis=1).astype(np.float32)
        settings["numbers"] = arrays[f"{n}/numbers"].shape[1]
    stored, described = folder / "batches.npz", folder / "settings.json"
    np.savez(stored, count=np.array(BATCHES), **arrays)
    described.write_text(json.dumps(settings))
    return stored, described


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
