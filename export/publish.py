"""Exporting a trained model as the next version under a base path, atomically.

    BASE/7/saved_model.pb, variables/     the graph and its weights
    BASE/7/assets.extra/                  model_card.md, warm-up requests, feature_spec.json,
                                          config.json, metrics.json (if there is an evaluation),
                                          calibration.json (if the model is calibrated)
    BASE/7/assets.extra/model/            the trained model itself, for warm starts
    BASE/7/manifest.json                  SHA-256 of every file

The version is staged where no server looks, compared with the model on real rows, checked in a
fresh process as a server would load it, and only then published (`cmdcm.export.versions`).
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import write_json, write_manifest
from cmdcm.core.locations import Location
from cmdcm.export.check import accept, check_in_fresh_process, differences
from cmdcm.export.model_card import MODEL_CARD_FILE, model_card
from cmdcm.export.saved_model import save_model
from cmdcm.export.signatures import EXAMPLES_INPUT, EXAMPLES_SIGNATURE, SIGNATURES
from cmdcm.export.versions import publish, staging_directory
from cmdcm.export.warmup import (
    WARMUP_FILE,
    Arrays,
    Requests,
    requests,
    requests_of_users,
    write_warmup,
)
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import parse_examples
from cmdcm.features.tfrecord import read_records
from cmdcm.model.base import OUTPUTS, RankingModel
from cmdcm.model.calibration import CALIBRATION_FILE
from cmdcm.model.trained import EXPORTED, seen_days

TOLERANCE = 1e-5
"""The most that a score of the export may differ from the model's."""


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes:
        path: Its directory, `BASE/NUMBER`.
        number: Its number.
        largest_difference: Largest absolute difference to the model's scores on the checked rows.
    """

    path: Location
    number: int
    largest_difference: float


def export_model(
    model: RankingModel,
    base: Location,
    config: Config,
    data: ExampleSet,
    evaluation: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    logged: Requests = (),
    trained: Path | None = None,
) -> Version:
    """Publishes a trained model as the next version under `base`.

    Args:
        model: The model, with its weights.
        base: Base path of the served model, local or remote.
        config: Names the model and says what the export carries; written into it.
        data: The examples; the first validation rows are the warm-up and the check.
        evaluation: An evaluation to keep beside the model.
        origin: What the manifest says of where the model comes from.
        logged: Requests of callers that fit the model, for its warm-up and the check.
        trained: The model's directory, `RUN/model`. The version carries it, if the settings say so,
            and the manifest the days that the model was trained or stopped on.

    Raises:
        ExportError: The export's scores differ from the model's, or are not finite, or it fails
            its check.
        DataError: There is no validation row.
    """
    settings = config.export
    serialized = list(itertools.islice(_records(data.files("validation")), settings.check_rows))
    if not serialized:
        raise DataError(f"{data.directory} has no validation rows to check an export with")
    warmup = requests(
        model.spec, serialized[: settings.max_warmup_rows], settings.warmup_candidates
    )
    every_row = {EXAMPLES_INPUT: np.array(serialized, object)}
    users = requests_of_users(model.spec, serialized, max(settings.warmup_candidates))
    made = [*warmup, *logged, (EXAMPLES_SIGNATURE, every_row), *users]
    expected = [served_scores(model, *request) for request in made]
    with staging_directory(base) as staging, tempfile.TemporaryDirectory() as checks:
        save_model(model, staging, settings)
        write_warmup(staging / WARMUP_FILE, settings.name, warmup, logged)
        largest = differences(staging, made, expected)
        limits = (
            dict.fromkeys(largest, TOLERANCE)
            if settings.table_dtype == "float32"
            else {n: settings.max_table_loss for n in largest if n.startswith("p_")}
        )
        accept(largest, limits)
        extra = (staging / WARMUP_FILE).parent
        model.spec.save(extra / "feature_spec.json")
        config.save(extra / "config.json")
        if model.calibration is not None:
            model.calibration.save(extra / CALIBRATION_FILE)
        if evaluation is not None:
            write_json(extra / "metrics.json", evaluation)
        if trained is not None and settings.training_model:
            shutil.copytree(trained, staging / EXPORTED)
        card = model_card(model, config, data, evaluation, largest, len(serialized))
        (staging / MODEL_CARD_FILE).write_text(card, encoding="utf-8")
        write_manifest(
            staging,
            {
                "kind": "export",
                "model": config.model.name,
                "signatures": list(SIGNATURES),
                "outputs": {name: OUTPUTS[name] for name in largest},
                "largest_differences": largest,
                **({} if origin is None else {"origin": dict(origin)}),
                **({} if trained is None else {"seen_days": sorted(seen_days(trained))}),
            },
        )
        check_in_fresh_process(staging, Path(checks), made, expected, limits)
        number = publish(staging, base)
    return Version(base / str(number), number, max(largest.values()))


def served_scores(model: RankingModel, signature: str, inputs: Arrays) -> dict[str, np.ndarray]:
    """Scores a request with the model itself: what a server should answer."""
    if signature == EXAMPLES_SIGNATURE:
        (serialized,) = inputs.values()
        features = parse_examples(serialized, model.spec.inputs)
        outputs = model.scores(model(features), features)
    else:
        # The layers as they were trained, not the served arrangement that is checked.
        outputs = model.score(
            {f.name: tf.constant(inputs[f.name]) for f in model.spec.user_inputs},
            {f.name: tf.constant(inputs[f.name]) for f in model.spec.candidate_inputs},
        )
    return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}


def _records(shards: list[Path]) -> Iterator[bytes]:
    for shard in shards:
        yield from read_records(shard)
