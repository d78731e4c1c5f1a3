"""A load test as JSON, as a plot of percentiles and as a table of text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from cmdcm.core.files import write_json
from cmdcm.jobs.loadtest.saturation import Saturation
from cmdcm.jobs.loadtest.statistics import PERCENTILES, Latency, Summary
from cmdcm.jobs.plots import colour, svg
from cmdcm.jobs.tables import number

_COLUMNS = (
    "measurement",
    "calls/s due",
    "answered",
    "errors",
    *(f"p{percent:g}" if percent < 100 else "max" for percent in PERCENTILES),
    "client CPU",
    "server CPU",
)
_LATE_MS = 1.0


@dataclass(frozen=True)
class Result:
    """One measurement with its name.

    Attributes:
        name: What was measured, for people.
        signature: Signature that was called.
        load: `rate` or `clients`, and how many.
        summary: What was found.
    """

    name: str
    signature: str
    load: Mapping[str, float]
    summary: Summary


def write_report(
    directory: Path,
    settings: Mapping[str, Any],
    results: Sequence[Result],
    saturation: Mapping[str, Saturation],
) -> None:
    """Writes loadtest.json, loadtest.svg and loadtest.txt.

    Args:
        directory: Where to.
        settings: What the test was asked to do.
        results: The measurements.
        saturation: Signature -> what the search for its limit found.
    """
    write_json(
        directory / "loadtest.json",
        {
            "settings": dict(settings),
            "results": [_described(result) for result in results],
            "saturation": {
                signature: {"sustained": found.sustained, "broken": found.broken}
                for signature, found in saturation.items()
            },
        },
    )
    (directory / "loadtest.svg").write_text(plot(results), encoding="utf-8")
    (directory / "loadtest.txt").write_text(table(results, saturation), encoding="utf-8")


def table(results: Sequence[Result], saturation: Mapping[str, Saturation]) -> str:
    """Returns the measurements as lines of text; latencies and CPU of a call are in ms."""
    rows = [_COLUMNS]
    notes = []
    for result in results:
        summary = result.summary
        rows.append(
            (
                result.name,
                number(summary.offered, 1),
                number(summary.answered, 1),
                _errors(summary),
                *_cells(summary.latency),
                number(summary.client_cpu_ms, 2),
                number(summary.server_cpu_ms, 2),
            )
        )
        if len(summary.by_size) > 1:
            for size, latency in summary.by_size.items():
                share = number(summary.offered * latency.calls / summary.latency.calls, 1)
                rows.append((f"  N = {size}", share, "", "", *_cells(latency), "", ""))
        if summary.send_delay_ms > _LATE_MS and "rate" in result.load:
            notes.append(
                f"{result.name}: the client sent 1 % of its calls {summary.send_delay_ms:.1f} ms "
                "late or later, which is part of these latencies; give it a CPU of its own"
            )
        if "clients" in result.load:
            notes.append(
                f"{result.name}: in a closed loop callers wait while the server stalls, so that "
                "percentiles hide it; use --rate for what independent users see"
            )
    for signature, found in saturation.items():
        notes.append(
            f"{signature}: highest rate within the bounds {_rate(found.sustained)}, "
            f"lowest beyond {_rate(found.broken)}"
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), *notes]) + "\n"


def plot(results: Sequence[Result]) -> str:
    """Draws latency against percentile as HdrHistogram's plots do; failed calls have no place."""

    def draw(axes: Axes) -> None:
        top = 2.0
        for place, result in enumerate(results):
            points = [
                (100 / (100 - percent) if percent < 100 else result.summary.latency.calls, ms)
                for percent, ms in result.summary.latency.curve
                if math.isfinite(ms)
            ]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, color=colour(place), label=result.name, drawstyle="steps-pre")
                top = max(top, *x)
        axes.set_xscale("log")
        ticks = [2.0, *(10.0**power for power in range(1, math.ceil(math.log10(top)) + 1))]
        axes.set_xticks(ticks, [f"{100 * (1 - 1 / tick):.6g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("percentile")
        axes.set_ylabel("latency, ms")
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)

    return svg("Latency by percentile", draw, size=(8.4, 3.8))


def _described(result: Result) -> dict[str, Any]:
    summary = result.summary
    return {
        "name": result.name,
        "signature": result.signature,
        **result.load,
        "seconds": summary.seconds,
        "calls": summary.latency.calls,
        "offered_per_second": summary.offered,
        "answered_per_second": summary.answered,
        "errors": dict(summary.errors),
        "latency_ms": _latency(summary.latency),
        "latency_curve": [[percent, _finite(ms)] for percent, ms in summary.latency.curve],
        "latency_ms_by_candidates": {
            str(size): _latency(latency) for size, latency in summary.by_size.items()
        },
        "send_delay_p99_ms": summary.send_delay_ms,
        "client_cpu_ms": summary.client_cpu_ms,
        "server_cpu_ms": summary.server_cpu_ms,
    }


def _latency(latency: Latency) -> dict[str, float | None]:
    return {f"{percent:g}": _finite(ms) for percent, ms in latency.percentiles.items()}


def _finite(milliseconds: float) -> float | None:
    return milliseconds if math.isfinite(milliseconds) else None


def _cells(latency: Latency) -> list[str]:
    return [number(ms, 2) if math.isfinite(ms) else "failed" for ms in latency.percentiles.values()]


def _errors(summary: Summary) -> str:
    return ", ".join(f"{count} {code}" for code, count in summary.errors.items()) or "0"


def _rate(rate: float | None) -> str:
    return "none found" if rate is None else f"{rate:.1f} calls/s"
