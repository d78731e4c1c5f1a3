"""The gate on directories: loads the models, scores the test clicks, times a request, judges."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from cmdcm.core.config import Config
from cmdcm.export.gate import gate, identity
from cmdcm.export.gate_cost import cost_verdicts
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.forgetting import reads
from cmdcm.model.scoring import predict
from cmdcm.model.trained import load_model, seen_days


def kept_columns(spec: FeatureSpec, config: Config) -> list[str]:
    """Returns the columns of examples that the gate slices by, as far as there are."""
    scalars = {feature.name for feature in spec.features if feature.shape == "scalar"}
    return [name for name in config.gate.slice_columns if name in scalars]


def scored(directory: Path, data: ExampleSet, config: Config) -> pl.DataFrame:
    """Returns a trained model's predictions on the test clicks, with the columns to slice by."""
    keep = kept_columns(data.spec, config)
    return predict(load_model(directory), data.files("test"), data.spec, data.calendar, keep=keep)


def incomparable(directory: Path, data: ExampleSet) -> str:
    """Returns why the serving model cannot be compared with on these examples; empty if it can."""
    spec = FeatureSpec.load(directory / "spec.json")
    if not reads(spec, data.spec):
        return (
            f"the serving model {directory} reads features that the examples no longer have: a "
            "person has to decide without a comparison"
        )
    seen = sorted(seen_days(directory) & set(data.split.test))
    if seen:
        return (
            f"the serving model {directory} was trained on test days, {seen[0]} and "
            f"{len(seen) - 1} more: it would look better than it is; choose a later test split"
        )
    return ""


def run_gate(
    model: Path,
    data: ExampleSet,
    config: Config,
    serving: Path | None = None,
    validation: Mapping[str, Any] | None = None,
    predictions: Mapping[str, pl.DataFrame] | None = None,
) -> dict[str, Any]:
    """Judges a trained model.

    Args:
        model: `model/` of a run.
        data: The examples, with the split whose test part judges.
        config: The configuration.
        serving: `model/` of the run that the serving model is an export of; None on the first run.
        validation: A validation.json of the examples.
        predictions: `candidate` and `serving` where they were scored before (`scored`).

    Returns:
        The result of `cmdcm.export.gate.gate`, with `model` and `serving`, the models' identities.
    """
    trained = load_model(model)
    why = incomparable(serving, data) if serving else ""
    frames = dict(predictions or {})
    if "candidate" not in frames:
        frames["candidate"] = scored(model, data, config)
    if serving and not why and "serving" not in frames:
        frames["serving"] = scored(serving, data, config)
    result = gate(
        frames["candidate"],
        frames.get("serving"),
        config,
        propensity_clip=config.evaluation.propensity_clip or trained.config.propensity_clip,
        cost=list(cost_verdicts(trained, data, config)),
        validation=validation,
        incomparable=why,
    )
    return {
        **result,
        "model": identity(model),
        "serving": identity(serving) if serving else None,
    }
