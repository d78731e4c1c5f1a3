"""The report's plots, as SVG text.

Figures are made with matplotlib's object interface: no window, no global current figure. A model
keeps its colour and marker in every plot; colours are told apart by colour-blind readers (Okabe and
Ito) and markers in black and white. Equal data gives equal bytes.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = {
    "svg.hashsalt": "cmdcm",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "axes.axisbelow": True,
    "axes.edgecolor": "#6b7480",
    "lines.markersize": 4.5,
    "lines.linewidth": 1.4,
}
_SIZE = (4.2, 3.1)


def calibration(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    places: Sequence[str],
    title: str = "Calibration",
) -> str:
    """Draws observed rates, with intervals, against mean predictions on square-root axes.

    Args:
        curves: Model -> bins, as an evaluation's `calibration` holds them.
        places: All models of the report in order; a model's place fixes its colour and marker.
        title: Title of the plot.
    """

    def draw(axes: Axes) -> None:
        top = 0.0
        for name, bins in curves.items():
            x = np.array([b["mean_prediction"] for b in bins])
            y = np.array([b["rate"]["estimate"] for b in bins])
            _points(axes, x, y, _errors([b["rate"] for b in bins], y), places.index(name))
            top = max(top, x.max(), y.max())
        top = min(1.0, 1.15 * top) or 1.0
        axes.plot([0, top], [0, top], color="#6b7480", linewidth=1, linestyle="--", zorder=1)
        for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            set_scale("function", functions=(_root, np.square))
            axis.set_ticks(_root_ticks(top), [f"{tick:g}" for tick in _root_ticks(top)])
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("mean prediction of the bin (square-root scale)")
        axes.set_ylabel("observed rate")

    return svg(title, draw)


def by_day(
    metric: str,
    title: str,
    days: Mapping[str, Sequence[Mapping[str, Any]]],
    places: Sequence[str],
) -> str | None:
    """Draws a metric with its intervals by day.

    Args:
        metric: Name of the metric.
        title: Title of the plot and label of its axis.
        days: Model -> slices by day, as an evaluation's `slices` hold them.
        places: All models of the report in order.

    Returns:
        The SVG, or None when no day defines the metric.
    """
    labels = sorted({entry["slice"] for entries in days.values() for entry in entries})
    estimates = [
        entry["metrics"][metric]["estimate"] for entries in days.values() for entry in entries
    ]
    if not any(estimate is not None for estimate in estimates):
        return None

    def draw(axes: Axes) -> None:
        for number, (name, entries) in enumerate(days.items()):
            held = [e for e in entries if e["metrics"][metric]["estimate"] is not None]
            intervals = [entry["metrics"][metric] for entry in held]
            # Models stand side by side within a day, so that their intervals do not overlap.
            shift = (number - (len(days) - 1) / 2) * min(0.14, 0.6 / len(days))
            x = np.array([labels.index(entry["slice"]) + shift for entry in held])
            y = np.array([interval["estimate"] for interval in intervals])
            _points(axes, x, y, _errors(intervals, y), places.index(name))
        if metric == "pcoc":
            axes.axhline(1, color="#6b7480", linewidth=1, linestyle="--", zorder=1)
            largest = max(estimate for estimate in estimates if estimate is not None)
            axes.set_ylim(0, min(axes.get_ylim()[1], max(2.0, 1.3 * largest)))
        step = -(-len(labels) // 10)
        axes.set_xticks(
            range(0, len(labels), step),
            [day[5:] for day in labels[::step]],
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylabel(title)

    return svg(f"{title} by day", draw)


def conversion_delays(delays: Mapping[str, Any]) -> str | None:
    """Draws the histogram of delays from click to purchase; None without a conversion."""
    if not sum(delays["direct"]) + sum(delays["delayed"]):
        return None
    edges = delays["edges_hours"]
    labels = [f"{_hours(low)}-{_hours(high)}" for low, high in pairwise(edges)] + [
        f"over {_hours(edges[-1])}"
    ]

    def draw(axes: Axes) -> None:
        x = np.arange(len(labels))
        for shift, kind, colour in ((-0.2, "direct", COLOURS[0]), (0.2, "delayed", COLOURS[1])):
            axes.bar(x + shift, delays[kind], width=0.4, color=colour, label=kind)
        axes.set_xticks(x, labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("from click to purchase")
        axes.set_ylabel("conversions")
        axes.legend(frameon=False)

    return svg("Conversion delay", draw, size=(8.4, 3.3))


def training_curve(
    key: str, title: str, records: Mapping[str, Sequence[Mapping[str, Any]]], places: Sequence[str]
) -> str | None:
    """Draws one value of the epoch records; None when no model records it."""
    held = {
        name: [(r["epoch"], r[key]) for r in epochs if r.get(key) is not None]
        for name, epochs in records.items()
    }
    held = {name: points for name, points in held.items() if points}
    if not held:
        return None

    def draw(axes: Axes) -> None:
        for name, points in held.items():
            epochs, values = (np.array(column, np.float64) for column in zip(*points, strict=True))
            place = places.index(name) if name in places else len(places)
            _points(axes, epochs, values, None, place)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")

    return svg(title, draw)


def colour(place: int) -> str:
    """Returns the colour of the model at `place`."""
    return COLOURS[place % len(COLOURS)]


def _points(
    axes: Axes, x: np.ndarray, y: np.ndarray, errors: np.ndarray | None, place: int
) -> None:
    axes.errorbar(
        x,
        y,
        yerr=errors,
        color=colour(place),
        marker=MARKERS[place % len(MARKERS)],
        elinewidth=0.9,
        capsize=0,
    )


def _errors(intervals: Sequence[Mapping[str, Any]], estimates: np.ndarray) -> np.ndarray:
    """[2, points] distances below and above the estimates; 0 where there is no interval."""
    lower, upper = (
        np.array([np.nan if i[bound] is None else i[bound] for i in intervals], np.float64)
        for bound in ("lower", "upper")
    )
    return np.maximum(np.nan_to_num(np.stack([estimates - lower, upper - estimates])), 0)


def _root_ticks(top: float) -> list[float]:
    """Round values from 0 to `top` that stand apart on a square-root axis."""
    ticks = [0.0]
    for exponent in range(-6, 1):
        for tick in (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent):
            if tick <= top and np.sqrt(tick / top) - np.sqrt(ticks[-1] / top) > 0.1:
                ticks.append(tick)
    return ticks


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.0f} min" if hours else "0"
    return f"{hours:.0f} h" if hours < 24 else f"{hours / 24:.0f} d"


def svg(title: str, draw: Any, size: tuple[float, float] = _SIZE) -> str:
    """Returns the SVG of what `draw` draws on its axes; `size` is in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
