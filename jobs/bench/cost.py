"""What a model costs: how fast it trains, and how long a request takes."""

import statistics
import time
from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors
from cmdcm.model.base import RankingModel
from cmdcm.model.observers import Observer

CANDIDATES = 100
"""Candidates of the request whose scoring is timed."""

_REPEATS = 30


class TrainingSpeed(Observer):
    """Notes the examples per second of each epoch, validation not counted."""

    def __init__(self) -> None:
        self.of_epochs: list[float] = []

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        """See the base."""
        if "speed/examples_per_second" in record:
            self.of_epochs.append(record["speed/examples_per_second"])

    @property
    def examples_per_second(self) -> float | None:
        """Of the best epoch, as the first one traces the graph; None without one."""
        return max(self.of_epochs, default=None)


def scoring_ms(model: RankingModel, data: ExampleSet) -> float:
    """Returns the median time of a request of one user and `CANDIDATES` items, in milliseconds.

    It is the graph that is exported, in this process and on its threads, without a server.
    """
    inputs = [feature.name for feature in model.spec.inputs]
    batches = examples(data.files("test"), model.spec, batch_size=CANDIDATES, columns=inputs)
    with input_errors():
        user, candidates = model.sides(next(iter(batches)))
    user = {name: value[:1] for name, value in user.items()}
    score = tf.function(model.score_one_user)
    times = []
    for _ in range(_REPEATS + 5):
        start = time.perf_counter()
        for output in score(user, candidates).values():
            output.numpy()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[5:])
