"""Training, step by step and epoch by epoch, with exact resume.

Every `training.checkpoint_steps` steps and after every epoch the run's whole state is saved:
weights, optimizer slots, epoch, position in the epoch's data, early stopping and history. The order
of the data depends on (seed, epoch) alone and a resumed epoch skips what it has seen, so a run that
was interrupted and resumed ends with the weights of an undisturbed one (on one machine).

With several replicas (`model/strategies.py`) a step's batch, loss and gradient are those of one
replica, shared out. Of several workers each validates; the chief writes.
"""

import contextlib
import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError, OutputError, PreemptedError, TrainingError
from cmdcm.core.files import staged_directory, staged_file, write_json, write_manifest
from cmdcm.core.progress import progress_bar
from cmdcm.core.signals import Termination, ending_at_sigterm
from cmdcm.features.columns import labels_of
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors
from cmdcm.features.promotion_weights import promotion_weights
from cmdcm.features.records import Shares
from cmdcm.features.sampling import RowWeights
from cmdcm.features.spec import FeatureSpec
from cmdcm.model import warm_start
from cmdcm.model.base import RankingModel
from cmdcm.model.calibrate import fit_calibration
from cmdcm.model.calibration import CALIBRATION_FILE
from cmdcm.model.checkpoints import Checkpoints
from cmdcm.model.horizon import fit_horizon
from cmdcm.model.known_ids import Keys, table_spec
from cmdcm.model.metrics import auc, log_loss, pcoc
from cmdcm.model.observers import Observer, Observers
from cmdcm.model.optimizer import Optimizer, make_optimizer, make_table_optimizer
from cmdcm.model.parameter_servers import ParameterServerSteps
from cmdcm.model.registry import make_model
from cmdcm.model.scoring import predict
from cmdcm.model.speed import Speed
from cmdcm.model.step_profile import measure_step
from cmdcm.model.steps import Pending, Steps
from cmdcm.model.strategies import Place, cluster_errors, find_place
from cmdcm.model.table_memory import check_tables, table_sizes
from cmdcm.model.tensorboard import TensorBoard
from cmdcm.model.tpu import build_for_device, refresh
from cmdcm.model.trained import MODEL, History

ADAPT_EXAMPLES = 10_000
"""Training examples that set the scale of the numeric inputs."""

MAY_CHANGE = (
    "strategy",
    "devices",
    "tpu",
    "max_forgetting",
    "on_forgetting",
    "keep_checkpoints",
    "checkpoint_steps",
)
"""Settings of [training] that do not change the weights: a run may go on with others."""

CHECK_STEPS = 20
"""Steps between two looks at the losses, for which the process waits for its devices."""


def train(
    data: ExampleSet,
    output: Path,
    config: Config,
    *,
    overwrite: bool = False,
    progress: bool = True,
    observers: Sequence[Observer] = (),
) -> RankingModel:
    """Trains the configured model, or goes on with a run that was interrupted.

    On a cluster every process calls it with the same arguments, and `output` is on a file system
    that all of them see; parameter servers and their workers never return (`find_place`).

    Args:
        data: The examples.
        output: Directory of the run. `checkpoints/` and `logs/` (TensorBoard) are written during
            the run; `model/` appears at its end with the best weights, `config.json`, `spec.json`,
            `history.json`, a manifest and, with [calibration], `calibration.json`. A finished run
            is not trained again, but calibrated and published anew.
        config: Model and training; must be the one that an interrupted run had.
        overwrite: Delete a run that is there, and start anew.
        progress: Show a progress bar on stderr.
        observers: Are told of the run by its chief, as TensorBoard always is.

    Returns:
        The model with the best weights.

    Raises:
        ConfigError: The tables do not fit into memory, the replicas are not there, or a head learns
            a label that the examples do not have.
        DataError: A head without a positive or a negative label in the training examples.
        TrainingError: A loss is not finite, with step and head; or a process of the cluster is
            lost.
        PreemptedError: The process got SIGTERM; the state is saved, and the same call goes on.
        OutputError: `output` holds another run, or a checkpoint cannot be written.
    """
    tf.keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    place = find_place(config.training)
    with cluster_errors(place), _ending(place):
        tables = table_spec(data, config.tables, config.training)
        sizes = table_sizes(
            tables[0], config.model, config.training.table_optimizer, place.background
        )
        logging.info("%s", check_tables(sizes, place.servers))
        if overwrite and place.chief:
            remove_run(output)
        with place.strategy.scope():
            of_tables = make_table_optimizer(config.training)
            model = build_model(data, config, tables, of_tables if place.device_tables else None)
            optimizer = make_optimizer(model, config.training, of_tables)
        served = build_model(data, config, tables) if place.device_tables else model
        run = _Run(model, served, optimizer, data, Path(output), config, place, progress, observers)
        run.stepping.meet()  # what was there is deleted
        run.resume()
        with run.observers.watch(run.stepping.taken):
            with Termination() as run.termination:
                run.train()
            with _ending(place):  # in here observers are told the error that callers get
                run.publish()
        run.stepping.meet()  # the model is there
    return served


def _ending(place: Place) -> contextlib.AbstractContextManager[None]:
    """Ends a block at SIGTERM, outside of the steps, where there is nothing to save."""
    # Of several workers none leaves alone.
    return ending_at_sigterm() if place.alone else contextlib.nullcontext()


def build_model(
    data: ExampleSet,
    config: Config,
    tables: tuple[FeatureSpec, dict[str, Keys]] | None = None,
    device_optimizer: Optimizer | None = None,
) -> RankingModel:
    """Builds the configured model: all its variables, and the scale of the numeric inputs.

    Args:
        data: The examples.
        config: The configuration.
        tables: From `table_spec`, if it was called before.
        device_optimizer: The optimizer of the tables, if they are to be a TPU's.

    Raises:
        ConfigError: As `check_labels`.
        DataError: As `check_labels`.
    """
    spec, known = tables or table_spec(data, config.tables, config.training)
    model = make_model(spec, config.model)
    check_labels(model, data)
    batches = examples(
        data.files("train", config.training.on_corrupt),
        data.spec,
        batch_size=ADAPT_EXAMPLES,
        columns=[*training_columns(data.spec), *model.extra_columns],
        shuffle_seed=config.seed,
        shuffle_buffer=ADAPT_EXAMPLES,
        on_corrupt=config.training.on_corrupt,
    )
    with input_errors():
        batch = next(iter(batches))
    few = {name: value[:2] for name, value in batch.items()}
    if device_optimizer is None:
        model.build_for(few)
        model.trunk.encoder.ids.set_known(known)
    else:
        build_for_device(model, device_optimizer, known, few)
    if model.horizon is not None:
        shares = fit_horizon(data, config.seed, config.training.on_corrupt)
        model.horizon.set_shares(shares)
    model.adapt(batch)
    model.fine_tune(bool(config.training.warm_start))
    model.training_precision = config.training.precision
    return model


def training_columns(spec: FeatureSpec) -> list[str]:
    """Returns the names of the columns that training reads."""
    return [*(feature.name for feature in spec.inputs), *labels_of(spec)]


def check_labels(model: RankingModel, data: ExampleSet) -> None:
    """Checks that every label which a head learns has both values in training.

    Raises:
        ConfigError: A label that the examples do not have.
        DataError: Names the head, its label and the days.
    """
    rows = data.total("train")
    for head in model.labelled_heads():
        if head.label not in labels_of(data.spec):
            raise ConfigError(
                f"head {head.name!r} of model.name = {model.config.name!r} learns the label "
                f"{head.label!r}, which the examples lack: make them with "
                f"labels.{head.label} = true"
            )
        positives = data.total("train", head.label)
        if not 0 < positives < rows:
            days = f"{data.split.train[0]}..{data.split.train[-1]}"
            raise DataError(
                f"head {head.name!r} has {positives} positive labels {head.label!r} in the {rows} "
                f"training examples of {days}: it cannot be trained. Add promotions to the log or "
                "check [labels] and [calendar]."
            )


class _Run:
    """One training run: its state, its checkpoints and its loop."""

    termination: Termination

    def __init__(
        self,
        model: RankingModel,
        served: RankingModel,
        optimizer: tf.keras.optimizers.Optimizer,
        data: ExampleSet,
        output: Path,
        config: Config,
        place: Place,
        progress: bool,
        observers: Sequence[Observer],
    ):
        self.model, self.data, self.output = model, data, output
        self.served = served  # `model`, or a twin on the host of one on a TPU
        self.config, self.place, self.show_progress = config, place, progress
        training = config.training
        self.promotion_weights = promotion_weights(data, training)
        self.row_weights = RowWeights(
            data.spec, training.negative_rate, training.weight_column, self.promotion_weights
        )
        # Known beforehand only if every example is trained on.
        self.steps = (
            math.ceil(data.total("train") / training.batch_size)
            if training.negative_rate == 1 and training.on_corrupt == "fail"
            else None
        )
        self.skipped: list[DataError] = []
        steps = ParameterServerSteps if place.asynchronous else Steps
        self.stepping = steps(model, optimizer, place)
        # Workers that take batches of their own all wait at a check.
        self.check_steps = CHECK_STEPS * (place.workers if place.asynchronous else 1)
        measure = functools.partial(measure_step, model, optimizer, place)
        self.speed = Speed(
            training.batch_size,
            measure if place.background else None,
            profile_step=config.tracking.profile_step,
            logs=output / "logs",
            trace_steps=config.tracking.trace_steps if place.chief else 0,
        )
        told = [TensorBoard(output / "logs"), *observers]
        self.observers = Observers(told if place.chief else ())
        self.epoch = tf.Variable(0, dtype=tf.int64)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.bad_epochs = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(np.inf, dtype=tf.float64)
        self.history_json = tf.Variable("[]")
        weights = served.checkpoint()
        self.weights = weights
        self.checkpoints = Checkpoints(
            output / "checkpoints",
            {
                "network": weights if served is model else model.checkpoint(),
                "optimizer": optimizer,
                "epoch": self.epoch,
                "step": self.step,
                "bad_epochs": self.bad_epochs,
                "best": self.best,
                "history": self.history_json,
            },
            weights,
            keep=training.keep_checkpoints,
            background=place.background,
            writes=place.chief,
        )

    def resume(self) -> None:
        """Restores the newest checkpoint, after checking that it is of this very run."""
        mark = self.output / "run.json"
        identity = {
            "config": {
                "seed": self.config.seed,
                "model": self.config.model.model_dump(mode="json"),
                "training": self.config.training.model_dump(mode="json", exclude=set(MAY_CHANGE)),
            },
            "device_tables": self.place.device_tables,  # their checkpoints are others
            "examples": self.data.manifest["files"],
            "spec": self.model.spec.model_dump(mode="json"),
            "split": {part: getattr(self.data.split, part) for part in ("train", "validation")},
        }
        if mark.exists() and json.loads(mark.read_text()) != json.loads(json.dumps(identity)):
            raise OutputError(
                f"{self.output} holds a run with another configuration or other examples; "
                "choose another --output or pass --overwrite"
            )
        setting, source = self.config.training.warm_start, None
        if self.checkpoints.restore():
            logging.info("resuming at epoch %d, step %d", self.epoch.numpy(), self.step.numpy())
        elif setting:
            source = warm_start.open_source(setting, self.data)
        if self.place.chief:
            with staged_file(mark) as staging:
                write_json(staging, identity)
        if source is not None:
            try:
                self.start_warm(source)
            except DataError:
                if self.place.chief and not (self.output / warm_start.WARM_START_FILE).exists():
                    mark.unlink()  # nothing has begun: other settings may take the same output
                raise

    def start_warm(self, source: warm_start.Source) -> None:
        """Takes over the weights of another model; as they are, they count as epoch 0."""
        training, chief = self.config.training, self.place.chief
        warm_start.start(source, self.model, self.data, self.output, training, writes=chief)
        record = {"epoch": 0.0} | self.validate()
        self.best.assign(record["val_log_loss_conversion"])
        self.checkpoints.save_best()
        self.history_json.assign(json.dumps([record]))
        logging.info("epoch 0: %s", summary(record))

    def train(self) -> None:
        """Runs the epochs that are left."""
        training = self.config.training
        while self.epoch < training.epochs and self.bad_epochs < training.patience:
            epoch = int(self.epoch.numpy())
            self.skipped.clear()
            record = {"epoch": epoch + 1.0} | self.fit_epoch(epoch) | self.validate_or_stop()
            if training.on_corrupt == "skip":
                record["skipped_files"] = float(len({str(error) for error in self.skipped}))
                logging.info("epoch %d: %d files skipped", epoch + 1, record["skipped_files"])
            self.finish_epoch(record)
            speed = self.speed.finish_epoch(epoch + 1)
            self.observers.finished_epoch(epoch + 1, {**record, **speed})
            logging.info("epoch %d: %s", epoch + 1, summary(record))
        self.checkpoints.wait()
        if self.place.alone and self.termination.asked:
            raise self.stopped()

    def fit_epoch(self, epoch: int) -> dict[str, float]:
        """Trains on what is left of an epoch; returns the means that training tracks."""
        seen = int(self.step.numpy())
        if seen == self.steps:
            return {}
        self.model.reset_metrics()
        losses, pending = list[float](), list[Pending]()
        with input_errors(), progress_bar(self.show_progress) as bar:
            title = f"epoch {epoch + 1}/{self.config.training.epochs}"
            task = bar.add_task(title, total=self.steps, completed=seen)
            batches = self.stepping.batches(lambda shares: self.batches(epoch, seen, shares))
            for batch in self.speed.watch(batches):
                pending.append(self.stepping.take(batch, self.termination.asked))
                self.step.assign_add(1)
                step = int(self.step.numpy())
                save = step % self.config.training.checkpoint_steps == 0
                if save or step % self.check_steps == 0:
                    losses += self.check(pending)
                    loss = f"{title}  loss {losses[-1]:.4f}"
                    bar.update(task, description=f"{loss}  {self.speed.text}")
                bar.advance(task)
                if save:
                    self.checkpoints.save()
            losses += self.check(pending)
        if not losses:
            if seen:
                return {}
            raise DataError(f"no training example of {self.data.directory} can be read")
        tracked = {metric.name: float(metric.result()) for metric in self.model.metrics}
        return {**tracked, "loss": float(np.mean(losses))}

    def batches(self, epoch: int, seen: int, shares: Shares) -> tf.data.Dataset:
        """Returns some shares of the batches that an epoch has left."""
        training = self.config.training
        dataset = examples(
            self.data.files("train", training.on_corrupt),
            self.data.spec,
            batch_size=training.batch_size,
            columns=[*training_columns(self.data.spec), *self.model.extra_columns],
            shuffle_seed=self.config.seed,
            epoch=epoch,
            shuffle_buffer=training.shuffle_buffer,
            pad_remainder=shares.of > 1 or self.place.device_tables,
            shares=shares,
            skip_batches=seen,
            on_corrupt=training.on_corrupt,
            skipped=self.skipped,
            weights=self.row_weights,
        )
        if self.steps is None:
            return dataset
        left = (self.steps - seen) * len(shares.own)
        return dataset.apply(tf.data.experimental.assert_cardinality(left))

    def check(self, pending: list[Pending]) -> list[float]:
        """Waits for steps and empties their list; returns their losses.

        Raises:
            TrainingError: One is not finite.
            PreemptedError: A worker is to stop.
        """
        first = int(self.step.numpy()) - len(pending) + 1
        values = self.stepping.fetch(pending)
        pending.clear()
        for step, parts in enumerate(values, start=first):
            bad = [name for name, value in parts.items() if not math.isfinite(value)]
            if bad:
                heads = [name.removeprefix("loss_") for name in bad if name.startswith("loss_")]
                raise TrainingError(
                    f"loss of head {', '.join(heads) or bad[0]} is not finite at step {step} of "
                    f"epoch {int(self.epoch.numpy()) + 1}; the last checkpoint in "
                    f"{self.checkpoints.directory} is from before it. Lower training.learning_rate "
                    "or check the examples of that step."
                )
        if any(parts["stop"] for parts in values):
            raise self.stopped()
        if values:
            names = [name for name in values[0] if name != "stop"]
            means = {f"step/{n}": float(np.mean([v[n] for v in values])) for n in names}
            self.observers.stepped(self.stepping.taken, means | self.speed.take())
        return [parts["loss"] for parts in values]

    def stopped(self) -> PreemptedError:
        """Saves the state; returns what is to be raised."""
        self.checkpoints.save()
        self.checkpoints.wait()
        return PreemptedError(
            f"stopped by SIGTERM at epoch {int(self.epoch.numpy()) + 1}, step "
            f"{int(self.step.numpy())}; the state is saved: run the same command to go on"
        )

    def validate_or_stop(self) -> dict[str, float]:
        """Validates; at SIGTERM it stops at once, but with several workers at the next steps."""
        if not self.place.alone:
            return self.validate()
        try:
            with ending_at_sigterm():
                if not self.termination.asked:
                    return self.validate()
        except PreemptedError:
            pass
        raise self.stopped()

    def validate(self) -> dict[str, float]:
        """Returns AUC, log loss and PCOC of every predicted head on the validation split."""
        if self.served is not self.model:
            refresh(self.served, self.model)
        frame = predict(
            self.served,
            self.data.files("validation", self.config.training.on_corrupt),
            self.data.spec,
            self.data.calendar,
            on_corrupt=self.config.training.on_corrupt,
            skipped=self.skipped,
        )
        record = {}
        for column in frame.columns:
            label = self.served.label_of(column)
            if label is None:
                continue
            labels, scores = frame[label].to_numpy(), frame[column].to_numpy()
            for metric in (auc, log_loss, pcoc):
                value = metric(labels, scores)
                record[f"val_{metric.__name__}_{column.removeprefix('p_')}"] = (
                    float("nan") if value is None else float(value)
                )
        return record

    def finish_epoch(self, record: dict[str, float]) -> None:
        """Keeps the weights if they are the best, counts the epoch and saves the state."""
        monitored = record["val_log_loss_conversion"]
        if monitored < self.best:
            self.best.assign(monitored)
            self.bad_epochs.assign(0)
            self.checkpoints.save_best()
        else:
            self.bad_epochs.assign_add(1)
        self.history_json.assign(json.dumps([*self.history(), record]))
        self.epoch.assign_add(1)
        self.step.assign(0)
        self.checkpoints.save()

    def history(self) -> History:
        """Returns the records of the finished epochs."""
        return list(json.loads(self.history_json.numpy()))

    def calibrate(self) -> None:
        """Calibrates the model on the validation split, as configured."""
        config = self.config.calibration
        if config.method != "none" or config.slices:
            fitted = fit_calibration(
                self.served,
                self.data,
                config,
                trained_on=self.data.split.train,
                on_corrupt=self.config.training.on_corrupt,
                seed=self.config.seed,
            )
            self.served.calibrate(fitted)

    def publish(self) -> None:
        """Restores the best weights and, as the chief, writes `model/`."""
        self.stepping.meet()  # the best weights are there
        self.checkpoints.restore_best()
        training, chief = self.config.training, self.place.chief
        if training.warm_start:
            warm_start.finish(self.served, self.data, self.output, training, writes=chief)
        self.calibrate()
        if not self.place.chief:
            return
        calibration, by_promotion = self.served.calibration, self.promotion_weights
        with staged_directory(self.output / MODEL, overwrite=True) as staging:
            self.weights.write(str(staging / "weights"))
            self.config.save(staging / "config.json")
            self.served.spec.save(staging / "spec.json")
            write_json(staging / "history.json", self.history())
            if calibration is not None:
                calibration.save(staging / CALIBRATION_FILE)
            write_manifest(
                staging,
                {
                    "kind": MODEL,
                    "name": self.config.model.name,
                    "split": {
                        part: list(getattr(self.data.split, part))
                        for part in ("train", "validation", "test")
                    },
                    "rows": {part: self.data.total(part) for part in ("train", "validation")},
                    "examples": str(self.data.directory),
                    "skipped_files": int(self.history()[-1].get("skipped_files", 0)),
                    "calibration": calibration and calibration.method,
                    "warm_start": warm_start.origin(self.output) if training.warm_start else None,
                    "promotion_weights": by_promotion and by_promotion.describe(),
                    **self.served.describe(),
                },
            )


def remove_run(output: Path) -> None:
    """Deletes a run's checkpoints, logs and model; refuses a directory that holds no run."""
    output = Path(output)
    if not output.exists():
        return
    # A start that was killed early leaves nothing but a staging file of run.json.
    others = [path for path in output.iterdir() if not path.name.startswith(".run.json.staging-")]
    if others and not (output / "run.json").exists():
        raise OutputError(f"{output} exists and is no training run; choose another --output")
    shutil.rmtree(output)


def summary(record: Mapping[str, float]) -> str:
    """Returns an epoch's validation metrics on one line."""
    chosen = {k.removeprefix("val_"): v for k, v in record.items() if k.startswith("val_")}
    return ", ".join(f"{name} {value:.5f}" for name, value in chosen.items())
