"""Step `gate`: whether the candidate may be published."""

from pathlib import Path
from typing import Any

import polars as pl

from cmdcm.core.files import read_json
from cmdcm.export.gate_run import run_gate
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.plan import EXAMPLES
from cmdcm.jobs.gate_page import write_gate
from cmdcm.jobs.retrain.step_evaluate import compared
from cmdcm.jobs.retrain.step_train import RUN
from cmdcm.jobs.retrain.steps import Context, digest_of
from cmdcm.jobs.validation_report import JSON as VALIDATION
from cmdcm.model.trained import MODEL


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `gate.json` and `gate.html` into the step's directory."""
    config, evaluated = context.config, context.done["evaluate"].path
    data = ExampleSet.open(context.done["features"].path / EXAMPLES, config.split)
    frames = {
        name: pl.read_parquet(evaluated / f"{name}.parquet")
        for name in ("candidate", "serving")
        if (evaluated / f"{name}.parquet").exists()
    }
    result = run_gate(
        context.candidate.path / RUN / MODEL,
        data,
        config,
        compared(context, data),
        read_json(context.done["validate"].path / VALIDATION, "validation"),
        frames,
    )
    write_gate(output, result)
    outcomes = [v["outcome"] for v in result["verdicts"]]
    return {
        "digest": digest_of([result["model"], result["serving"], result["accepted"]]),
        "accepted": result["accepted"],
        "reasons": result["reasons"],
        "warnings": len(result["warnings"]),
        "checks": {o: outcomes.count(o) for o in ("pass", "warn", "fail", "skipped")},
    }
