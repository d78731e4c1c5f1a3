"""The plots of the report's causal section, as SVG text (see `cmdcm.jobs.plots`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cmdcm.jobs.plots import COLOURS, svg

SHOWN_COVARIATES = 20
"""Covariates in the love plot: those with the largest differences before weighting."""

IMBALANCED = 0.1
"""Size of a standardised mean difference above which a covariate is called imbalanced."""

_GREY = "#6b7480"
_DASHED: dict[str, Any] = {"color": _GREY, "linewidth": 1, "linestyle": "--", "zorder": 1}


def overlap(summary: Mapping[str, Any]) -> str:
    """Draws the propensity histograms of both arms, each a share of its arm."""
    edges = summary["edges"]

    def draw(axes: Axes) -> None:
        places = np.arange(len(edges))
        for colour, name in zip(COLOURS, ("carted", "uncarted"), strict=False):
            axes.stairs(summary[name]["shares"], places, color=colour, linewidth=1.6, label=name)
        axes.axvline(np.interp(summary["clip"], edges, places), **_DASHED)
        axes.set_xticks(places[::2], [f"{edge:g}" for edge in edges[::2]], rotation=45, ha="right")
        axes.set_xlim(0, places[-1])
        axes.set_ylim(0, None)
        axes.set_xlabel("propensity e (bins of unequal width); dashed: the clip")
        axes.set_ylabel("share of the arm's clicks")
        axes.legend(frameon=False)

    return svg("Overlap", draw)


def love(balance: Sequence[Mapping[str, Any]]) -> str | None:
    """Draws standardised mean differences before and after weighting; None without any."""
    shown = [entry for entry in balance if entry["before"] is not None][:SHOWN_COVARIATES][::-1]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        places = np.arange(len(shown))
        for colour, marker, when in ((COLOURS[1], "o", "before"), (COLOURS[0], "D", "after")):
            values = [entry[when] for entry in shown]
            axes.plot(values, places, marker, color=colour, label=f"{when} weighting")
        for limit in (-IMBALANCED, IMBALANCED):
            axes.axvline(limit, **_DASHED)
        axes.axvline(0, color=_GREY, linewidth=1, zorder=1)
        axes.set_yticks(places, [entry["covariate"] for entry in shown], fontsize=7.5)
        axes.set_xlabel("standardised mean difference, carted less uncarted")
        axes.legend(frameon=False)

    return svg("Balance", draw, size=(8.4, 0.9 + 0.21 * len(shown)))


def sensitivity(summary: Mapping[str, Any], truth: float | None) -> str:
    """Draws the bounds of the effect of carting, with their interval, against Lambda."""
    bounds = summary["bounds"]

    def draw(axes: Axes) -> None:
        lambdas = [entry["lambda"] for entry in bounds]
        effect = {key: [entry["effect"][key] for entry in bounds] for key in bounds[0]["effect"]}
        axes.fill_between(
            lambdas,
            effect["interval_lower"],
            effect["interval_upper"],
            color=COLOURS[5],
            alpha=0.3,
            linewidth=0,
            label="interval",
        )
        axes.plot(lambdas, effect["lower"], color=COLOURS[0], marker="v", label="bounds")
        axes.plot(lambdas, effect["upper"], color=COLOURS[0], marker="^")
        axes.axhline(0, color=_GREY, linewidth=1, zorder=1)
        if truth is not None:
            axes.axhline(truth, color=COLOURS[1], linewidth=1.2, linestyle=":", label="truth")
        lost = summary["sign_lost"]["interval"]
        if lost is not None and lost <= lambdas[-1]:
            axes.axvline(lost, **_DASHED)
        axes.set_xscale("log")
        ticks = lambdas[:1]
        for value in lambdas[1:]:  # labels that would not touch
            if value / ticks[-1] > (lambdas[-1] / lambdas[0]) ** 0.1:
                ticks.append(value)
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.minorticks_off()
        axes.set_xlabel("Lambda (odds ratio, log scale); dashed: the sign is lost")
        axes.set_ylabel("average effect of carting")
        axes.legend(frameon=False)

    return svg("Sensitivity", draw)
