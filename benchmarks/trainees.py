"""Networks in training, for benchmarks: a step at a time, with the input of a real run."""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from cmdcm.benchmarks.bench_features import build, world
from cmdcm.benchmarks.harness import BUILD
from cmdcm.core.config import Config
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples
from cmdcm.features.records import Shares
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.inputs import Tensors
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.registry import make_model
from cmdcm.model.steps import Pending, Steps
from cmdcm.model.strategies import find_place
from cmdcm.model.training import ADAPT_EXAMPLES, training_columns

EVENTS = 10_000_000
"""Events of the simulated world, of which 2.3 M clicks become examples."""


def example_set(events: int = EVENTS) -> ExampleSet:
    """Returns the examples of a simulated world with the default settings, made once."""
    target = BUILD / f"examples-{events}"
    config = target / "config.json"
    # The rest of a configuration makes no difference to examples, as in `jobs/bench/trials.py`.
    parts = ("calendar", "events", "simulate", "labels", "features")
    if not config.exists() or any(
        getattr(Config.load(config), part) != getattr(Config(), part) for part in parts
    ):
        build(world(events), target, [])
    return ExampleSet.open(target, Config().split)


def resized(spec: FeatureSpec, rows: int) -> FeatureSpec:
    """Returns the spec with `rows` rows in the table of every hashed id."""
    return FeatureSpec(
        features=tuple(
            feature.model_copy(update={"buckets": rows}) if feature.encoding == "hash" else feature
            for feature in spec.features
        )
    )


def all_files(data: ExampleSet) -> list[Path]:
    """Returns the files of every part."""
    return [file for part in ("train", "validation", "test") for file in data.files(part)]


class FrozenSteps(Steps):
    """Steps that leave the tables as they are: no gradient of theirs is computed."""

    def _replica_step(self, batch: Tensors, stop: tf.Tensor) -> Pending:
        model, tables = self._model, {v.ref() for v in self._model.table_variables}
        variables = [v for v in model.trainable_variables if v.ref() not in tables]
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class Trainee:
    """A model that is trained with the default settings of `cmdcm train`.

    Args:
        spec: Its inputs and labels.
        files: The examples; None for the same given batch again and again.
        batch: That batch.
        stock: Whether Keras' Adam trains all weights, the tables' too.
        frozen: Whether the tables stay as they are.
        adapt: Whether it starts as `cmdcm train` starts: standardised inputs, biases at the
            labels' rates.
        batch_size: Examples of a step.
        seed: Of weights and order.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        files: Sequence[Path] = (),
        *,
        batch: Tensors | None = None,
        stock: bool = False,
        frozen: bool = False,
        adapt: bool = True,
        batch_size: int = Config().training.batch_size,
        l2_embeddings: float = Config().model.l2_embeddings,
        seed: int = 0,
    ):
        config = Config()
        self.batch_size = batch_size
        self._read: dict[str, Any] = {
            "columns": training_columns(spec),
            "shuffle_seed": seed,
            "shuffle_buffer": config.training.shuffle_buffer,
        }
        tf.keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()  # as `train` does
        first = batch
        if first is None:
            first = next(iter(examples(files, spec, batch_size=ADAPT_EXAMPLES, **self._read)))
        model = config.model.model_copy(update={"l2_embeddings": l2_embeddings})
        self.model: RankingModel = make_model(spec, model)
        self.model.build_for({name: value[:2] for name, value in first.items()})
        if adapt:
            self.model.adapt(first)
        optimizer = (
            tf.keras.optimizers.Adam(config.training.learning_rate)
            if stock
            else make_optimizer(self.model, config.training)
        )
        steps = (FrozenSteps if frozen else Steps)(
            self.model, optimizer, find_place(config.training)
        )
        self._steps = steps

        def read(epoch: int) -> Iterator[Any]:
            def dataset(shares: Shares) -> tf.data.Dataset:
                if batch is not None:
                    return tf.data.Dataset.from_tensors(batch).repeat()
                return examples(
                    files, spec, batch_size=batch_size, shares=shares, epoch=epoch, **self._read
                )

            return steps.batches(dataset)

        self._batches = itertools.chain.from_iterable(map(read, itertools.count()))

    def take(self, steps: int) -> tuple[float, float]:
        """Takes steps; returns their seconds, and how many of these it waited for batches."""
        waited, started = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - asked
            loss = self._steps.take(batch)["loss"]
        loss.numpy()
        return time.perf_counter() - started, waited
