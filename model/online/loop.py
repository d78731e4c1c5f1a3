"""The loop of a stream: train on what becomes known in a period, test on the clicks of the next.

    period      0          1          2
    train      [entries ] [entries ] [entries ] ...
    test                  [clicks  ] [clicks  ]      by the model as it was at the period's start

Every entry is trained on once, in batches that a period's seed shuffles. The clicks of period 0 are
not tested, so that all rows of a table are of the same clicks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from cmdcm.core.config import Config, TrainingConfig
from cmdcm.core.errors import DataError, TrainingError
from cmdcm.core.files import staged_file, write_json
from cmdcm.core.progress import progress_bar
from cmdcm.features.arrivals import Entries
from cmdcm.features.input import parse_examples
from cmdcm.features.windows import Int64s
from cmdcm.model.checkpoints import Checkpoints
from cmdcm.model.delayed.base import GIVEN, HOUR_MS, DelayedModel
from cmdcm.model.online.click_store import ClickStore
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.steps import train_step

SCORES, WEIGHTS = "scores.npy", "weights.json"

_SCORED = 8192  # clicks scored at once


@dataclass(frozen=True)
class Periods:
    """The periods of a stream.

    Attributes:
        bounds_ms: [periods + 1], UTC ms; a period is [bound, next bound).
    """

    bounds_ms: Int64s

    @classmethod
    def of(cls, clicks_ms: Int64s, step_ms: int) -> "Periods":
        """Parts the time of some clicks from the hour of the first one on.

        Raises:
            DataError: Fewer than two periods: nothing would be tested.
        """
        start = int(clicks_ms.min()) // int(HOUR_MS) * int(HOUR_MS)
        bounds = np.arange(start, int(clicks_ms.max()) + 1 + step_ms, step_ms)
        if len(bounds) < 3:
            raise DataError(
                f"the clicks span less than two periods of {step_ms / HOUR_MS:g} h, and the first "
                "one is not tested: lower stream.step_hours"
            )
        return cls(bounds)

    @classmethod
    def until(cls, clicks_ms: Int64s, step_ms: int, end_ms: int) -> "Periods":
        """Parts the time from the hour of the first click to an instant, which ends the last one.

        Example:
            >>> hour = int(HOUR_MS)
            >>> (Periods.until(np.array([hour + 1]), 2 * hour, 4 * hour).bounds_ms // hour).tolist()
            [1, 3, 4]
        """
        start = int(clicks_ms.min()) // int(HOUR_MS) * int(HOUR_MS)
        return cls(np.append(np.arange(start, end_ms, step_ms), end_ms))

    def __len__(self) -> int:
        return len(self.bounds_ms) - 1

    def clicks(self, number: int, clicks_ms: Int64s) -> Int64s:
        """Returns the rows of a period's clicks, which are in the order of time."""
        first, last = np.searchsorted(clicks_ms, self.bounds_ms[number : number + 2]).tolist()
        return np.arange(first, last)

    def tested(self, clicks_ms: Int64s) -> npt.NDArray[np.bool_]:
        """Returns which clicks are tested: all but those of the first period."""
        return clicks_ms >= self.bounds_ms[1]


class Stream:
    """One model's way through a stream; resumable.

    Args:
        model: The pre-trained model; it goes on training.
        auxiliary: The same model once more, whose auxiliary heads answer; it stays as it is.
        store: The clicks.
        entries: What enters when; empty for a model that only is tested.
        delays_ms: [clicks], -1 without a conversion.
        periods: The periods.
        config: Seed, training and stream.
        directory: Where its scores and checkpoints are.
    """

    def __init__(
        self,
        model: DelayedModel,
        auxiliary: DelayedModel,
        store: ClickStore,
        entries: Entries,
        delays_ms: Int64s,
        periods: Periods,
        config: Config,
        directory: Path,
    ):
        self._model, self._auxiliary, self._store = model, auxiliary, store
        self._entries, self._delays = entries, delays_ms
        self._periods, self._config, self._directory = periods, config, directory
        first = entries.repeat == 0
        self._waited = np.zeros(len(store), np.int64)
        self._waited[entries.row[first]] = (
            entries.time_ms[first] - store.clicks_ms[entries.row[first]]
        )
        for head in model.auxiliary:
            model.towers[head.name].trainable = False
        self._optimizer = make_optimizer(model, _slower(config))
        self._period = tf.Variable(0, dtype=tf.int64)
        self._scores = np.full(len(store), np.nan, np.float32)
        self._weights: list[dict[str, float]] = []
        weights = model.checkpoint()
        self._checkpoints = Checkpoints(
            directory / "checkpoints",
            {"network": weights, "optimizer": self._optimizer, "period": self._period},
            weights,
            keep=1,
            background=False,
        )
        self._train = self._compiled(self._train_step)
        records = [tf.TensorSpec([None], tf.string)]
        self._score = tf.function(self._score_step, input_signature=records, autograph=False)

    def run(
        self, title: str, progress: bool = True, check: Callable[[], None] = lambda: None
    ) -> npt.NDArray[np.float32]:
        """Goes through the periods that are left; the model is then as the last one left it.

        Args:
            title: What a progress bar says.
            progress: Show it on stderr.
            check: Called before each period; may raise to end the run, which can be resumed.

        Returns:
            The probability of each click, NaN for those that are not tested; [clicks].

        Raises:
            TrainingError: A loss is not finite.
        """
        done = self._directory / SCORES
        if done.exists():
            self._checkpoints.restore()
            return np.asarray(np.load(done), np.float32)
        self._resume()
        every = self._config.stream.checkpoint_periods
        with progress_bar(progress) as bar:
            task = bar.add_task(title, total=len(self._periods), completed=int(self._period))
            for number in range(int(self._period), len(self._periods)):
                check()
                if number:
                    self._test(number)
                self._fit(number)
                self._period.assign(number + 1)
                bar.advance(task)
                if (number + 1) % every == 0 and number + 1 < len(self._periods):
                    self._save()
        self._save()
        with staged_file(self._directory / WEIGHTS) as staging:
            write_json(staging, self._weights)
        self._write(done)
        return self._scores

    def _resume(self) -> None:
        partial = self._directory / f"partial-{SCORES}"
        if partial.exists() and self._checkpoints.restore():
            self._scores = np.array(np.load(partial), np.float32)
            logging.info("resuming at period %d of %d", int(self._period), len(self._periods))

    def _save(self) -> None:
        self._write(self._directory / f"partial-{SCORES}")
        self._checkpoints.save()

    def _write(self, path: Path) -> None:
        with staged_file(path) as staging, staging.open("wb") as out:
            np.save(out, self._scores, allow_pickle=False)

    def _fit(self, number: int) -> None:
        """Trains on a period's entries, in batches."""
        start, end = self._periods.bounds_ms[number : number + 2].tolist()
        part, store = self._entries.between(start, end), self._store
        size = self._config.training.batch_size
        order = np.random.default_rng((self._config.seed, number)).permutation(len(part))
        self._model.reset_metrics()
        loss = 0.0
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            rows, observed = part.row[chosen], part.observed[chosen].astype(np.int64)
            loss = self._train(
                tf.constant(store.records(rows)),
                tf.constant(observed),
                tf.constant(part.repeat[chosen].astype(np.int64)),
                tf.constant(self._waited[rows]),
                tf.constant(np.where(observed == 1, self._delays[rows], 0)),
            )
        if not np.isfinite(float(loss)):
            raise TrainingError(
                f"the loss is not finite in period {number} of the stream; lower "
                "training.learning_rate or model.weight_cap"
            )
        tracked = {m.name: float(m.result()) for m in self._model.metrics}
        self._weights.append(
            {"period": float(number), "entries": float(len(part))}
            | {name: v for name, v in tracked.items() if name.startswith("weight_")}
        )

    def _test(self, number: int) -> None:
        rows = self._periods.clicks(number, self._store.clicks_ms)
        for first in range(0, len(rows), _SCORED):
            chosen = rows[first : first + _SCORED]
            self._scores[chosen] = self._score(tf.constant(self._store.records(chosen))).numpy()

    def _compiled(self, function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        numbers = [tf.TensorSpec([None], tf.int64)] * 4
        signature = [tf.TensorSpec([None], tf.string), *numbers]
        return tf.function(function, input_signature=signature, autograph=False)

    def _train_step(
        self,
        serialized: tf.Tensor,
        observed: tf.Tensor,
        repeat: tf.Tensor,
        waited: tf.Tensor,
        delay: tf.Tensor,
    ) -> tf.Tensor:
        features = parse_examples(serialized, self._model.spec.inputs)
        batch = features | {
            "observed": observed,
            "repeat": repeat,
            "waited_ms": waited,
            "delay_ms": delay,
        }
        if self._model.auxiliary:
            logits: Mapping[str, tf.Tensor] = self._auxiliary(features)
            batch |= {f"{GIVEN}{h.name}": logits[h.name] for h in self._model.auxiliary}
        return train_step(self._model, self._optimizer, batch)["loss"]

    def _score_step(self, serialized: tf.Tensor) -> tf.Tensor:
        features = parse_examples(serialized, self._model.spec.inputs)
        return self._model.scores(self._model(features), features)["p_conversion"]


def _slower(config: Config) -> TrainingConfig:
    """Returns the training's settings with the learning rates of a stream."""
    share, training = config.stream.learning_rate_share, config.training
    return training.model_copy(
        update={
            "learning_rate": share * training.learning_rate,
            "table_learning_rate": share * training.table_learning_rate,
        }
    )
