"""Step `register`: writes down what a version was made of, for later jobs and for people.

Later jobs read `WORK/versions/N.json`; people ask the registry (docs/registry.md), which has the
version where MLflow is installed. A canary has to be registered, so a registry that fails ends the
job here, before servers know of the version.
"""

from pathlib import Path
from typing import Any

import cmdcm
from cmdcm.core.locations import location
from cmdcm.core.mlflow_store import mlflow_installed
from cmdcm.features.plan import EXAMPLES
from cmdcm.jobs.registry.lineage import lineage_of
from cmdcm.jobs.registry.registry import Registry
from cmdcm.jobs.retrain.served import write_lineage
from cmdcm.jobs.retrain.step_train import RUN
from cmdcm.jobs.retrain.steps import Context
from cmdcm.model.evaluation import load_evaluation
from cmdcm.model.trained import MODEL


def lineage(context: Context, version: int | None) -> dict[str, Any]:
    """Returns what later jobs should know of a model."""
    done, base = context.done, context.base
    return {
        "version": version,
        "model": str(context.candidate.path / RUN / MODEL),
        "identity": context.candidate.digest,
        "trained": {
            "model": str(done["train"].path / RUN / MODEL),
            "identity": done["train"].digest,
        },
        "base": dict(base) if base else None,
        "features": done["features"].digest,
        "examples": str(done["features"].path / EXAMPLES),
        "split": done["features"].summary["split"],
        "metrics": done["evaluate"].summary["metrics"],
        "gate": str(done["gate"].path),
        "override": context.override,
        "promotion": context.window.promotion.name,
        "as_of": context.window.observed_until(),
        "cmdcm": cmdcm.__version__,
    }


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `WORK/versions/N.json`, and registers the version."""
    done, config = context.done, context.config
    version = int(done["export"].summary["version"])
    write_lineage(context.work, lineage(context, version))
    said: dict[str, Any] = {"digest": done["export"].digest, "version": version}
    if not config.rollout.registry:
        return {**said, "skipped": "rollout.registry is off"}
    if not mlflow_installed():
        return {**said, "skipped": "MLflow is not installed: the version is in no registry"}
    gate = done["gate"].summary
    origin = lineage_of(
        context.candidate.path / RUN / MODEL,
        evaluation=load_evaluation(done["evaluate"].path / "evaluation.json"),
        evaluated_as=config.model.name,
        promotion=context.window.promotion.name,
        as_of=context.window.observed_until(),
        decision={
            "accepted": gate["accepted"],
            "reasons": gate["reasons"],
            "override": context.override,
            "gate": str(done["gate"].path),
        },
    )
    export = location(config.retrain.output) / str(version)
    Registry.of(config).register(export, origin)
    return {**said, "registry": config.tracking.uri}
