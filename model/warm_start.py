"""Warm start: a run that begins with the weights of another one (docs/warm_start.md).

The other model is the `model/` of a run or the copy of it in an export, or one of the run's
checkpoints. What matched, which days all models before this one have seen, and their quality on the
last promotion that they were trained on are written to `warm_start.json` of the run, for the guard
against forgetting at its end (`model/forgetting.py`).

The optimizer starts anew. Adagrad's sums have grown over all steps before: with them the ids that
are seen most would hardly learn from a new promotion. Rows and columns that are new have none.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging
from pydantic import ValidationError

from cmdcm.core.config import Config, ModelConfig, TrainingConfig
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_json, read_manifest, staged_file, verify_manifest, write_json
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.forgetting import check_after, measure_before
from cmdcm.model.registry import make_model
from cmdcm.model.trained import EXPORTED, MODEL, WEIGHTS, zero_inputs
from cmdcm.model.transfer import Match, as_text, transfer, variables

WARM_START_FILE = "warm_start.json"
RUN_FILE = "run.json"
"""What a run's checkpoints are of: its configuration, its spec and its days."""

_PARTS = ("train", "validation")


@dataclass(frozen=True)
class Source:
    """The model that a run starts from.

    Attributes:
        path: The setting's value.
        weights: Prefix of the checkpoint of its weights.
        spec: Its features.
        config: Its network.
        days: By `train` and `validation`: the days that it, or a model that it was started from,
            was trained or stopped on.
    """

    path: str
    weights: Path
    spec: FeatureSpec
    config: ModelConfig
    days: Mapping[str, frozenset[str]]

    def load(self) -> RankingModel:
        """Builds the model with its weights, without a calibration.

        Raises:
            DataError: The weights are not those of the model that the directory describes.
        """
        model = make_model(self.spec, self.config)
        model.score(*zero_inputs(self.spec))
        network = model.checkpoint()
        try:
            names = tf.train.load_checkpoint(str(self.weights)).get_variable_to_shape_map()
            if any(name.startswith("network/") for name in names):  # a run's whole state
                network = tf.train.Checkpoint(network=network)
            status = network.read(str(self.weights))
            status.assert_existing_objects_matched().expect_partial()
        except (tf.errors.OpError, AssertionError, LookupError, RuntimeError, ValueError) as error:
            raise DataError(
                f"training.warm_start: the weights at {self.weights} cannot be read: {error}"
            ) from error
        return model


def open_source(setting: str, data: ExampleSet) -> Source:
    """Opens what `training.warm_start` names, for a run on `data`.

    Raises:
        DataError: It is neither a trained model nor a checkpoint of a run nor an export that
            carries a trained model, its files differ from the export's manifest, or it knows the
            outcome of days that this run validates or tests on.
    """
    source = _open(setting)
    seen = source.days["train"] | source.days["validation"]
    for part, known in (("validation", source.days["train"]), ("test", seen)):
        both = sorted(known & set(getattr(data.split, part)))
        if both:
            raise DataError(
                f"training.warm_start: {setting} was trained on {both[0]} and {len(both) - 1} "
                f"more days of this run's {part} part; take an earlier model, or a later split"
            )
    return source


def _open(setting: str) -> Source:
    path = Path(setting)
    if (path / "saved_model.pb").exists():
        path = _carried(path)
    if path.is_dir():
        manifest = read_manifest(path, MODEL)
        return Source(
            setting,
            path / WEIGHTS,
            FeatureSpec.load(path / "spec.json"),
            Config.load(path / "config.json").model,
            _days(manifest["split"], manifest.get("warm_start")),
        )
    run = path.parent.parent
    if not path.with_name(f"{path.name}.index").exists() or not (run / RUN_FILE).exists():
        raise DataError(
            f"training.warm_start: {path} is neither a trained model (RUN/model) nor an exported "
            "version (BASE/7) nor a checkpoint of a run (RUN/checkpoints/best, "
            "RUN/checkpoints/ckpt-7)"
        )
    described = read_json(run / RUN_FILE, "description of the run")
    try:
        warm = described["config"]["training"]["warm_start"]
        return Source(
            setting,
            path,
            FeatureSpec.model_validate(described["spec"]),
            ModelConfig.model_validate(ModelConfig.stored(described["config"]["model"])),
            _days(described["split"], _written(run) if warm else None),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{run / RUN_FILE} was written by another version of cmdcm: {error}"
        ) from error


def _carried(version: Path) -> Path:
    """Returns the trained model in an export, after checking the export's files."""
    if not (version / EXPORTED).is_dir():
        raise DataError(
            f"training.warm_start: {version} is an export, whose weights are constants of a graph "
            "and perhaps of less precision, and was made without export.training_model; give the "
            "model that it was made of, RUN/model"
        )
    verify_manifest(version)
    return version / EXPORTED


def start(
    source: Source,
    model: RankingModel,
    data: ExampleSet,
    output: Path,
    config: TrainingConfig,
    *,
    writes: bool,
) -> None:
    """Gives a fresh, built model the weights of another one.

    Args:
        source: The other one.
        model: The model.
        data: The examples that it will be trained on.
        output: The run's directory; gets `warm_start.json`.
        config: Says whether forgetting may go unmeasured.
        writes: Whether this process writes; of several workers one does.

    Raises:
        DataError: The source's weights cannot be read, do not fit where nothing is trained, or the
            examples lack its days.
    """
    old = source.load()
    matches = transfer(old, model)
    logging.info("warm start from %s\n%s", source.path, as_text(matches))
    check_frozen(model, matches)
    if not writes:
        return
    written = {
        "source": source.path,
        "days": {part: sorted(days) for part, days in source.days.items()},
        "matches": [dataclasses.asdict(match) for match in matches],
        "before": measure_before(old, model, data, source.days["train"], config),
    }
    with staged_file(output / WARM_START_FILE) as staging:
        write_json(staging, written)


def check_frozen(model: RankingModel, matches: Sequence[Match]) -> None:
    """Checks that what a model does not train was found in the model that it starts from.

    Raises:
        DataError: Weights that would stay as they were drawn; names them.
    """
    learnt, places = {v.ref() for v in model.trainable_variables}, variables(model)
    lost = [
        match.name
        for match in matches
        if match.kind == "weight" and match.size and not match.matched
        if places[match.name].trainable and places[match.name].ref() not in learnt
    ]
    if lost:
        raise DataError(
            f"{model.config.name} trains a part of its network alone, and of the rest "
            f"training.warm_start has no weights that fit {', '.join(lost)}: give it the [model] "
            "settings of its base"
        )


def finish(
    model: RankingModel, data: ExampleSet, output: Path, config: TrainingConfig, *, writes: bool
) -> None:
    """Guards the trained model of a run that `start` began against forgetting.

    Raises:
        TrainingError: It has forgotten too much (`forgetting.check_after`).
    """
    before = _written(output)["before"]
    check_after(model, before, data, output, config, writes=writes)


def origin(output: Path) -> dict[str, Any]:
    """Returns what a run's manifest says of its warm start: `source` and `days`."""
    written = _written(output)
    return {"source": written["source"], "days": written["days"]}


def _written(output: Path) -> dict[str, Any]:
    written: dict[str, Any] = read_json(output / WARM_START_FILE, "warm start")
    return written


def _days(
    split: Mapping[str, list[str]], warm_start: Mapping[str, Any] | None
) -> dict[str, frozenset[str]]:
    before = warm_start["days"] if warm_start else {}
    return {part: frozenset({*split[part], *before.get(part, ())}) for part in _PARTS}
