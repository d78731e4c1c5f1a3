"""Evaluation of models on the same test clicks: per head, by slice, with paired comparisons.

The input is one frame of predictions for each model, a row for each click. All frames hold the same
clicks in the same order, so that every difference between two models is a paired one. The result
is a JSON-ready dictionary (lists, dictionaries, strings, numbers, None) that `cmdcm.jobs.report`
renders; docs/evaluation.md describes its keys.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from absl import logging

from cmdcm.core.config import EvaluationConfig
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_json, staged_file, write_json
from cmdcm.model.bootstrap import Interval, Replicated, UserBootstrap
from cmdcm.model.causal.summary import (
    Provenance,
    calibration_curve,
    causal_summary,
    has_outputs,
)
from cmdcm.model.evaluation_notes import explanation, notes
from cmdcm.model.multiplicity import adjusted
from cmdcm.model.predictions import (
    ALL_HEADS,
    UNCALIBRATED,
    check_predictions,
    heads_of,
    slice_masks,
)

KIND = "evaluation"
DIFFERENCES = ("auc", "pr_auc", "gauc", "log_loss", "normalised_entropy")
"""Metrics in which models are compared: PCOC has no direction, resampling distorts ECE."""
HIGHER_IS_BETTER = ("auc", "pr_auc", "gauc")

ORACLE, VANILLA = "oracle", "vanilla"
"""Names of the anchors of the relative improvement; the oracle does not compete for `best`."""

_DELAY_HOURS = (0, 1 / 6, 1, 3, 6, 12, 24, 48, 72, 120, 168, 240, 336, 720)


def evaluate(
    predictions: Mapping[str, pl.DataFrame],
    config: EvaluationConfig,
    seed: int,
    baseline: str | None = None,
    provenance: Mapping[str, Provenance] | None = None,
) -> dict[str, Any]:
    """Evaluates models on the same clicks.

    Args:
        predictions: Model -> its predictions, as `cmdcm.model.predictions` describes them.
        config: Bootstrap, bins and slices.
        seed: Seed of the bootstrap.
        baseline: The model that the others are compared with, or None for no comparison.
        provenance: Model -> how it came about; a model without has no causal summary.

    Raises:
        DataError: Predictions that `check_predictions` refuses, a baseline that is not among the
            models, or a causal summary of days that the model was trained or stopped on.
    """
    check_predictions(predictions)
    if baseline is not None and baseline not in predictions:
        raise DataError(f"baseline {baseline!r} is not among the models {list(predictions)}")
    clicks = next(iter(predictions.values()))
    boot = UserBootstrap(clicks["user_id"].to_numpy(), config.bootstrap, seed, config.confidence)
    slices, left_out = slice_masks(clicks, config.min_slice_rows)
    truth = predictions.get(ORACLE)
    truth = truth if truth is not None and has_outputs(truth) else None
    models: dict[str, Any] = {}
    heads: dict[str, dict[str, Replicated]] = {head: {} for head in ALL_HEADS}
    for name, frame in predictions.items():
        logging.info("evaluating %s on %d clicks", name, len(frame))
        models[name] = {"heads": {}, "cart_effect": _cart_effect(frame), "causal": None}
        if provenance and name in provenance and has_outputs(frame):
            models[name]["causal"] = causal_summary(
                name, frame, provenance[name], truth, slices, boot, config, seed
            )
        for head in heads_of(frame):
            if f"p_{head}" not in frame.columns:
                continue
            whole, models[name]["heads"][head] = _head(frame, head, slices, boot, config)
            heads[head][name] = whole
    for head, results in heads.items():
        compared = _differences(results, baseline, boot, config.correction)
        for name in results:
            models[name]["heads"][head]["differences"] = compared.get(name, {})
    evaluation = {
        "kind": KIND,
        "settings": {**config.model_dump(mode="json"), "seed": seed, "gauc_weighting": "rows"},
        "baseline": baseline,
        "data": _data(clicks, boot.users),
        "model_names": list(predictions),
        "models": models,
        "best": {
            head: _best(results, boot, config.correction)
            for head, results in heads.items()
            if results
        },
        "relative_improvement": _relative_improvement(heads["conversion"], boot),
        "slices_left_out": left_out,
        "conversion_delay": _delays(clicks),
    }
    return {**evaluation, "notes": notes(evaluation)}


def save_evaluation(evaluation: Mapping[str, Any], path: Path) -> None:
    """Writes an evaluation as JSON."""
    with staged_file(path) as staging:
        write_json(staging, evaluation)


def load_evaluation(path: Path) -> dict[str, Any]:
    """Reads an evaluation that `save_evaluation` wrote.

    Raises:
        DataError: The file is missing, is not JSON, or holds something else.
    """
    value = read_json(path, "evaluation")
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise DataError(f"{path} does not hold an evaluation; `cmdcm evaluate` writes one")
    return value


def _head(
    frame: pl.DataFrame,
    head: str,
    slices: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    boot: UserBootstrap,
    config: EvaluationConfig,
) -> tuple[Replicated, dict[str, Any]]:
    labels = frame[head].to_numpy()

    def measured(
        rows: npt.NDArray[np.bool_] | None, column: str = f"p_{head}"
    ) -> tuple[Replicated, dict[str, Any]]:
        probabilities = frame[column].clip(upper_bound=1).to_numpy()
        result = boot.metrics(labels, probabilities, config.calibration_bins, rows=rows)
        held = labels if rows is None else labels[rows]
        summary = {
            "rows": len(held),
            "positives": int(held.sum()),
            "metrics": {name: i.to_json() for name, i in boot.intervals(result).items()},
        }
        return result, summary

    whole, summary = measured(None)
    summary["explanation"] = explanation(summary["rows"], summary["positives"])
    summary["calibration"] = calibration_curve(whole, boot)
    raw = f"{UNCALIBRATED}p_{head}"
    summary["uncalibrated"] = measured(None, raw)[1]["metrics"] if raw in frame.columns else None
    summary["slices"] = {
        dimension: [{"slice": value, **measured(rows)[1]} for value, rows in values.items()]
        for dimension, values in slices.items()
    }
    return whole, summary


def _differences(
    results: Mapping[str, Replicated], baseline: str | None, boot: UserBootstrap, correction: str
) -> dict[str, dict[str, Any]]:
    """Model -> metric -> paired difference to the baseline, p-values corrected over them all."""
    if baseline is None or baseline not in results:
        return {}
    entries = {
        name: {
            metric: _difference(result, results[baseline], metric, boot) for metric in DIFFERENCES
        }
        for name, result in results.items()
        if name != baseline
    }
    _correct([cell for metrics in entries.values() for cell in metrics.values()], correction)
    return entries


def _difference(
    of: Replicated, to: Replicated, metric: str, boot: UserBootstrap
) -> dict[str, float | None]:
    return {
        **boot.difference(of, to, metric).to_json(),
        "p_value": boot.p_value(of, to, metric),
    }


def _correct(differences: Sequence[dict[str, float | None]], correction: str) -> None:
    """Adds `adjusted_p_value`, corrected over all `differences`, to each."""
    p_values = adjusted([difference["p_value"] for difference in differences], correction)
    for difference, p_value in zip(differences, p_values, strict=True):
        difference["adjusted_p_value"] = p_value


def _best(
    results: Mapping[str, Replicated], boot: UserBootstrap, correction: str
) -> dict[str, Any]:
    """Metric -> best model and its paired difference to the runner-up, corrected over metrics."""
    best: dict[str, Any] = {}
    for metric in DIFFERENCES:
        sign = -1 if metric in HIGHER_IS_BETTER else 1
        ranked = sorted(
            (sign * estimate, name)
            for name, result in results.items()
            if name != ORACLE and (estimate := result.estimates[metric]) is not None
        )
        if len(ranked) < 2:
            continue
        (_, winner), (_, second) = ranked[:2]
        best[metric] = {
            "model": winner,
            "runner_up": second,
            "difference": _difference(results[winner], results[second], metric, boot),
        }
    _correct([entry["difference"] for entry in best.values()], correction)
    return best


def _relative_improvement(
    results: Mapping[str, Replicated], boot: UserBootstrap
) -> dict[str, Any] | None:
    """Share of the gap in conversion log loss from `vanilla` to `oracle` that a model closes."""
    if VANILLA not in results or ORACLE not in results:
        return None
    vanilla, oracle = results[VANILLA], results[ORACLE]
    gap = boot.difference(oracle, vanilla, "log_loss")
    models = {}
    for name, result in results.items():
        gain = boot.difference(result, vanilla, "log_loss").estimate
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates = (result.replicates["log_loss"] - vanilla.replicates["log_loss"]) / (
                oracle.replicates["log_loss"] - vanilla.replicates["log_loss"]
            )
        estimate = gain / gap.estimate + 0.0 if gain is not None and gap.estimate else None
        # A gap that may be zero makes a ratio without bounds.
        interval = boot.interval(estimate, replicates)
        models[name] = (interval if gap.excludes_zero else Interval(estimate, None, None)).to_json()
    return {
        "metric": "log_loss",
        "head": "conversion",
        "anchors": {"vanilla": VANILLA, "oracle": ORACLE},
        "gap": gap.to_json(),
        "gap_excludes_zero": gap.excludes_zero,
        "models": models,
    }


def _data(clicks: pl.DataFrame, users: int) -> dict[str, Any]:
    return {
        "rows": len(clicks),
        "users": users,
        "items": clicks["item_id"].n_unique(),
        "first_day": str(clicks["day"].min()),
        "last_day": str(clicks["day"].max()),
        "promotions": clicks["promotion"].unique().sort().to_list(),
        "positives": {head: int(clicks[head].sum()) for head in heads_of(clicks)},
    }


def _cart_effect(frame: pl.DataFrame) -> dict[str, float] | None:
    """Distribution of the predicted effect of carting; it has no label to be compared with."""
    if "cart_effect" not in frame.columns:
        return None
    effect = frame["cart_effect"].to_numpy().astype(np.float64)
    quantiles = np.quantile(effect, (0.05, 0.5, 0.95))
    return {
        "mean": float(effect.mean()),
        **{name: float(q) for name, q in zip(("p05", "p50", "p95"), quantiles, strict=True)},
        "positive_share": float((effect > 0).mean()),
    }


def _delays(clicks: pl.DataFrame) -> dict[str, Any]:
    """Histogram of hours from click to conversion, direct and delayed; last bin is open."""
    result: dict[str, Any] = {"edges_hours": list(_DELAY_HOURS)}
    for head in ("direct", "delayed"):
        delays = clicks.filter((pl.col(head) == 1) & (pl.col("conversion_delay_ms") >= 0))
        hours = delays["conversion_delay_ms"].to_numpy() / 3_600_000
        index = np.searchsorted(_DELAY_HOURS, hours, side="right") - 1
        result[head] = np.bincount(index, minlength=len(_DELAY_HOURS)).tolist()
        result[f"{head}_median_hours"] = float(np.median(hours)) if len(hours) else None
    return result
