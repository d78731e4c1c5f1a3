"""Training: Keras fit, epoch by epoch, with exact resume.

Every `training.checkpoint_steps` steps and after every epoch the run's whole state is saved:
weights, optimizer slots, epoch, position in the epoch's data, early stopping and history. The order
of the data depends on (seed, epoch) alone and a resumed epoch skips what it has seen, so a run that
was interrupted and resumed ends with the weights of an undisturbed one (on one machine).
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError, OutputError, TrainingError
from cmdcm.core.files import output_errors, read_json, staged_directory, write_json, write_manifest
from cmdcm.core.progress import progress_bar
from cmdcm.features.columns import LABELS
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors
from cmdcm.features.sampling import RowWeights
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.calibrate import fit_calibration
from cmdcm.model.calibration import CALIBRATION_FILE, Calibration
from cmdcm.model.metrics import auc, log_loss, pcoc
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.registry import make_model
from cmdcm.model.scoring import predict

MODEL = "model"
"""The manifest's kind of a trained model's directory."""

ADAPT_EXAMPLES = 10_000
"""Training examples that set the scale of the numeric inputs."""

History = list[dict[str, float]]


def train(data: ExampleSet, output: Path, config: Config, *, progress: bool = True) -> RankingModel:
    """Trains the configured model, or goes on with a run that was interrupted.

    Args:
        data: The examples.
        output: Directory of the run. `checkpoints/` and `logs/` (TensorBoard) are written during
            the run; `model/` appears at its end with the best weights, `config.json`, `spec.json`,
            `history.json`, a manifest and, with [calibration], `calibration.json`. A finished run
            is not trained again, but calibrated and published anew.
        config: Model and training; must be the one that an interrupted run had.
        progress: Show a progress bar on stderr.

    Returns:
        The model with the best weights.

    Raises:
        DataError: A head without a positive or a negative label in the training examples.
        TrainingError: A loss is not finite; names step and head.
        OutputError: `output` holds another run.
    """
    tf.keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    model = build_model(data, config)
    check_labels(model, data)
    run = _Run(model, data, Path(output), config, progress)
    run.resume()
    run.train()
    run.publish()
    return model


def build_model(data: ExampleSet, config: Config) -> RankingModel:
    """Builds the configured model: all its variables, and the scale of the numeric inputs."""
    model = make_model(data.spec, config.model)
    batches = examples(
        data.files("train", config.training.on_corrupt),
        data.spec,
        batch_size=ADAPT_EXAMPLES,
        columns=training_columns(data.spec),
        shuffle_seed=config.seed,
        shuffle_buffer=ADAPT_EXAMPLES,
        on_corrupt=config.training.on_corrupt,
    )
    with input_errors():
        batch = next(iter(batches))
    model.compute_loss({name: value[:2] for name, value in batch.items()})
    model.reset_metrics()
    model.adapt(batch)
    return model


def training_columns(spec: FeatureSpec) -> list[str]:
    """Returns the names of the columns that training reads."""
    return [*(feature.name for feature in spec.inputs), *LABELS]


def load_model(directory: Path) -> RankingModel:
    """Loads a trained model from the `model/` directory that `train` published."""
    config = Config.load(Path(directory) / "config.json")
    spec = FeatureSpec.load(Path(directory) / "spec.json")
    model = make_model(spec, config.model)
    model.score(*zero_inputs(spec))
    model.checkpoint().read(str(Path(directory) / "weights")).assert_consumed()
    if (Path(directory) / CALIBRATION_FILE).exists():
        model.calibrate(Calibration.load(Path(directory) / CALIBRATION_FILE))
    return model


def load_history(directory: Path) -> History:
    """Returns the epochs' records of a trained model."""
    return list(read_json(Path(directory) / "history.json", "training history"))


def zero_inputs(spec: FeatureSpec) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns one user's and one candidate's features, all at their defaults."""

    def zeros(side: Any) -> dict[str, tf.Tensor]:
        return {
            f.name: tf.fill(
                [1] if f.shape == "scalar" else [1, f.length], tf.constant(f.default, f.dtype)
            )
            for f in side
        }

    return zeros(spec.user_inputs), zeros(spec.candidate_inputs)


def check_labels(model: RankingModel, data: ExampleSet) -> None:
    """Checks that every label which a head learns has both values in training.

    Raises:
        DataError: Names the head, its label and the days.
    """
    rows = data.total("train")
    for head in model.heads:
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

    def __init__(
        self, model: RankingModel, data: ExampleSet, output: Path, config: Config, progress: bool
    ):
        self.model, self.data, self.output = model, data, output
        self.config, self.show_progress = config, progress
        training = config.training
        self.row_weights = RowWeights(data.spec, training.negative_rate, training.weight_column)
        # Known beforehand only if every example is trained on.
        self.steps = (
            math.ceil(data.total("train") / training.batch_size)
            if training.negative_rate == 1 and training.on_corrupt == "fail"
            else None
        )
        self.skipped: list[DataError] = []
        self.optimizer = make_optimizer(model, config.training)
        model.compile(optimizer=self.optimizer)
        self.epoch = tf.Variable(0, dtype=tf.int64)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.bad_epochs = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(np.inf, dtype=tf.float64)
        self.history_json = tf.Variable("[]")
        self.checkpoints = output / "checkpoints"
        self.weights = model.checkpoint()
        self.manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                network=self.weights,
                optimizer=self.optimizer,
                epoch=self.epoch,
                step=self.step,
                bad_epochs=self.bad_epochs,
                best=self.best,
                history=self.history_json,
            ),
            str(self.checkpoints),
            config.training.keep_checkpoints,
        )

    def resume(self) -> None:
        """Restores the newest checkpoint, after checking that it is of this very run."""
        mark = self.output / "run.json"
        identity = {
            "config": {
                "seed": self.config.seed,
                "model": self.config.model.model_dump(mode="json"),
                "training": self.config.training.model_dump(mode="json"),
            },
            "examples": self.data.manifest["files"],
            "split": list(self.data.split.train),
        }
        if mark.exists() and json.loads(mark.read_text()) != json.loads(json.dumps(identity)):
            raise OutputError(
                f"{self.output} holds a run with another configuration or other examples; "
                "choose another --output or pass --overwrite"
            )
        with output_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
            write_json(mark, identity)
        if self.manager.latest_checkpoint:
            # The optimizers make their slots at the first step; these are restored then.
            status = self.manager.checkpoint.restore(self.manager.latest_checkpoint)
            status.assert_existing_objects_matched().expect_partial()
            logging.info("resuming at epoch %d, step %d", self.epoch.numpy(), self.step.numpy())

    def train(self) -> None:
        """Runs the epochs that are left."""
        log = tf.summary.create_file_writer(str(self.output / "logs"))
        training = self.config.training
        while self.epoch < training.epochs and self.bad_epochs < training.patience:
            epoch = int(self.epoch.numpy())
            self.skipped.clear()
            record = {"epoch": epoch + 1.0} | self.fit_epoch(epoch) | self.validate()
            if training.on_corrupt == "skip":
                record["skipped_files"] = float(len({str(error) for error in self.skipped}))
                logging.info("epoch %d: %d files skipped", epoch + 1, record["skipped_files"])
            self.finish_epoch(record)
            with log.as_default(step=epoch + 1):
                for name, value in record.items():
                    tf.summary.scalar(name, value)
            log.flush()
            logging.info("epoch %d: %s", epoch + 1, summary(record))

    def fit_epoch(self, epoch: int) -> dict[str, float]:
        """Trains on what is left of an epoch; returns the means that training tracks."""
        seen, training = int(self.step.numpy()), self.config.training
        if seen == self.steps:
            return {}
        batches = examples(
            self.data.files("train", training.on_corrupt),
            self.data.spec,
            batch_size=training.batch_size,
            columns=training_columns(self.data.spec),
            shuffle_seed=self.config.seed,
            epoch=epoch,
            shuffle_buffer=training.shuffle_buffer,
            skip_batches=seen,
            on_corrupt=training.on_corrupt,
            skipped=self.skipped,
            weights=self.row_weights,
        )
        with input_errors():
            if self.steps is not None:
                exactly = tf.data.experimental.assert_cardinality(self.steps - seen)
                batches = batches.apply(exactly)
            elif not any(True for _ in batches.take(1)):
                if seen:
                    return {}
                raise DataError(f"no training example of {self.data.directory} can be read")
            fitted = self.model.fit(
                batches,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
                callbacks=[_StopOnNonFinite(self), _SaveEvery(self), *self.progress()],
            )
        return {name: float(values[-1]) for name, values in fitted.history.items()}

    def validate(self) -> dict[str, float]:
        """Returns AUC, log loss and PCOC of every predicted head on the validation split."""
        frame = predict(
            self.model,
            self.data.files("validation", self.config.training.on_corrupt),
            self.data.spec,
            self.data.calendar,
            on_corrupt=self.config.training.on_corrupt,
            skipped=self.skipped,
        )
        record = {}
        for column in frame.columns:
            label = self.model.label_of(column)
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
            with output_errors(self.checkpoints):
                self.weights.write(str(self.checkpoints / "best"))
        else:
            self.bad_epochs.assign_add(1)
        self.history_json.assign(json.dumps([*self.history(), record]))
        self.epoch.assign_add(1)
        self.step.assign(0)
        self.save()

    def progress(self) -> list[tf.keras.callbacks.Callback]:
        """Returns the callback that shows an epoch's progress, if it is wanted."""
        return [_Progress(self)] if self.show_progress else []

    def history(self) -> History:
        """Returns the records of the finished epochs."""
        return list(json.loads(self.history_json.numpy()))

    def save(self) -> None:
        """Writes a checkpoint."""
        with output_errors(self.checkpoints):
            self.manager.save()

    def calibrate(self) -> None:
        """Calibrates the model on the validation split, as configured."""
        config = self.config.calibration
        if config.method != "none" or config.slices:
            trained_on, on_corrupt = self.data.split.train, self.config.training.on_corrupt
            self.model.calibrate(
                fit_calibration(self.model, self.data, config, trained_on, on_corrupt=on_corrupt)
            )

    def publish(self) -> None:
        """Restores the best weights and writes `model/`."""
        self.weights.read(str(self.checkpoints / "best")).assert_consumed()
        self.calibrate()
        calibration = self.model.calibration
        with staged_directory(self.output / MODEL, overwrite=True) as staging:
            self.weights.write(str(staging / "weights"))
            self.config.save(staging / "config.json")
            self.data.spec.save(staging / "spec.json")
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
                    **self.model.describe(),
                },
            )


class _StopOnNonFinite(tf.keras.callbacks.Callback):
    """Stops the run at the first step whose loss is not finite."""

    def __init__(self, run: _Run):
        super().__init__()
        self.run = run

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Names the step and the head."""
        bad = [name for name, value in (logs or {}).items() if not np.isfinite(value)]
        if bad:
            heads = [name.removeprefix("loss_") for name in bad if name.startswith("loss_")]
            step = int(self.run.step.numpy()) + 1
            epoch = int(self.run.epoch.numpy()) + 1
            raise TrainingError(
                f"loss of head {', '.join(heads) or bad[0]} is not finite at step {step} of epoch "
                f"{epoch}; the last checkpoint in {self.run.checkpoints} is from before it. Lower "
                "training.learning_rate or check the examples of that step."
            )


class _SaveEvery(tf.keras.callbacks.Callback):
    """Counts steps and saves the state at every `training.checkpoint_steps`."""

    def __init__(self, run: _Run):
        super().__init__()
        self.run = run

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """See the class."""
        self.run.step.assign_add(1)
        if int(self.run.step.numpy()) % self.run.config.training.checkpoint_steps == 0:
            self.run.save()


class _Progress(tf.keras.callbacks.Callback):
    """A progress bar of the epoch with the running loss."""

    def __init__(self, run: _Run):
        super().__init__()
        self.run = run
        self.bar = progress_bar()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Starts the bar where the epoch goes on."""
        seen = int(self.run.step.numpy())
        title = f"epoch {epoch + 1}/{self.run.config.training.epochs}"
        self.task = self.bar.add_task(title, total=self.run.steps, completed=seen)
        self.title = title
        self.bar.start()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Moves the bar."""
        loss = (logs or {}).get("loss", float("nan"))
        self.bar.update(self.task, advance=1, description=f"{self.title}  loss {loss:.4f}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Leaves the finished bar on the screen."""
        self.bar.stop()


def remove_run(output: Path) -> None:
    """Deletes a run's checkpoints, logs and model; refuses a directory that holds no run."""
    output = Path(output)
    if not output.exists():
        return
    if any(output.iterdir()) and not (output / "run.json").exists():
        raise OutputError(f"{output} exists and is no training run; choose another --output")
    shutil.rmtree(output)


def summary(record: Mapping[str, float]) -> str:
    """Returns an epoch's validation metrics on one line."""
    chosen = {k.removeprefix("val_"): v for k, v in record.items() if k.startswith("val_")}
    return ", ".join(f"{name} {value:.5f}" for name, value in chosen.items())
