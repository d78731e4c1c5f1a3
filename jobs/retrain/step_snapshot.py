"""Step `snapshot`: the log as it was at the as-of instant."""

from pathlib import Path
from typing import Any

from cmdcm.core.locations import location
from cmdcm.jobs.retrain.snapshot import share_files, snapshot_digest, take_snapshot
from cmdcm.jobs.retrain.steps import Context, latest
from cmdcm.jobs.retrain.window import check_nothing_later

EVENTS = "events"


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `events/` into the step's directory."""
    window = context.window
    manifest = take_snapshot(
        location(context.config.retrain.events),
        output / EVENTS,
        window.calendar,
        window.as_of_ms,
        window.last_day,
    )
    check_nothing_later(manifest, window.as_of_ms, str(output / EVENTS))
    earlier = latest("snapshot", context.work)
    if earlier is not None and (earlier / EVENTS).exists():
        share_files(output / EVENTS, earlier / EVENTS)
    return {
        "digest": snapshot_digest(output / EVENTS),
        "rows": manifest["rows"],
        "clicks": manifest["rows_by_kind"].get("click", 0),
        "users": manifest["users"],
        "first": manifest["first_timestamp"],
        "last": manifest["last_timestamp"],
    }
