"""Examples until the validation log loss of conversion reaches a level: the defaults, stock Keras.

Stock settings are what a Keras model starts with: Adam at 0.001 on all weights, inputs that are not
standardised, output biases of zero, no penalty on embeddings. The network, the batches and their
order are the same. The level is the lowest log loss that the stock settings reach in all of the
steps, by default two fifths of an epoch; both are validated every few steps on the same days, which
come after all that they are trained on. A setting that never reaches the level counts as if it did
after the last step.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cmdcm.benchmarks.harness import Target, report
from cmdcm.benchmarks.trainees import Trainee, example_set
from cmdcm.features.input import examples
from cmdcm.model.inputs import Tensors
from cmdcm.model.metrics import log_loss
from cmdcm.model.training import training_columns

VALIDATED = 40_000  # examples of the validation days
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "stock": {"stock": True, "adapt": False, "l2_embeddings": 0.0},
}


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=20, help="steps between validations")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args(arguments)
    steps, every, seeds = (60, 20, 1) if args.quick else (args.steps, args.every, args.seeds)
    data = example_set()
    columns = training_columns(data.spec)
    validation = list(
        examples(
            data.files("validation"), data.spec, batch_size=4000, columns=columns, shuffle_seed=1
        ).take(VALIDATED // 4000)
    )
    files = data.files("train")
    ratios, figures = list[float](), dict[str, Any]()
    reached: dict[str, list[int]] = {name: [] for name in SETTINGS}
    lowest: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for seed in range(1, seeds + 1):
        curves = {}
        for name, settings in SETTINGS.items():
            trainee = Trainee(data.spec, files, seed=seed, **settings)
            losses = []
            for _ in range(steps // every):
                trainee.take(every)
                losses.append(validate(trainee, validation))
            curves[name] = losses
            lowest[name].append(min(losses))
            shown = " ".join(f"{value:.5f}" for value in losses)
            print(f"seed {seed}, {name}, every {every * trainee.batch_size:,}: {shown}", flush=True)
        level = min(curves["stock"])
        for name, losses in curves.items():
            first = next((n for n, loss in enumerate(losses) if loss <= level), len(losses) - 1)
            reached[name].append((first + 1) * every * trainee.batch_size)
        ratios.append(reached["stock"][-1] / reached["default"][-1])
    for name in SETTINGS:
        figures[f"{name}_examples"] = statistics.median(reached[name])
        figures[f"{name}_lowest_log_loss"] = statistics.median(lowest[name])
    figures["seeds"] = seeds
    targets = {"times_fewer_examples": Target(statistics.median(ratios), at_least=1.0)}
    return report("convergence", figures, targets)


def validate(trainee: Trainee, batches: Sequence[Tensors]) -> float:
    """Returns the log loss of conversion."""
    scores = np.concatenate([trainee.model.scorer(b)["p_conversion"].numpy() for b in batches])
    labels = tf.concat([b["conversion"] for b in batches], 0).numpy()
    value = log_loss(labels, scores)
    if value is None:
        raise ValueError("there is no conversion among the validated examples")
    return float(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
