"""Random frames of predictions with known true probabilities."""

from datetime import date, timedelta

import numpy as np
import polars as pl

HOUR_MS = 3_600_000


def predictions(
    rows: int = 2_000,
    days: int = 4,
    seed: int = 0,
    models: tuple[str, ...] = ("vanilla", "esmm", "cmdcm"),
    base_rate: float = 0.05,
) -> dict[str, pl.DataFrame]:
    """One frame a model: `vanilla` predicts direct purchases alone, the others with less noise."""
    random = np.random.default_rng(seed)
    users = (random.random(rows) ** 2 * (rows // 4)).astype(np.int64)
    taste = random.normal(0, 1, rows) + random.normal(0, 0.7, rows // 4 + 2)[users]
    day = np.sort(random.integers(0, days, rows))

    def probability(rate: float, score: np.ndarray) -> np.ndarray:
        return 1 / (1 + (1 - rate) / rate * np.exp(-score + 0.5))

    p_direct = probability(base_rate * 0.6, taste)
    p_cart = probability(base_rate * 2, taste)
    p_delayed = (1 - p_direct) * probability(base_rate * 0.4, taste + 0.1 * day)
    direct = random.random(rows) < p_direct
    delayed = ~direct & (random.random(rows) < p_delayed / (1 - p_direct))
    hours = np.where(direct, random.exponential(8, rows), 24 * (days - day) + random.uniform(0, 20))
    clicks = pl.DataFrame(
        {
            "user_id": users,
            "item_id": random.integers(0, rows // 2, rows),
            "click_time_ms": 1_700_000_000_000 + day * 24 * HOUR_MS,
            "day": [date(2024, 11, 1) + timedelta(days=int(d)) for d in day],
            "promotion": np.full(rows, "double11-2024"),
            "direct": direct.astype(np.int64),
            "cart": (random.random(rows) < p_cart).astype(np.int64),
            "delayed": delayed.astype(np.int64),
            "conversion": (direct | delayed).astype(np.int64),
            "conversion_delay_ms": np.where(direct | delayed, hours * HOUR_MS, -1).astype(np.int64),
            "user_history": random.geometric(0.05, rows) - 1,
            "hours_to_promotion": 24.0 * (days - day) - random.uniform(0, 24, rows),
        }
    )
    frames = {}
    for place, name in enumerate(models):
        noise = random.normal(0, 0.9 / (1 + place), rows)
        columns = {
            "p_direct": _shifted(p_direct, noise),
            "p_cart": _shifted(p_cart, noise),
            "p_delayed": _shifted(p_delayed, noise),
            "cart_effect": random.normal(0.02, 0.02, rows),
        }
        columns["p_conversion"] = np.minimum(columns["p_direct"] + columns["p_delayed"], 1)
        if name == "vanilla":
            columns = {"p_conversion": columns["p_direct"]}
        frames[name] = clicks.with_columns(
            pl.Series(column, values.astype(np.float32)) for column, values in columns.items()
        )
    return frames


def _shifted(probabilities: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + (1 / probabilities - 1) * np.exp(-logits))


def causal_predictions(rows: int = 4_000, seed: int = 0) -> dict[str, pl.DataFrame]:
    """The clicks of `predictions` with an effect of carting: `oracle` knows it.

    Of `cmdcm` the propensity is right and both outcomes are off.
    """
    random = np.random.default_rng(seed)
    (clicks,) = predictions(rows, seed=seed, models=("m",)).values()
    taste = random.normal(0, 1, rows) + random.normal(0, 0.5, rows)[clicks["user_id"].to_numpy()]
    e, r1, r0 = (1 / (1 + np.exp(a - 0.7 * taste)) for a in (1.2, 1.0, 3.0))
    open_ = clicks["direct"].to_numpy() == 0
    cart = random.random(rows) < e
    delayed = open_ & (random.random(rows) < np.where(cart, r1, r0))
    clicks = clicks.with_columns(
        cart=pl.Series(cart.astype(np.int64)),
        delayed=pl.Series(delayed.astype(np.int64)),
        conversion=pl.Series((delayed | ~open_).astype(np.int64)),
        conversion_delay_ms=pl.when(pl.Series(delayed | ~open_)).then(HOUR_MS).otherwise(-1),
    )
    outputs = {"oracle": (e, r1, r0), "cmdcm": (e, 0.8 * r1**1.5 + 0.1, 0.3 * r0 + 0.2)}
    return {
        name: clicks.with_columns(
            pl.Series(column, values.astype(np.float32))
            for column, values in {
                "propensity": a,
                "r1": one,
                "r0": zero,
                "cart_effect": one - zero,
                "p_delayed": (1 - clicks["p_direct"].to_numpy()) * (a * one + (1 - a) * zero),
            }.items()
        )
        for name, (a, one, zero) in outputs.items()
    }
