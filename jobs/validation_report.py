"""The page of a validation, and the same numbers as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cmdcm
from cmdcm.core.files import write_json
from cmdcm.features.drift import Distance
from cmdcm.jobs.plots import COLOURS
from cmdcm.jobs.report import template
from cmdcm.jobs.validation import Validation

JSON, PAGE = "validation.json", "validation.html"
"""Names of the two files."""

_FIGURES = 6
_BINS = 24
_AUCS = 15
_COLUMNS = (
    "count",
    "null_rate",
    "min",
    "max",
    "mean",
    "distinct",
    "coverage",
    "collision_rate",
)
_SOURCES = {
    "data": "itself",
    "schema": "schema",
    "against": "other data set",
    "requests": "logged requests",
}
_SIDES = {
    "examples": "These examples",
    "against": "The other data set",
    "requests": "Logged requests",
}
_MEASURES = {"linf": "L-infinity", "js": "Jensen-Shannon"}


def write_validation(directory: Path, validation: Validation) -> None:
    """Writes `validation.json` and `validation.html` into a directory."""
    write_json(directory / JSON, validation.result)
    (directory / PAGE).write_text(render(validation), encoding="utf-8")


def render(validation: Validation) -> str:
    """Returns the page; it loads nothing, and all text is escaped."""
    result = validation.result
    distances = {
        f"Drift from the other data set ({len(result['drift'])} distributions)": result["drift"],
        f"Skew of the logged requests ({len(result['skew'])} distributions)": result["skew"],
    }
    return template("validation.html.j2").render(
        version=cmdcm.__version__,
        title=f"Validation of {result['examples']['name']}",
        result=result,
        sources=_SOURCES,
        measures=_MEASURES,
        side_names=_SIDES,
        sides=[side for side in _SIDES if any(f.get(side) for f in result["features"])],
        columns=_COLUMNS,
        parts=list(dict.fromkeys(p for shares in result["labels"].values() for p in shares)),
        strongest=result["leakage"]["aucs"][:_AUCS],
        distances={name: entries for name, entries in distances.items() if entries},
        colours=COLOURS,
        figures=[
            *_figures(validation.drift, "other data set", "these examples"),
            *_figures(validation.skew, "these examples", "requests"),
        ],
    )


def _figures(distances: Sequence[Distance], first: str, second: str) -> list[dict[str, Any]]:
    """Returns the shares of the bins with most values, of the largest distances in their order."""
    figures = []
    for distance in distances[:_FIGURES]:
        if not distance.value:
            break
        pair = distance.pair
        totals = sum(pair.first.values()), sum(pair.second.values())
        shares = {
            place: (pair.first.get(place, 0) / totals[0], pair.second.get(place, 0) / totals[1])
            for place in {**pair.first, **pair.second}
        }
        held = sorted(shares, key=lambda place: -max(shares[place]))[:_BINS]
        if not any(isinstance(place, str) for place in held):
            held.sort()
        figures.append(
            {
                "name": pair.name,
                "measure": _MEASURES[pair.measure],
                "value": distance.value,
                "bound": distance.bound,
                "sides": (first, second),
                "bins": [(p if isinstance(p, str) else f"{p:g}", *shares[p]) for p in held],
                "top": max(max(shares[place]) for place in held),
            }
        )
    return figures
