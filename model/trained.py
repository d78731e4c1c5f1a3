"""A trained model on the disk: `model/` of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_json, read_manifest
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.calibration import CALIBRATION_FILE, Calibration
from cmdcm.model.registry import make_model

MODEL = "model"
"""The manifest's kind of a trained model's directory."""

WEIGHTS = "weights"
"""Prefix of the checkpoint of its weights."""

EXPORTED = "assets.extra/model"
"""Where an export carries the directory that it was made of (`export.training_model`)."""

History = list[dict[str, float]]


def load_model(directory: Path) -> RankingModel:
    """Loads a trained model from the `model/` directory of a run.

    Raises:
        DataError: Its weights are not those of the model that the directory describes.
    """
    config = Config.load(Path(directory) / "config.json")
    spec = FeatureSpec.load(Path(directory) / "spec.json")
    model = make_model(spec, config.model)
    model.score(*zero_inputs(spec))
    status = model.checkpoint().read(str(Path(directory) / WEIGHTS))
    try:
        status.assert_consumed()
    except AssertionError as error:
        raise DataError(
            f"the weights of {directory} were written by another version of cmdcm: {error}"
        ) from error
    if (Path(directory) / CALIBRATION_FILE).exists():
        model.calibrate(Calibration.load(Path(directory) / CALIBRATION_FILE))
    return model


def load_history(directory: Path) -> History:
    """Returns the epochs' records of a trained model."""
    return list(read_json(Path(directory) / "history.json", "training history"))


def seen_days(directory: Path) -> frozenset[str]:
    """Returns the days that a trained model, or one it was started from, has seen.

    They are those of its training and, for early stopping, of its validation.
    """
    manifest = read_manifest(Path(directory), MODEL)
    known = [manifest["split"], (manifest.get("warm_start") or {}).get("days", {})]
    return frozenset(d for days in known for p in ("train", "validation") for d in days.get(p, ()))


def zero_inputs(spec: FeatureSpec) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns one user's and one candidate's features, all at their defaults."""

    def zeros(side: Sequence[Feature]) -> dict[str, Any]:
        return {
            f.name: tf.fill(
                [1] if f.shape == "scalar" else [1, f.length], tf.constant(f.default, f.dtype)
            )
            for f in side
        }

    return zeros(spec.user_inputs), zeros(spec.candidate_inputs)
