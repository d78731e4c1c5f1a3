"""What an evaluation says of one model's transition: estimates, diagnostics, sensitivity.

docs/causal.md says what each number is and what it cannot say, docs/evaluation.md its place in
`evaluation.json`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cmdcm.core.config import EvaluationConfig
from cmdcm.model.bootstrap import Interval, Replicated, UserBootstrap
from cmdcm.model.causal.overlap import overlap
from cmdcm.model.causal.rows import ARMS, OUTPUTS, CausalRows, causal_rows
from cmdcm.model.causal.sensitivity import LARGEST, Sensitivity
from cmdcm.model.causal.targeting import (
    POPULATIONS,
    Targeted,
    check_held_out,
    days_of,
    population_weights,
    targeted,
)
from cmdcm.model.multiplicity import adjusted

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Provenance:
    """What a causal summary must know of a model besides its predictions.

    Attributes:
        seen_days: ISO days that the model was trained or stopped on.
        clip: Lower bound of P(arm | x) in the weights.
        balance: Covariate balance under its propensities (`Balance.result`).
    """

    seen_days: frozenset[str]
    clip: float
    balance: tuple[Mapping[str, Any], ...] = ()


def causal_summary(
    name: str,
    frame: pl.DataFrame,
    provenance: Provenance,
    truth: pl.DataFrame | None,
    slices: Mapping[str, Mapping[str, Mask]],
    boot: UserBootstrap,
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """Summarises the transition of a model that predicts `OUTPUTS`.

    Args:
        name: Name of the model, for messages.
        frame: Its predictions.
        provenance: How it came about.
        truth: Predictions of the true probabilities for the same clicks, or None.
        slices: Dimension -> slice -> mask of its clicks.
        boot: Draws of the clicks' users.
        config: Folds, bins, lambdas, correction.
        seed: Of the folds.

    Raises:
        DataError: The clicks are of days that the model was trained or stopped on.
    """
    check_held_out(days_of(frame), provenance.seen_days, name)
    view = _View(frame, truth, provenance.clip, boot, config, seed)
    whole = np.ones(len(frame), bool)
    summary = {
        "clip": provenance.clip,
        "folds": config.targeting_folds,
        "largest_lambda": LARGEST,
        **view.part(whole, list(config.lambdas)),
        "observed": view.observed(),
        "overlap": overlap(view.rows, provenance.clip),
        "balance": list(provenance.balance),
        "calibration": view.calibration(),
        "slices": {
            dimension: [
                {"slice": value, **view.part(mask, list(config.lambdas))}
                for value, mask in values.items()
            ]
            for dimension, values in slices.items()
        },
    }
    _correct(summary, config.correction)
    return summary


class _View:
    """The clicks with D = 0 of one model's predictions, and their places among all."""

    def __init__(
        self,
        frame: pl.DataFrame,
        truth: pl.DataFrame | None,
        clip: float,
        boot: UserBootstrap,
        config: EvaluationConfig,
        seed: int,
    ) -> None:
        self.rows = causal_rows(frame)
        self.inside = frame["direct"].to_numpy() == 0
        self.places = np.flatnonzero(self.inside)
        self.truth = None if truth is None else causal_rows(truth)
        self.frame, self.clip, self.boot, self.config, self.seed = frame, clip, boot, config, seed

    def part(self, mask: Mask, lambdas: list[float]) -> dict[str, Any]:
        """Everything that a slice has too; `mask` is over all clicks."""
        kept = mask[self.inside]
        rows = self.rows[kept]
        populations, everyone = {}, None
        for population in POPULATIONS:
            result = targeted(
                rows,
                population,
                clip=self.clip,
                folds=self.config.targeting_folds,
                seed=self.seed,
                confidence=self.config.confidence,
            )
            populations[population] = result.to_json()
            if self.truth is not None:
                for key, true in _true(rows, self.truth[kept], population, self.clip).items():
                    populations[population][key]["truth"] = true
            everyone = result if population == "all" else everyone
        return {
            "rows": len(rows),
            "carted": int(rows.carted.sum()),
            "delayed_carted": int(rows.delayed[rows.carted].sum()),
            "delayed_uncarted": int(rows.delayed[~rows.carted].sum()),
            "populations": populations,
            "sensitivity": self._sensitivity(rows, self.places[kept], everyone, lambdas),
        }

    def _sensitivity(
        self,
        rows: CausalRows,
        places: npt.NDArray[np.int64],
        everyone: Targeted | None,
        lambdas: list[float],
    ) -> dict[str, Any] | None:
        outcomes = {} if everyone is None else everyone.outcomes
        defined = {arm: outcome for arm, outcome in outcomes.items() if outcome is not None}
        if len(defined) < len(ARMS):
            return None
        method = self.config.sensitivity
        bounds = Sensitivity(rows, places, defined, self.clip, method, self.boot)
        return {
            "bounds": [bounds.entry(lam) for lam in lambdas],
            "sign_lost": bounds.sign_lost(),
        }

    def observed(self) -> dict[str, float | None]:
        """The rates of delayed purchase by arm and their difference: no causal quantity."""
        rates = {
            f"r{arm}": float(self.rows.delayed[inside].mean()) if inside.any() else None
            for arm in ARMS
            for inside in [self.rows.arm(arm)]
        }
        one, zero = rates["r1"], rates["r0"]
        return {**rates, "effect": None if one is None or zero is None else one - zero}

    def calibration(self) -> dict[str, Any]:
        """Metrics and calibration curves of e, of r1 on carted, of r0 on uncarted clicks."""
        carted = self.frame["cart"].to_numpy() > 0
        cases = {
            "propensity": ("cart", self.inside),
            "r1": ("delayed", self.inside & carted),
            "r0": ("delayed", self.inside & ~carted),
        }
        summary = {}
        for output, (label, mask) in cases.items():
            labels = self.frame[label].to_numpy()
            replicated = self.boot.metrics(
                labels, self.frame[output].to_numpy(), self.config.calibration_bins, rows=mask
            )
            summary[output] = {
                "rows": int(mask.sum()),
                "positives": int(labels[mask].sum()),
                "metrics": {n: i.to_json() for n, i in self.boot.intervals(replicated).items()},
                "calibration": calibration_curve(replicated, self.boot),
            }
        return summary


def calibration_curve(of: Replicated, boot: UserBootstrap) -> list[dict[str, Any]]:
    """Returns the bins of a calibration curve with intervals of their rates."""
    curve = []
    columns = (c.tolist() for c in (of.bins.weight, of.bins.mean_prediction, of.bins.mean_label))
    for weight, prediction, rate, rates in zip(*columns, of.bin_rates, strict=True):
        # Resampling rows of one class would claim certainty about a rate of 0 or 1.
        interval = boot.interval(rate, rates) if 0 < rate < 1 else Interval(rate, None, None)
        curve.append(
            {"rows": int(weight), "mean_prediction": prediction, "rate": interval.to_json()}
        )
    return curve


def has_outputs(frame: pl.DataFrame) -> bool:
    """Whether predictions hold all that a causal summary needs."""
    return set(OUTPUTS) <= set(frame.columns)


def _true(
    rows: CausalRows, truth: CausalRows, population: str, clip: float
) -> dict[str, float | None]:
    """True averages over the population; that of `overlap` is weighted by the model's own e."""
    target, _ = population_weights(rows, population, clip)
    if not target.sum() > 0:
        return dict.fromkeys(("r1", "r0", "effect"))
    one, zero = (float(target @ truth.outcome(arm) / target.sum()) for arm in ARMS)
    return {"r1": one, "r0": zero, "effect": one - zero}


def _correct(summary: dict[str, Any], correction: str) -> None:
    """Adds `adjusted_p_value` to the effects: one table of populations, one of all slices."""
    tables: list[Iterator[dict[str, Any]]] = [
        (population["effect"] for population in summary["populations"].values()),
        (
            entry["populations"]["all"]["effect"]
            for entries in summary["slices"].values()
            for entry in entries
        ),
    ]
    for effects in map(list, tables):
        p_values = adjusted([effect["p_value"] for effect in effects], correction)
        for effect, p_value in zip(effects, p_values, strict=True):
            effect["adjusted_p_value"] = p_value
