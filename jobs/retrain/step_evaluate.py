"""Step `evaluate`: the candidate and the serving model on the same test clicks."""

from pathlib import Path
from typing import Any

from cmdcm.export.gate_run import incomparable, scored
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.plan import EXAMPLES
from cmdcm.jobs.retrain.step_train import RUN
from cmdcm.jobs.retrain.steps import Context, digest_of
from cmdcm.model.evaluation import evaluate, save_evaluation
from cmdcm.model.trained import MODEL

SERVING = "serving"


def compared(context: Context, data: ExampleSet) -> Path | None:
    """Returns the model to compare the candidate with: the serving one, None if there is none.

    Once a window's labels are known, the next job tests on clicks that the serving model was
    refreshed on. It would look better than it is, so it is compared as it was before that.
    """
    serving = context.serving
    if serving is None:
        return None
    model, trained = (Path(known["model"]) for known in (serving, serving.get("trained", serving)))
    return trained if trained.exists() and incomparable(model, data) else model


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `evaluation.json` and the predictions into the step's directory."""
    config = context.config
    data = ExampleSet.open(context.done["features"].path / EXAMPLES, config.split)
    name: str = config.model.name
    frames = {name: scored(context.candidate.path / RUN / MODEL, data, config)}
    why, directory = "", compared(context, data)
    if directory is not None:
        why = incomparable(directory, data)
        if not why:
            frames[SERVING] = scored(directory, data, config)
    for model, frame in frames.items():
        part = "candidate" if model == name else SERVING
        frame.write_parquet(output / f"{part}.parquet")
    baseline = SERVING if SERVING in frames else None
    result = evaluate(frames, config.evaluation, config.seed, baseline)
    save_evaluation(result, output / "evaluation.json")
    head = result["models"][name]["heads"]["conversion"]
    return {
        "digest": digest_of(result["models"]),
        "rows": len(frames[name]),
        "against": str(directory) if directory else None,
        "incomparable": why,
        "metrics": {m: head["metrics"][m] for m in ("auc", "log_loss", "pcoc")},
        "against_serving": head["differences"],
    }
