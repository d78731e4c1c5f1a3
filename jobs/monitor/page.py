"""The status page: one self-contained HTML file, worst news first."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import cmdcm
from cmdcm.jobs import plots
from cmdcm.jobs.monitor.calibration import ALL, SO_FAR
from cmdcm.jobs.report import template
from cmdcm.jobs.tables import DIGITS, Table, number, tables, text

_HEADS = ("conversion", "direct", "delayed", "cart", SO_FAR)
_SIZE = (8.4, 3.0)


def render(result: Mapping[str, Any]) -> str:
    """Returns the page of what `monitor` returned; it loads nothing."""
    return template("monitor.html.j2").render(
        version=cmdcm.__version__,
        title=f"Status of {result['model']}",
        time=_time(result["now_ms"]),
        findings=result["findings"],
        parts=[
            _overview(result),
            _versions(result),
            _calibration(result, ALL),
            *(_calibration(result, by) for by in _slices(result)),
            _scores(result),
            _inputs(result),
        ],
        curves=_curves(result),
        skipped=result["skipped"],
        settings=tables(dict(sorted(result["settings"].items())), "Settings: [monitor]"),
    )


def _time(time_ms: int | None) -> str:
    if time_ms is None:
        return "–"
    time = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    return time.strftime("%Y-%m-%d %H:%M UTC")


def _overview(result: Mapping[str, Any]) -> Table:
    decision = result["retraining"]
    job = f"{decision['outcome']}, {_time(decision['time_ms'])}" if decision else "–"
    rows = (
        ("logged requests", text(result["requests"])),
        ("scored candidates", text(result["rows"])),
        ("first request", _time(result["first_request_ms"])),
        ("last request", _time(result["last_request_ms"])),
        ("last event", _time(result["last_event_ms"])),
        ("clicks with a score", text(result["matched"])),
        ("last decision of the retraining job", job),
    )
    return Table("What was looked at", ("", "value"), rows)


def _versions(result: Mapping[str, Any]) -> Table:
    means = {(e["version"], e["output"]): e["mean"] for e in result["means"]}
    outputs = list(dict.fromkeys(entry["output"] for entry in result["means"]))
    rows = tuple(
        (
            str(entry["version"]),
            "not known" if entry["labels"] is None else ", ".join(entry["labels"]) or "none",
            f"{entry['share']:.1%}",
            text(entry["rows"]),
            "–" if entry["age_seconds"] is None else f"{entry['age_seconds'] / 3600:.1f} h",
            *(number(means.get((entry["version"], output)), 4) for output in outputs),
        )
        for entry in result["versions"]
    )
    columns = ("version", "labels", "traffic", "scores", "age", *(f"mean {o}" for o in outputs))
    return Table("Versions that answered", columns, rows)


def _slices(result: Mapping[str, Any]) -> list[str]:
    found = dict.fromkeys(entry["by"] for entry in result["calibration"])
    return [by for by in found if by not in (ALL, "hour")]


def _calibration(result: Mapping[str, Any], by: str) -> Table:
    entries = [entry for entry in result["calibration"] if entry["by"] == by]
    entries.sort(key=lambda entry: (_HEADS.index(entry["head"]), entry["value"]))
    rows = tuple(
        (
            entry["head"],
            *(() if by == ALL else (entry["value"] or "–",)),
            text(entry["rows"]),
            text(entry["positives"]),
            number(entry["pcoc"], DIGITS["pcoc"]),
            f"{entry['lower']:.3f} to {_upper(entry['upper'])}",
            number(entry["log_loss"], DIGITS["log_loss"]),
        )
        for entry in entries
    )
    columns = ("head", *(() if by == ALL else (by,)), "scores", "positives", "PCOC", "interval")
    caption = "Calibration on labels that are known" + ("" if by == ALL else f", by {by}")
    return Table(caption, (*columns, "log loss"), rows or (("no label is known yet",),))


def _upper(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3f}"


def _scores(result: Mapping[str, Any]) -> Table:
    rows = tuple(
        (entry["output"], number(entry["psi"], 3), number(entry["chance"], 3))
        for entry in result["score_drift"]
    )
    caption = "Scores against the reference requests"
    columns = ("output", "PSI above chance", "chance")
    return Table(caption, columns, rows or (("no reference was given", "–", "–"),))


def _inputs(result: Mapping[str, Any]) -> Table:
    drift: dict[str, float] = {}
    for entry in result["input_drift"]:  # the largest part of a vector stands for it
        drift.setdefault(entry["name"].partition("[")[0], entry["psi"])

    def worst(entry: Mapping[str, Any]) -> float:
        rise = entry["null_rate"] - entry["training_null_rate"]
        return -max(drift.get(entry["name"], 0.0), rise, entry["oov_rate"] or 0.0)

    rows = tuple(
        (
            entry["name"],
            number(drift.get(entry["name"]), 3),
            f"{entry['null_rate']:.2%}",
            f"{entry['training_null_rate']:.2%}",
            "–" if entry["oov_rate"] is None else f"{entry['oov_rate']:.2%}",
        )
        for entry in sorted(result["inputs"], key=worst)
    )
    columns = ("input", "PSI above chance", "missing", "missing in training", "not in vocabulary")
    return Table("Inputs against the training data, worst first", columns, rows)


def _curves(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns plots of PCOC by hour, and what they show; one a head that has hours."""
    made = []
    for head in _HEADS:
        entries = [
            e for e in result["calibration"]
            if e["by"] == "hour" and e["head"] == head
        ]  # fmt: skip
        if len(entries) > 1:
            name = head.replace("_", " ")
            image = plots.svg(f"PCOC of {name} by hour of the score", _draw(entries), _SIZE)
            made.append((image, f"PCOC of {name} by hour, with intervals, in monitor.json"))
    return made


def _draw(entries: Sequence[Mapping[str, Any]]) -> Any:
    def places(chosen: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([e["value"].replace(" ", "T") for e in chosen], "datetime64[m]")

    some = [entry for entry in entries if entry["pcoc"] is not None]
    none = [entry for entry in entries if entry["pcoc"] is None]

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color="#6b7480", linewidth=1, linestyle="--", zorder=1)
        middle, lower, upper = (np.array([e[n] for e in some]) for n in ("pcoc", "lower", "upper"))
        if some:
            errors = np.stack([middle - lower, upper - middle])
            axes.errorbar(
                places(some), middle, yerr=errors, fmt="o", color=plots.COLOURS[0],
                ecolor="#9db8d2", label="PCOC and its interval",
            )  # fmt: skip
        if none:
            axes.plot(
                places(none), [e["lower"] for e in none], "^", color=plots.COLOURS[1],
                label="no positive label: PCOC is above this",
            )  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("PCOC (log scale)")
        axes.tick_params(axis="x", rotation=30)
        axes.legend(frameon=False)

    return draw
