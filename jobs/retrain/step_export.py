"""Step `export`: the accepted model as the next version under the base path, once."""

from pathlib import Path
from typing import Any

from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest, verify_manifest
from cmdcm.core.locations import Location, location
from cmdcm.export.gate import check_accepted, load_gate, override
from cmdcm.export.publish import export_model
from cmdcm.export.versions import versions
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.plan import EXAMPLES
from cmdcm.jobs.retrain.step_train import RUN
from cmdcm.jobs.retrain.steps import Context
from cmdcm.model.evaluation import load_evaluation
from cmdcm.model.trained import MODEL, load_model


def run(context: Context, output: Path) -> dict[str, Any]:
    """Publishes the model, or finds the version that a killed run of this step published."""
    model = context.candidate.path / RUN / MODEL
    result = load_gate(context.done["gate"].path)
    if context.override is not None:
        result = override(result, context.override["by"], context.override["reason"])
    check_accepted(result, model)
    base, config = location(context.config.retrain.output), context.config
    origin = {
        "model": context.candidate.digest,
        "features": context.done["features"].digest,
        "gate": context.done["gate"].digest,
        "promotion": context.window.promotion.name,
        "as_of": context.window.observed_until(),
        "override": result["override"],
    }
    number = published(base, origin["model"])
    if number is None:
        context.check()
        data = ExampleSet.open(context.done["features"].path / EXAMPLES, config.split)
        evaluation = load_evaluation(context.done["evaluate"].path / "evaluation.json")
        number = export_model(
            load_model(model), base, config, data, evaluation, origin, trained=model
        ).number
    return {"digest": f"{context.done['train'].digest}/{number}", "version": number}


def published(base: Location, model: str) -> int | None:
    """Returns the version that is a whole export of a model, None if there is none."""
    for number in reversed(versions(base)):
        directory = base / str(number)
        try:
            manifest = read_manifest(directory, "export")
            if manifest.get("origin", {}).get("model") != model:
                continue
            if isinstance(directory, Path):
                verify_manifest(directory)
        except DataError:  # another program's version, or bytes that have changed since
            continue
        return number
    return None
