"""Step `check`: refuses a snapshot with missing or odd days."""

from pathlib import Path
from typing import Any

from cmdcm.core.files import staged_file, write_json
from cmdcm.datasets.log import open_event_log
from cmdcm.jobs.retrain.log_checks import check_log
from cmdcm.jobs.retrain.step_snapshot import EVENTS
from cmdcm.jobs.retrain.steps import Context


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `days.json` into the step's directory."""
    log = open_event_log(context.done["snapshot"].path / EVENTS)
    window = context.window
    found = check_log(log, window.calendar, window.last_day, context.config.retrain)
    with staged_file(output / "days.json") as staging:
        write_json(staging, found)
    return {"digest": "passed", **found}
