"""Each named world has what its name claims."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from cmdcm.core.config import Config, load_config, presets
from cmdcm.datasets import simulator
from cmdcm.datasets.calendar import calendar_of
from cmdcm.datasets.simulation.world import World

NAMES = ("confounded", "ignorable", "no_promotion", "shifted", "sparse", "taobao", "weak_overlap")
PAIR = ["user_id", "item_id"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """A world's events; and its truth at clicks that open a visit, with what the log shows there.

    Truth rows have `price`, `category_id`, `hours_left`, `promotion` (its number), `kind_of`
    (of promotion) and `cart`: carted, and not bought directly.
    """

    config: Config
    events: pl.DataFrame
    truth: pl.DataFrame

    def __getitem__(self, column: str) -> npt.NDArray[np.float64]:
        return self.truth[column].to_numpy()


@functools.cache
def draw(name: str, events: int = 120_000) -> Drawn:
    preset = "default" if name == "default" else f"world_{name}"
    config = load_config(preset=preset, overrides=[f"simulate.events={events}"])
    world = World.open(config)
    chunks = [simulator.draw_chunk(world, n) for n in range(simulator.chunk_count(world))]
    ms = pl.col("timestamp").dt.epoch("ms").alias("ms")
    log = pl.concat([pl.DataFrame(chunk.events) for chunk in chunks])
    log = log.with_columns(pl.col("kind").cast(pl.String), ms)
    truth = pl.concat([pl.DataFrame(chunk.truth) for chunk in chunks]).with_columns(ms)

    promotions = world.timeline.calendar.promotions
    kind = pl.col("kind")
    parts = []
    for number, p in enumerate(promotions):
        season = log.filter(
            pl.col("ms").is_between(p.warmup_start_ms, p.promotion_start_ms, closed="left")
        )
        opening = season.filter(kind == "click").group_by(PAIR).agg(pl.col("ms").min())
        done = season.group_by(PAIR).agg(cart=(kind == "cart").any() & ~(kind == "purchase").any())
        rows = truth.join(opening, on=[*PAIR, "ms"]).join(done, on=PAIR)
        parts.append(
            rows.with_columns(
                promotion=pl.lit(number),
                kind_of=pl.lit(p.kind),
                hours_left=(p.promotion_start_ms - pl.col("ms")) / 3.6e6,
            )
        )
    shown = (
        log.filter(kind == "click")
        .select(*PAIR, "ms", "price", "category_id")
        .unique([*PAIR, "ms"])
    )
    return Drawn(config, log, pl.concat(parts).join(shown, on=[*PAIR, "ms"], how="left"))


def logit(p: Floats) -> Floats:
    return np.log(p / (1 - p))


def fit(world: Drawn, target: Floats) -> Floats:
    """Least squares of a target on what the log shows of a click and its item."""
    columns = [np.log(world["price"])]
    for column in ("category_id", "kind_of"):
        for value in world.truth[column].unique(maintain_order=True):
            columns.append((world.truth[column] == value).to_numpy().astype(float))
            if column == "kind_of":
                columns.append(columns[-1] * world["hours_left"])
    x = np.stack(columns, axis=1)
    return np.asarray(x @ np.linalg.lstsq(x, target)[0])


def carted_against_others(world: Drawn, score: Floats) -> float:
    """Standard errors between r1 of carted and other clicks alike in a score, on 20 bins of it."""
    level = np.searchsorted(np.quantile(score, np.arange(0.05, 1, 0.05)), score)
    carted = world["cart"].astype(bool)
    difference = variance = 0.0
    for value in range(20):
        arms = [world["r1"][(level == value) & (carted == arm)] for arm in (True, False)]
        if min(map(len, arms)) < 5:
            continue
        weight = len(arms[0])
        difference += weight * (arms[0].mean() - arms[1].mean())
        variance += weight**2 * sum(arm.var() / len(arm) for arm in arms)
    return float(difference / np.sqrt(variance))


def test_all_names_are_presets():
    assert {name for name in presets() if name.startswith("world_")} == {
        f"world_{name}" for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_worlds_have_the_size_that_was_asked_for(name: str):
    world = draw(name)
    assert abs(len(world.events) / world.config.simulate.events - 1) < 0.15
    assert len(world.truth) > 3_000
    assert calendar_of(world.config.calendar).promotions


def test_ignorable_carts_depend_on_what_the_log_shows():
    world = draw("ignorable")
    residual = logit(world["propensity"]) - fit(world, logit(world["propensity"]))
    assert np.abs(residual).max() < 0.01
    default = draw("default")
    hidden = logit(default["propensity"]) - fit(default, logit(default["propensity"]))
    assert hidden.std() > 0.5


def test_ignorable_clicks_alike_have_the_same_r1_in_both_arms():
    world = draw("ignorable", 250_000)
    assert abs(carted_against_others(world, logit(world["propensity"]))) < 4
    # What the log shows does confound: without it the arms differ.
    assert carted_against_others(world, np.zeros(len(world.truth))) > 5
    # In the default world the arms differ even given all that the log shows of click and item.
    default = draw("default")
    assert carted_against_others(default, fit(default, logit(default["propensity"]))) > 6


def test_ignorable_potential_outcomes_have_their_means_in_bins_of_what_is_seen():
    world = draw("ignorable", 250_000)
    carted, e = world["cart"].astype(bool), world["propensity"]
    edges = np.quantile(world["price"], [0.25, 0.5, 0.75])
    level = np.searchsorted(edges, world["price"])
    for value in range(4):
        seen = (level == value) & carted
        # Weighted by the propensity, seen outcomes stand for all; carts come from clicks that were
        # not bought directly, in proportion e (1 - P(D)).
        weight = 1 / (e * (1 - world["p_direct"]))[seen]
        mean = world["r1"][level == value].mean()
        error = (weight * (world["l1"][seen] - mean)).sum()
        # The factor 1.5 allows for users, whose clicks are alike.
        assert abs(error) < 4 * 1.5 * np.sqrt((weight**2).sum() * mean), value


def test_confounded_odds_differ_by_gamma():
    world = draw("confounded", 250_000)
    gamma = world.config.simulate.confounding
    assert gamma == 3
    residual = logit(world["propensity"]) - fit(world, logit(world["propensity"]))
    np.testing.assert_allclose(np.abs(residual), np.log(gamma) / 2, atol=0.15)
    assert np.abs(residual).mean() == pytest.approx(np.log(gamma) / 2, abs=0.01)
    assert (residual > 0).mean() == pytest.approx(0.5, abs=0.02)
    # Given all that is seen, carted clicks have a higher r1 still.
    assert carted_against_others(world, fit(world, logit(world["propensity"]))) > 4.5


def test_weak_overlap_has_propensities_near_zero():
    weak, ignorable = draw("weak_overlap"), draw("ignorable")
    assert (weak["propensity"] < 0.03).mean() > 1.5 * (ignorable["propensity"] < 0.03).mean()
    assert (weak["propensity"] < 0.005).mean() > 0.05
    assert (ignorable["propensity"] < 0.005).mean() < 0.02
    assert logit(weak["propensity"]).std() > 2 * logit(ignorable["propensity"]).std()
    assert weak["propensity"].mean() == pytest.approx(ignorable["propensity"].mean(), rel=0.2)
    residual = logit(weak["propensity"]) - fit(weak, logit(weak["propensity"]))
    assert np.abs(residual).max() < 0.03


def test_shifted_rates_change_from_year_to_year():
    def change(name: str) -> Floats:
        """Change of log-odds from a promotion to that of its kind a year later."""
        columns = ("p_direct", "propensity", "r1", "r0")
        means = draw(name).truth.group_by("promotion").agg(pl.col(columns).mean())
        level = logit(means.sort("promotion").select(columns).to_numpy())
        return np.abs(level[3:] - level[:3])

    assert change("default").max() < 0.35
    assert change("shifted").mean() > 2.5 * change("default").mean()


def test_sparse_users_and_items_have_few_events():
    for column in PAIR:
        few, many = (
            draw(name).events.group_by(column).len()["len"].to_numpy()
            for name in ("sparse", "default")
        )
        assert 2.5 * np.median(few) < np.median(many)


def test_promotions_without_effect_are_ordinary_days():
    world = draw("no_promotion")
    prices = world.events.group_by("item_id").agg(pl.col("price").n_unique())["price"]
    assert (prices == 1).all()
    windows = calendar_of(world.config.calendar).bounds()[:, :2].tolist()
    inside = pl.any_horizontal(
        pl.col("ms").is_between(opens, closes, closed="left") for opens, closes in windows
    )
    day = pl.col("timestamp").dt.convert_time_zone("Asia/Shanghai").dt.date()
    kind = pl.col("kind")
    counts = world.events.group_by(inside=inside).agg(
        clicks_a_day=(kind == "click").sum() / day.n_unique(),
        carts_a_click=(kind == "cart").sum() / (kind == "click").sum(),
    )
    before, ordinary = counts.sort("inside", descending=True).drop("inside").rows()
    assert before == pytest.approx(ordinary, rel=0.15)
    # Beside the placebo, carting still is what it is elsewhere.
    assert world["r1"].mean() > 3 * world["r0"].mean()
