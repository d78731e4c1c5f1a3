"""Step `validate`: the examples against their schema, the serving model's and logged requests.

What it finds does not end the job: the gate refuses for it, where a person may override.
"""

from pathlib import Path
from typing import Any

from cmdcm.features.plan import EXAMPLES
from cmdcm.jobs.retrain.steps import Context, digest_of
from cmdcm.jobs.validation import validate
from cmdcm.jobs.validation_report import write_validation


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `validation.json` and `validation.html` into the step's directory."""
    examples = context.done["features"].path / EXAMPLES
    serving = context.serving
    against = None
    if serving is not None and serving["features"] != context.done["features"].digest:
        other = Path(serving["examples"])
        against = other if other.exists() else None
    requests = [Path(file) for file in context.config.retrain.replay]
    found = validate(examples, context.config, against=against, requests=requests)
    write_validation(output, found)
    result = found.result
    return {
        "digest": digest_of({k: result[k] for k in ("anomalies", "drift", "skew", "labels")}),
        "errors": result["errors"],
        "warnings": result["warnings"],
        "against": str(against) if against else None,
    }
