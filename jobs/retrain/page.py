"""The job's page: why the model was or was not promoted, on one screen, with the evidence below."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cmdcm
from cmdcm.core.files import read_json
from cmdcm.export.gate import GATE_FILE
from cmdcm.jobs.gate_page import verdict_tables
from cmdcm.jobs.report import template
from cmdcm.jobs.tables import DIGITS, Table, bounds, number, text

_SERVES = {
    "promoted": "the new model serves",
    "published": "the new version may be rolled out, and the next job compares with it",
}


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a decision; it loads nothing, and all text is escaped."""
    window = record["window"]
    return template("gate.html.j2").render(
        version=cmdcm.__version__,
        title=f"{window['promotion']} as of {window['as_of']}: {record['outcome']}",
        notes=notes(record),
        tables=[_steps(record), *_metrics(record), *_gate(record), _window(record)],
    )


def notes(record: Mapping[str, Any]) -> list[str]:
    """Returns the decision in sentences."""
    serves = _SERVES.get(record["outcome"], "the serving model stays")
    before = record["serving_version"]
    said = [
        f"{record['outcome'].capitalize()}: {record['reason']}.",
        f"So {serves}" + (f" (before: version {before})." if before is not None else "."),
        f"Decided {record['decided']} by {record['by']}.",
    ]
    if record["override"]:
        by = record["override"]
        said.append(f"The gate's refusal was overridden by {by['by']}: {by['reason']}")
    if before is not None and record["serving"] is None:
        said.append(
            f"No job of this directory made version {before}: the candidate was compared with no "
            "serving model, and bounds of values alone judged it."
        )
    said += [
        f"{name}: {done['summary']['skipped']}."
        for name, done in record["steps"].items()
        if done["summary"].get("skipped")
    ]
    return said


def _steps(record: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            "done before" if done["reused"] else "done",
            number(done["seconds"], 1),
            number(done["peak_mib"], 0),
            done["summary"]["digest"][:12],
            done["path"],
        )
        for name, done in record["steps"].items()
    )
    if record["failed_step"]:
        rows = (*rows, (record["failed_step"], "failed", "", "", "", ""))
    columns = ("step", "state", "seconds", "peak MiB", "result", "where")
    return Table("Steps", columns, rows)


def _metrics(record: Mapping[str, Any]) -> list[Table]:
    done = record["steps"].get("evaluate")
    if done is None:
        return []
    summary = done["summary"]
    rows = []
    for metric, interval in summary["metrics"].items():
        change = summary["against_serving"].get(metric)
        digits = DIGITS[metric]
        shown = "" if change is None else number(change["estimate"], digits, signed=True)
        between = "" if change is None else bounds(change, digits, signed=True)
        rows.append(
            (metric, number(interval["estimate"], digits), bounds(interval, digits), shown, between)
        )
    columns = ("conversion", "candidate", "interval", "less serving", "paired interval")
    return [Table(f"Quality on {summary['rows']:,} test clicks", columns, tuple(rows))]


def _gate(record: Mapping[str, Any]) -> list[Table]:
    done = record["steps"].get("gate")
    path = Path(done["path"]) / GATE_FILE if done else None
    if path is None or not path.exists():
        return []
    return verdict_tables(read_json(path, "the gate's result"))


def _stream(refreshed: Mapping[str, Any] | None) -> dict[str, str]:
    """What a refreshed model went on with, and its progressive quality, if there is one."""
    if refreshed is None or "entries" not in refreshed["summary"]:
        return {}
    said = refreshed["summary"]
    between = f"{said['days'][0]} to {said['days'][1]}"
    held = (
        f"{said['entries']:,} entries of {said['clicks']:,} clicks, {said['positives']:,} positive"
    )
    shown = {"stream": f"{between}: {held}"}
    found = said["progressive"]
    if found:
        values = [
            f"{name} {number(found[name], DIGITS[name])}" for name in ("auc", "log_loss", "pcoc")
        ]
        count = f"{found['clicks']:,} clicks with final labels, {found['positives']:,} positive"
        shown["stream, each click before it was trained on"] = f"{', '.join(values)} ({count})"
    return shown


def _window(record: Mapping[str, Any]) -> Table:
    values = dict(record["window"])
    features = record["steps"].get("features")
    if features:
        for part, days in features["summary"]["split"].items():
            values[part] = f"{days[0]} to {days[1]}"
    values |= _stream(record["steps"].get("refresh"))
    rows = tuple((name, text(value)) for name, value in values.items())
    return Table("Data", ("what", "value"), rows)
