"""The gate's page: why a model may be published or may not; the JSON beside it says the same."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cmdcm
from cmdcm.core.files import write_json
from cmdcm.export.gate import GATE_FILE
from cmdcm.jobs.report import template
from cmdcm.jobs.tables import Table, number

PAGE = "gate.html"
_DIGITS = {"pcoc": 3, "latency_ms": 1, "size_mb": 1, "effective_rows": 0}
_ORDER = ("fail", "warn", "pass", "skipped")
_WORDS = {"fail": "refused", "warn": "warning", "pass": "kept", "skipped": "not judged"}


def write_gate(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes `gate.json` and `gate.html` into a directory."""
    write_json(directory / GATE_FILE, result)
    (directory / PAGE).write_text(page(result), encoding="utf-8")


def page(result: Mapping[str, Any]) -> str:
    """Returns the page; it loads nothing, and all text is escaped."""
    return template("gate.html.j2").render(
        version=cmdcm.__version__,
        title=f"Gate: {headline(result)}",
        notes=notes(result),
        tables=verdict_tables(result),
    )


def headline(result: Mapping[str, Any]) -> str:
    """Returns the decision in a word or two."""
    if result["override"]:
        return "accepted by override"
    return "accepted" if result["accepted"] else "refused"


def notes(result: Mapping[str, Any]) -> list[str]:
    """Returns the decision and its reasons in sentences."""
    data, found = result["data"], result["verdicts"]
    counts = {o: sum(v["outcome"] == o for v in found) for o in _ORDER}
    said = [
        f"The model is {headline(result)}: "
        + ", ".join(f"{count} {_WORDS[o]}" for o, count in counts.items() if count)
        + f", on {data['rows']:,} clicks of {data['users']:,} users, {data['first_day']} to "
        f"{data['last_day']} ({', '.join(data['promotions'])}).",
    ]
    if result["override"]:
        by = result["override"]
        said.append(f"Overridden by {by['by']}: {by['reason']}")
    if result["first_run"]:
        said.append("There is no serving model: bounds of values alone were applied.")
    level = f"{100 * result['settings']['confidence']:g} %"
    said.append(
        f"Brackets: {level} intervals of the bootstrap over users. An interval that lies beyond a "
        "bound as a whole refuses, one within it passes; where it reaches over the bound, "
        f"gate.unclear = {result['settings']['gate']['unclear']} decides, in slices "
        f"gate.unclear_slices = {result['settings']['gate']['unclear_slices']}."
    )
    return [*said, *(f"Refused: {reason}" for reason in result["reasons"])]


def verdict_tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns the verdicts as tables: what refused and warned, all clicks, slices."""
    found = result["verdicts"]
    bad = [v for v in found if v["outcome"] in ("fail", "warn")]
    whole = [v for v in found if not v["slice"] or not v["head"]]
    slices = [v for v in found if v["slice"] and v["head"]]
    made = [("Refused and warned", bad), ("All test clicks", whole), ("Slices", slices)]
    return [_table(caption, verdicts) for caption, verdicts in made if verdicts]


def _table(caption: str, verdicts: Iterable[Mapping[str, Any]]) -> Table:
    ordered = sorted(verdicts, key=lambda v: _ORDER.index(v["outcome"]))
    columns = ("check", "head", "slice", "verdict", "value", "interval", "bounds", "clicks")
    return Table(caption, (*columns, "positives", "why"), tuple(_row(v) for v in ordered))


def _row(verdict: Mapping[str, Any]) -> tuple[str, ...]:
    digits = _DIGITS.get(verdict["check"], 4)
    low, high = (number(verdict[b], digits) for b in ("lower", "upper"))
    least, most = verdict["minimum"], verdict["maximum"]
    bounds = [
        f"≥ {least:g}" if least is not None else "",
        f"≤ {most:g}" if most is not None else "",
    ]
    counts = [f"{verdict[n]:,}" if verdict[n] is not None else "" for n in ("rows", "positives")]
    return (
        verdict["check"],
        verdict["head"],
        verdict["slice"],
        _WORDS[verdict["outcome"]] + ("" if verdict["clear"] else " (unclear)"),
        number(verdict["estimate"], digits),
        f"{low} to {high}" if verdict["lower"] is not None else "",
        ", ".join(filter(None, bounds)),
        *counts,
        verdict["reason"] if verdict["estimate"] is None else "",
    )
