"""Exporting a trained model as the next version under a base path, atomically.

    BASE/7/saved_model.pb, variables/     the graph and its weights
    BASE/7/assets.extra/                  warm-up requests, feature_spec.json, config.json,
                                          metrics.json (if there is an evaluation),
                                          calibration.json (if the model is calibrated)
    BASE/7/manifest.json                  SHA-256 of every file

The version is staged in a hidden sibling that no server looks at, loaded back and compared with the
model on real rows, and only then renamed to its number.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.core.errors import ExportError
from cmdcm.core.files import staged_directory, write_json, write_manifest
from cmdcm.export.signatures import CANDIDATES_SIGNATURE, EXAMPLES_SIGNATURE, Servable
from cmdcm.export.warmup import WARMUP_FILE, Arrays, requests, write_warmup
from cmdcm.features.input import parse_examples
from cmdcm.features.tfrecord import read_records
from cmdcm.model.base import OUTPUTS, RankingModel
from cmdcm.model.calibration import CALIBRATION_FILE

TOLERANCE = 1e-5
"""The most that a score of the export may differ from the model's."""


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes:
        path: Its directory, `BASE/NUMBER`.
        number: Its number.
        largest_difference: Largest absolute difference to the model's scores on the warm-up.
    """

    path: Path
    number: int
    largest_difference: float


def export_model(
    model: RankingModel,
    base: Path,
    config: Config,
    shards: list[Path],
    metrics: Mapping[str, Any] | None = None,
) -> Version:
    """Publishes a trained model as the next version under `base`.

    Args:
        model: The model, with its weights.
        base: Base path of the served model.
        config: Names the model and the warm-up; written into the export.
        shards: Example shards whose first rows are the warm-up and the check.
        metrics: An evaluation to keep beside the model.

    Raises:
        ExportError: The export's scores differ from the model's, or are not finite.
    """
    base = Path(base)
    number = max(versions(base), default=0) + 1
    serialized = list(itertools.islice(_records(shards), config.export.max_warmup_rows))
    made = requests(model.spec, serialized, config.export.warmup_candidates)
    with staged_directory(base / str(number)) as staging:
        servable = Servable(model)
        tf.saved_model.save(servable, str(staging), signatures=servable.signatures())
        write_warmup(staging / WARMUP_FILE, config.export.name, made)
        extra = (staging / WARMUP_FILE).parent
        model.spec.save(extra / "feature_spec.json")
        config.save(extra / "config.json")
        if model.calibration is not None:
            model.calibration.save(extra / CALIBRATION_FILE)
        if metrics is not None:
            write_json(extra / "metrics.json", metrics)
        difference = verify(staging, model, made)
        write_manifest(
            staging,
            {
                "kind": "export",
                "model": config.model.name,
                "signatures": [EXAMPLES_SIGNATURE, CANDIDATES_SIGNATURE],
                "outputs": {n: OUTPUTS[n] for n in served_scores(model, *made[0])},
                "largest_difference": difference,
            },
        )
    return Version(base / str(number), number, difference)


def versions(base: Path) -> list[int]:
    """Returns the version numbers under a base path, in order."""
    if not base.is_dir():
        return []
    return sorted(int(p.name) for p in base.iterdir() if p.is_dir() and p.name.isdecimal())


def verify(directory: Path, model: RankingModel, made: list[tuple[str, Arrays]]) -> float:
    """Loads a SavedModel and compares its scores of the requests with the model's.

    Returns:
        The largest absolute difference.
    """
    loaded = tf.saved_model.load(str(directory))
    largest = 0.0
    for signature, inputs in made:
        answer = loaded.signatures[signature](**{n: tf.constant(v) for n, v in inputs.items()})
        for name, expected in served_scores(model, signature, inputs).items():
            got = answer[name].numpy()
            if not np.all(np.isfinite(got)):
                raise ExportError(f"{signature} answers {name} that is not finite; not published")
            largest = max(largest, float(np.max(np.abs(got - expected), initial=0.0)))
    if largest > TOLERANCE:
        raise ExportError(
            f"the export's scores differ by {largest:.2g} from the model's, more than {TOLERANCE}; "
            "not published"
        )
    return largest


def served_scores(model: RankingModel, signature: str, inputs: Arrays) -> dict[str, np.ndarray]:
    """Scores a request with the model itself: what a server should answer."""
    if signature == EXAMPLES_SIGNATURE:
        (serialized,) = inputs.values()
        features = parse_examples(serialized, model.spec.inputs)
        outputs = model.scores(model(features), features)
    else:
        outputs = model.score(
            {f.name: tf.constant(inputs[f.name]) for f in model.spec.user_inputs},
            {f.name: tf.constant(inputs[f.name]) for f in model.spec.candidate_inputs},
        )
    return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}


def _records(shards: list[Path]) -> Iterator[bytes]:
    for shard in shards:
        yield from read_records(shard)
