"""The back-test's figures: each model on each promotion and day, and retraining's paired gain."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from cmdcm.core.config import EvaluationConfig
from cmdcm.jobs.backtest.replay import RETRAINED
from cmdcm.model.bootstrap import UserBootstrap
from cmdcm.model.predictions import HEADS, Mask, check_predictions

METRICS = ("auc", "log_loss", "pcoc")
COMPARED = ("auc", "log_loss")
EVERY = "all"
"""Stands for all days of a promotion, or all promotions."""


def figures(
    frames: Mapping[str, Mapping[str, pl.DataFrame]], config: EvaluationConfig, seed: int
) -> pl.DataFrame:
    """Returns one row for each promotion, day, head, model and metric.

    Args:
        frames: Promotion -> kind of model -> predictions on the same clicks.
        config: Bootstrap.
        seed: Of its draws.

    Returns:
        `promotion`, `day` (`all` for the whole window), `head`, `model`, `metric`, `rows`,
        `positives`, `estimate`, `lower`, `upper`; and `difference`, `difference_lower`,
        `difference_upper`, the paired difference of the retrained model to this one (None for
        itself). Rows of the promotion `all` pool the promotions that have all kinds of model.
    """
    rows: list[dict[str, Any]] = []
    for promotion, models in frames.items():
        check_predictions(models)
        rows += _rows(promotion, models, config, seed, days=True)
    pooled = _pooled(frames)
    if len(frames) > 1 and pooled:
        rows += _rows(EVERY, pooled, config, seed, days=False)
    return pl.DataFrame(rows, infer_schema_length=None)


def _pooled(frames: Mapping[str, Mapping[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    kinds = list(dict.fromkeys(kind for models in frames.values() for kind in models))
    whole = [models for models in frames.values() if set(models) == set(kinds)]
    if not whole:
        return {}
    columns = {
        kind: [c for c in whole[0][kind].columns if all(c in m[kind].columns for m in whole)]
        for kind in kinds
    }
    return {kind: pl.concat([m[kind].select(columns[kind]) for m in whole]) for kind in kinds}


def _rows(
    promotion: str,
    models: Mapping[str, pl.DataFrame],
    config: EvaluationConfig,
    seed: int,
    *,
    days: bool,
) -> Iterator[dict[str, Any]]:
    clicks = next(iter(models.values()))
    users = clicks["user_id"].to_numpy()
    boot = UserBootstrap(users, config.bootstrap, seed, config.confidence)
    parts: list[tuple[str, Mask | None]] = [(EVERY, None)]
    if days:
        day = clicks["day"].cast(pl.String)
        parts += [(d, (day == d).to_numpy()) for d in day.unique().sort()]
    for name, mask in parts:
        for head in HEADS:
            yield from _of_head(promotion, name, mask, head, models, boot)


def _of_head(
    promotion: str,
    day: str,
    mask: Mask | None,
    head: str,
    models: Mapping[str, pl.DataFrame],
    boot: UserBootstrap,
) -> Iterator[dict[str, Any]]:
    measured = {}
    labels = next(iter(models.values()))[head].to_numpy()
    for kind, frame in models.items():
        if f"p_{head}" in frame.columns:
            scores = frame[f"p_{head}"].clip(upper_bound=1).to_numpy()
            measured[kind] = boot.metrics(labels, scores, rows=mask)
    held = labels if mask is None else labels[mask]
    for kind, result in measured.items():
        intervals = boot.intervals(result)
        for metric in METRICS:
            row: dict[str, Any] = {
                "promotion": promotion,
                "day": day,
                "head": head,
                "model": kind,
                "metric": metric,
                "rows": len(held),
                "positives": int(np.sum(held)),
                **intervals[metric].to_json(),
                "difference": None,
                "difference_lower": None,
                "difference_upper": None,
            }
            if kind != RETRAINED and RETRAINED in measured and metric in COMPARED:
                paired = boot.difference(measured[RETRAINED], result, metric)
                row |= {
                    "difference": paired.estimate,
                    "difference_lower": paired.lower,
                    "difference_upper": paired.upper,
                }
            yield row


def decisions(replayed: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns what the gate decided before each promotion."""
    return [
        {
            "promotion": r.promotion,
            "as_of": r.as_of,
            "outcome": "accepted" if r.decision.outcome == "stopped" else r.decision.outcome,
            "reason": _why(r.decision),
            "models": sorted(r.models),
        }
        for r in replayed
    ]


def _why(decision: Any) -> str:
    if decision.outcome != "stopped":
        return str(decision.reason)
    checks = decision.record["steps"]["gate"]["summary"]["checks"]
    return f"{checks['pass']} checks kept, {checks['warn']} warnings"
