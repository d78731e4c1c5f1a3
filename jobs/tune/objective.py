"""What one trial does: train and validate a configuration, fold by fold.

Its folder has:

FOLDER/config.json       the configuration
FOLDER/fold-0.json       the fold's score and its history; written when it is trained
FOLDER/fold-1/           the run of a fold; deleted when it is trained
"""

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from cmdcm.core.config import CalibrationConfig, Config
from cmdcm.core.errors import ConfigError, TrainingError
from cmdcm.core.files import read_json, staged_file, write_json
from cmdcm.jobs.tune.folds import Fold, open_fold
from cmdcm.jobs.tune.worker import Report
from cmdcm.model.trained import MODEL, load_history
from cmdcm.model.training import train

_MONITORED = "val_log_loss_conversion"
"""What decides which epoch's weights a training keeps."""


@dataclass(frozen=True)
class Job:
    """One trial.

    Attributes:
        examples: Directory of examples.
        folds: The folds, in the order in which they run.
        head: Head whose validation log loss counts.
        config: Model and training; the configuration of the split.
        folder: Where it works.
        threads: Threads that TensorFlow may use.
    """

    examples: Path
    folds: tuple[Fold, ...]
    head: str
    config: Config
    folder: Path
    threads: int


def objective(job: Job, report: Report) -> None:
    """Scores the folds in this process, which must not have used TensorFlow before."""
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    logging.set_verbosity(logging.WARNING)
    # Each fold's model is traced anew, of which TensorFlow warns.
    tf.get_logger().setLevel("ERROR")
    score_folds(job, report)


def score_folds(job: Job, report: Report) -> None:
    """Trains the folds that are not trained yet and reports the score of each.

    A score has the number of its `fold`, the `loss`, which is the validation log loss of the head
    in the epoch whose weights are kept, that `epoch`, and the `seconds` that training took.

    Raises:
        ConfigError: The model has no such head.
        TrainingError: No epoch of a fold has a finite validation log loss.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    # The log loss of a history is that before calibration.
    config = job.config.model_copy(update={"calibration": CalibrationConfig(method="none")})
    config.save(job.folder / "config.json")
    for place, fold in enumerate(job.folds):
        done = job.folder / f"fold-{place}.json"
        if not done.exists():
            run = job.folder / f"fold-{place}"
            record = _run(job, config, fold, run)
            with staged_file(done) as staging:
                write_json(staging, record)
            shutil.rmtree(run)
        report({"fold": place} | read_json(done, "score of a fold")["score"])


def clean(folder: Path) -> None:
    """Deletes the runs of a trial's folder: checkpoints, logs, weights."""
    for run in folder.glob("fold-*/"):
        shutil.rmtree(run)


def _run(job: Job, config: Config, fold: Fold, run: Path) -> dict[str, Any]:
    """Trains one fold, or goes on with a training that was interrupted."""
    tf.keras.backend.clear_session()
    started = time.monotonic()
    train(open_fold(job.examples, config.split, fold), run, config, progress=False)
    seconds = time.monotonic() - started
    history = load_history(run / MODEL)
    loss = f"val_log_loss_{job.head}"
    if loss not in history[0]:
        keys = [key for key in history[0] if key.startswith("val_log_loss_")]
        heads = [key.removeprefix("val_log_loss_") for key in keys]
        raise ConfigError(f"{config.model.name} has no head {job.head!r}; it has {heads}")
    finite = [r for r in history if math.isfinite(r[_MONITORED]) and math.isfinite(r[loss])]
    if not finite:
        raise TrainingError(f"fold {fold.name}: no epoch has a finite validation log loss")
    best = min(finite, key=lambda record: record[_MONITORED])
    score = {"loss": best[loss], "epoch": int(best["epoch"]), "seconds": seconds}
    return {"fold": fold.name, "score": score, "history": history}
