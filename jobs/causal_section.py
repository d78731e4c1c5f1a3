"""The report's section on the transition add-to-cart -> delayed conversion."""

from collections.abc import Mapping
from typing import Any

from cmdcm.jobs import causal_plots, plots
from cmdcm.model.evaluation import ORACLE

POPULATION_TEXTS = {
    "all": "all clicks (ATE)",
    "carted": "the carted clicks (ATT)",
    "uncarted": "the uncarted clicks (ATU)",
    "overlap": "overlap-weighted clicks (ATO)",
}
CALIBRATED = {
    "propensity": "e on all clicks without a direct purchase",
    "r1": "r1 on the carted ones",
    "r0": "r0 on the uncarted ones",
}
NAMES = {"propensity": "e", "r1": "r1", "r0": "r0"}


def causal_sections(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what the page shows of each model that has a causal summary."""
    return [
        {
            "name": name,
            "summary": summary,
            "truth": any("truth" in p["effect"] for p in summary["populations"].values()),
            "imbalanced": {
                when: sum(abs(e[when] or 0) > causal_plots.IMBALANCED for e in summary["balance"])
                for when in ("before", "after")
            },
            # A single slice of all clicks, such as the one promotion, says nothing new.
            "slices": [
                dimension
                for dimension, entries in sorted(summary["slices"].items())
                if any(entry["rows"] < summary["rows"] for entry in entries)
            ],
            # The oracle has no network to be diagnosed.
            "figures": [] if name == ORACLE else _figures(name, summary, evaluation),
            "love": None if name == ORACLE else causal_plots.love(summary["balance"]),
        }
        for name in evaluation["model_names"]
        for summary in [evaluation["models"][name]["causal"]]
        if summary is not None
    ]


def _figures(
    name: str, summary: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    figures = [
        (
            causal_plots.overlap(summary["overlap"]),
            f"Propensity histograms of {name} by arm; the numbers are in evaluation.json.",
        )
    ]
    if summary["sensitivity"]:
        truth = summary["populations"]["all"]["effect"].get("truth")
        figures.append(
            (
                causal_plots.sensitivity(summary["sensitivity"], truth),
                f"Bounds of the average effect of carting by Lambda for {name}; the numbers are "
                "in the table of bounds.",
            )
        )
    for output in CALIBRATED:
        bins = summary["calibration"][output]["calibration"]
        if bins:
            curve = {name: bins}
            title = f"Calibration of {NAMES[output]}"
            figures.append(
                (
                    plots.calibration(curve, evaluation["model_names"], title),
                    f"{title} of {name}: observed rate against mean prediction in bins of equal "
                    "size; the dashed line is perfect calibration.",
                )
            )
    return figures
