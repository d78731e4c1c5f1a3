"""The simulated world from outside: its events keep the contract and agree with its truth."""

import argparse
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.core.files import sha256, verify_manifest
from cmdcm.datasets import simulator
from cmdcm.datasets.calendar import DAY_MS, PromotionCalendar, yearly
from cmdcm.datasets.events import check_schema
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.simulation.world import World
from cmdcm.jobs.commands import simulate as command

PAIR = ["user_id", "item_id"]
EVENTS = 300_000


@dataclass(frozen=True)
class Simulated:
    """A world that was written, and the labels of its truth rows made from the events alone."""

    output: Path
    summary: dict[str, Any]
    events: pl.DataFrame
    rows: pl.DataFrame
    calendar: PromotionCalendar

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.rows[column].to_numpy()


def config_of(*overrides: str) -> Config:
    return load_config(overrides=[f"simulate.{override}" for override in overrides])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    output = tmp_path_factory.mktemp("simulated")
    summary = simulator.simulate(output, config_of(f"events={EVENTS}"))
    events = _read(output / "events").with_columns(pl.col("kind").cast(pl.String))
    calendar = yearly(["618", "double11", "double12"], [2023, 2024], "Asia/Shanghai")
    return Simulated(
        output, summary, events, _label(events, _read(output / "truth"), calendar), calendar
    )


def _read(directory: Path) -> pl.DataFrame:
    table = pl.read_parquet(directory / "part-*.parquet")
    return table.with_columns(ms=pl.col("timestamp").dt.epoch("ms"))


def _label(events: pl.DataFrame, truth: pl.DataFrame, calendar: PromotionCalendar) -> pl.DataFrame:
    """Labels by the definition, without any of the project's label code."""
    parts = []
    ms, kind = pl.col("ms"), pl.col("kind")
    for number, (opens, start, end) in enumerate(calendar.bounds().tolist()):
        clicks = truth.filter(ms.is_between(opens, start, closed="left"))
        season = events.filter(ms.is_between(opens, end, closed="left"))
        pairs = season.group_by(PAIR).agg(
            last_bought=ms.filter((kind == "purchase") & (ms < start)).max(),
            last_carted=ms.filter((kind == "cart") & (ms < start)).max(),
            bought_on_days=((kind == "purchase") & (ms >= start)).any(),
        )
        part = clicks.join(pairs, on=PAIR, how="left").with_columns(
            promotion=pl.lit(number),
            days_left=(start - ms) / DAY_MS,
            direct=(pl.col("last_bought") >= ms).fill_null(False),
            cart=(pl.col("last_carted") >= ms).fill_null(False),
        )
        for name in ("click", "favourite"):
            others = season.filter(kind == name).select(*PAIR, other=ms)
            earlier = clicks.select(*PAIR, "ms").join(others, on=PAIR).filter(pl.col("other") < ms)
            counts = earlier.group_by(*PAIR, "ms").agg(pl.len().alias(f"earlier_{name}s"))
            part = part.join(counts, on=[*PAIR, "ms"], how="left")
        parts.append(part)
    rows = pl.concat(parts).with_columns(
        pl.col("earlier_clicks", "earlier_favourites").fill_null(0),
        delayed=~pl.col("direct") & pl.col("bought_on_days"),
    )
    assert len(rows) == len(truth)
    return rows


def _z(world: Simulated, outcome: str, p: npt.NDArray[Any], chosen: npt.NDArray[Any]) -> float:
    """Standard errors between label frequency and mean p; clicks of one visit share the label."""
    residual = world.rows.with_columns(residual=world[outcome] - p).filter(chosen)
    visits = residual.group_by([*PAIR, "promotion"]).agg(pl.col("residual").sum())
    sums = visits["residual"].to_numpy()
    assert len(sums) > 200
    return float(sums.sum() / np.sqrt((sums**2).sum()))


def test_events_keep_the_contract(world: Simulated):
    log = open_event_log(world.output / "events")
    check_schema(log.schema, "events")
    assert list(log.schema.names) == [
        *(*PAIR, "kind", "timestamp", "category_id", "seller_id", "brand_id", "price"),
        *("quantity", "detail"),
    ]
    verify_manifest(world.output / "events")
    events = world.events
    counted = events["kind"].is_in(["cart", "purchase", "refund"])
    assert (events["quantity"].is_not_null() == counted).all()
    assert (events["detail"].is_not_null() == (events["kind"] == "micro")).all()
    assert (events["price"] > 0).all()
    assert 0 < events["brand_id"].null_count() < 0.2 * len(events)
    assert events.drop("ms").is_duplicated().sum() < 1e-4 * len(events)
    per_item = events.group_by("item_id").agg(pl.col("category_id", "seller_id").n_unique())
    assert per_item["category_id"].max() == per_item["seller_id"].max() == 1


@pytest.mark.parametrize("size", [5_000, 40_000])
def test_number_of_events_is_near_the_configured_one(size: int):
    world = World.open(config_of(f"events={size}"))
    chunks = range(simulator.chunk_count(world))
    drawn = sum(simulator.draw_chunk(world, n).events.num_rows for n in chunks)
    assert abs(drawn / size - 1) < 0.15


def test_magnitudes(world: Simulated):
    rates = world.summary["rates"]
    assert abs(world.summary["rows"] / EVENTS - 1) < 0.15
    assert 0.20 < len(world.rows) / len(world.events) < 0.30
    assert 0.015 < rates["direct"] < 0.020
    assert 0.06 < rates["cart"] < 0.08
    assert 0.006 < rates["delayed"] < 0.010
    for label, rate in rates.items():
        assert rate == pytest.approx(world[label].mean(), rel=1e-12)
    opened = world["cart"] & ~world["direct"]
    assert 0.06 < world["delayed"][opened].mean() < 0.10
    # Carting is selected: carts that were made are bought more than the others would have been.
    assert world["r1"][opened].mean() > 1.3 * world["r1"][~world["direct"]].mean()


def test_truth_is_kept_apart_and_has_a_key(world: Simulated):
    assert {path.name for path in world.output.iterdir()} == {"events", "truth"}
    verify_manifest(world.output / "truth")
    truth = _read(world.output / "truth").columns
    assert set(truth) & set(world.events.columns) == {*PAIR, "timestamp", "ms"}
    keys = world.rows.select(*PAIR, "ms")
    assert not keys.is_duplicated().any()
    clicks = world.events.filter(pl.col("kind") == "click")
    in_window = [
        clicks.filter(pl.col("ms").is_between(opens, start, closed="left"))
        for opens, start, _ in world.calendar.bounds().tolist()
    ]
    windows = pl.concat(in_window).select(*PAIR, "ms")
    assert windows.sort(*PAIR, "ms").equals(keys.sort(*PAIR, "ms"))


def test_truth_is_coherent(world: Simulated):
    mixed = world["propensity"] * world["r1"] + (1 - world["propensity"]) * world["r0"]
    np.testing.assert_allclose(world["p_delayed"], (1 - world["p_direct"]) * mixed, rtol=1e-12)
    np.testing.assert_allclose(
        world["p_conversion"], world["p_direct"] + world["p_delayed"], rtol=1e-12
    )
    for name in ("p_direct", "propensity", "p_cart", "r1", "r0", "p_delayed", "p_conversion"):
        assert world[name].min() >= 0
        assert world[name].max() < 1
    assert (world["p_direct"] == 0).mean() < 1e-3  # only with seconds to go


SLICES = {
    "all": lambda w: w["ms"] > 0,
    "first click": lambda w: w["earlier_clicks"] == 0,
    "repeated click": lambda w: w["earlier_clicks"] > 0,
    "favourite before": lambda w: w["earlier_favourites"] > 0,
    "last day": lambda w: w["days_left"] < 1,
    "first three days": lambda w: w["days_left"] > 7,
    "second year": lambda w: w["promotion"] >= 3,
    "even users": lambda w: w["user_id"] % 2 == 0,
}


@pytest.mark.parametrize("name", SLICES)
def test_probabilities_are_true_in_slices_known_at_the_click(world: Simulated, name: str):
    chosen = SLICES[name](world)
    for outcome, p in (("direct", "p_direct"), ("cart", "p_cart"), ("delayed", "p_delayed")):
        assert abs(_z(world, outcome, world[p], chosen)) < 4, outcome


@pytest.mark.parametrize("outcome", ["direct", "cart", "delayed"])
def test_probabilities_are_true_at_each_level(world: Simulated, outcome: str):
    p = world[f"p_{outcome}"]
    level = np.searchsorted(np.quantile(p, [0.25, 0.5, 0.75, 0.95]), p)
    for value in range(5):
        assert abs(_z(world, outcome, p, level == value)) < 4, value


def test_transition_probabilities_are_true_by_arm(world: Simulated):
    undecided = ~world["direct"]
    assert abs(_z(world, "cart", world["propensity"], undecided)) < 4
    assert abs(_z(world, "delayed", world["r1"], undecided & world["cart"])) < 4
    assert abs(_z(world, "delayed", world["r0"], undecided & ~world["cart"])) < 4


def test_refunds_give_back_what_was_bought(world: Simulated):
    kind = pl.col("kind")
    purchases = world.events.filter(kind == "purchase")
    refunds = world.events.filter(kind == "refund")
    assert 0.04 < len(refunds) / len(purchases) < 0.12
    pieces = ["price", "quantity"]
    earlier = refunds.join(purchases, on=[*PAIR, *pieces], suffix="_of_purchase").filter(
        pl.col("ms") > pl.col("ms_of_purchase")
    )
    assert earlier.select(*PAIR, "ms").n_unique() == len(refunds)
    # What was bought at a reduced price comes back more often.
    bounds = world.calendar.bounds()
    days = pl.any_horizontal(
        pl.col("ms").is_between(start, end, closed="left") for _, start, end in bounds.tolist()
    )
    refunded = purchases.join(refunds.select(*PAIR, back=True).unique(), on=PAIR, how="left")
    shares = refunded.group_by(days=days).agg(pl.col("back").fill_null(False).mean())
    by_days = dict(shares.iter_rows())
    assert by_days[True] > 1.2 * by_days[False]


def test_potential_outcomes_agree_with_the_events(world: Simulated):
    undecided, carted, delayed = ~world["direct"], world["cart"], world["delayed"]
    assert np.array_equal(delayed[undecided & carted], world["l1"][undecided & carted])
    assert np.array_equal(delayed[undecided & ~carted], world["l0"][undecided & ~carted])
    # The outcome not seen is drawn too, in both arms.
    assert world["l1"][undecided & ~carted].sum() > 100
    assert world["l1"].mean() == pytest.approx(world["r1"].mean(), rel=0.1)


def _auc(label: npt.NDArray[Any], score: npt.NDArray[Any]) -> float:
    rank = pl.Series(score).rank().to_numpy()
    positives = label.sum()
    pairs = positives * (len(label) - positives)
    return float((rank[label].sum() - positives * (positives + 1) / 2) / pairs)


def test_the_oracle_ranks_conversions_well(world: Simulated):
    conversion = world["direct"] | world["delayed"]
    assert 0.78 < _auc(conversion, world["p_conversion"]) < 0.87


def test_traffic_ramps_up_and_spikes(world: Simulated):
    day = pl.col("timestamp").dt.convert_time_zone("Asia/Shanghai").dt.date()
    kind = pl.col("kind")
    days = world.events.group_by(day=day.cast(pl.String)).agg(
        clicks=(kind == "click").sum(),
        carts=(kind == "cart").sum(),
        purchases=(kind == "purchase").sum(),
    )

    def total(column: str, first: str, last: str) -> float:
        chosen = days.filter(pl.col("day").is_between(pl.lit(first), pl.lit(last)))
        return float(chosen[column].to_numpy().mean())

    ordinary = ("2024-08-01", "2024-09-30")
    warmup, window = ("2024-10-20", "2024-10-31"), ("2024-11-01", "2024-11-10")
    eve, promotion = ("2024-11-10",) * 2, ("2024-11-11",) * 2
    clicks = [total("clicks", *span) for span in (ordinary, warmup, window, eve, promotion)]
    assert clicks == sorted(clicks)
    assert clicks[-1] > 8 * clicks[0]
    assert total("clicks", "2024-11-12", "2024-11-20") < 1.5 * clicks[0]

    def per_click(column: str, span: tuple[str, str]) -> float:
        return total(column, *span) / total("clicks", *span)

    # Before the promotion people cart and wait; then they buy, also what they had carted.
    assert per_click("carts", window) > 1.15 * per_click("carts", ordinary)
    assert per_click("purchases", window) < 0.9 * per_click("purchases", ordinary)
    assert per_click("purchases", promotion) > 2 * per_click("purchases", ordinary)


def test_traffic_has_a_daily_rhythm(world: Simulated):
    hours = world.events["timestamp"].dt.convert_time_zone("Asia/Shanghai").dt.hour()
    by_hour = np.bincount(hours.to_numpy(), minlength=24)
    assert by_hour[21] > 4 * by_hour[4]


def test_people_wait_for_midnight(world: Simulated):
    hour = 60 * 60 * 1000
    clicks = world.events.filter(pl.col("kind") == "click")["ms"].to_numpy()
    after = np.concatenate([clicks - start for start in world.calendar.bounds()[:, 1]]) // hour
    assert (after == 0).sum() > 4 * np.isin(after, [2, 3]).sum()


def test_promotion_days_have_reduced_prices(world: Simulated):
    _, start, end = world.calendar.bounds()[4].tolist()
    priced = world.events.filter(pl.col("kind") != "refund")
    on_day = priced.filter(pl.col("ms").is_between(start, end, closed="left"))
    bounds = world.calendar.bounds()
    outside = (pl.col("ms") < int(bounds[0, 1])) | (pl.col("ms") >= int(bounds[-1, 2]))
    ordinary = priced.filter(outside)
    prices = (
        on_day.group_by("item_id")
        .agg(day=pl.col("price").unique())
        .join(ordinary.group_by("item_id").agg(ordinary=pl.col("price").unique()), on="item_id")
    )
    assert (prices["day"].list.len() == 1).all()
    assert (prices["ordinary"].list.len() == 1).all()
    share = prices["day"].list.first() / prices["ordinary"].list.first()
    assert share.is_between(0.49, 0.96).all()


def test_history_tells_who_buys_the_cart(world: Simulated):
    opened = world.rows.filter(pl.col("cart") & ~pl.col("direct"))
    earlier = opened.join(opened, on="user_id", suffix="_before").filter(
        pl.col("promotion_before") < pl.col("promotion")
    )
    history = earlier.group_by("user_id", "promotion").agg(
        bought_before=pl.col("delayed_before").any(), bought=pl.col("delayed").mean()
    )
    bought = dict(history.group_by("bought_before").agg(pl.col("bought").mean()).iter_rows())
    assert bought[True] > 1.4 * bought[False]


def test_users_keep_arriving(world: Simulated):
    first = world.events.group_by("user_id").agg(pl.col("ms").min())["ms"]
    middle = int(world.calendar.bounds()[3, 0])
    assert 0.1 < (first > middle).to_numpy().mean() < 0.4


def _hashes(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): sha256(path) for path in files}


def test_same_seed_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(simulator, "EVENTS_PER_CHUNK", 4_000)
    config = config_of("events=10000")
    for name in ("one", "two"):
        simulator.simulate(tmp_path / name, config)
    other = config.model_copy(update={"seed": 2})
    simulator.simulate(tmp_path / "other", other)
    hashes = _hashes(tmp_path / "one")
    assert len([name for name in hashes if name.startswith("truth/part")]) == 3
    assert hashes == _hashes(tmp_path / "two")
    different = _hashes(tmp_path / "other")
    assert different.keys() == hashes.keys()
    assert not set(different.values()) & set(hashes.values())


def test_chunks_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(simulator, "EVENTS_PER_CHUNK", 4_000)
    world = World.open(config_of("events=10000"))
    forwards = [simulator.draw_chunk(world, number) for number in (0, 1, 2)]
    backwards = [simulator.draw_chunk(world, number) for number in (2, 1, 0)][::-1]
    users = [set(chunk.events["user_id"].to_pylist()) for chunk in forwards]
    assert not users[0] & users[1]
    assert not users[1] & users[2]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.events.equals(other.events)
        assert one.truth.equals(other.truth)
        times = one.events["timestamp"].to_numpy()
        assert (np.diff(times) >= np.timedelta64(0)).all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("promotions=['singles_day']", "unknown kind of promotion 'singles_day'"),
        ("promotions=['618', '618']", "618"),
        ("start='2023-01-01'", "start and end should be given together"),
        ("daily_traffic=[1, 2]", "should have 731 values, one for each day"),
        ("daily_traffic=[1, 0]", "daily_traffic"),
        ("direct_delays=[[30, 0], [20, 1]]", "direct_delays should be pairs"),
        ("direct_delays=[]", "direct_delays should be pairs"),
        ("events=10", "events"),
        ("confounding=0.5", "confounding"),
        ("direct_rate=0.2", "cart_rate should exceed direct_rate"),
    ],
)
def test_bad_settings(override: str, message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        simulator.simulate(tmp_path / "world", config_of("events=2000", override))
    assert not (tmp_path / "world").exists()


def test_overwrites_only_when_told(tmp_path: Path):
    config = config_of("events=2000")
    (tmp_path / "model").mkdir()
    simulator.simulate(tmp_path, config)
    before = _hashes(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        simulator.simulate(tmp_path, config.model_copy(update={"seed": 2}))
    assert _hashes(tmp_path) == before
    simulator.simulate(tmp_path, config.model_copy(update={"seed": 2}), overwrite=True)
    assert _hashes(tmp_path) != before
    assert (tmp_path / "model").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draw = simulator.draw_chunk

    def fill(world: World, chunk: int) -> simulator.Chunk:
        if chunk == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return draw(world, chunk)

    monkeypatch.setattr(simulator, "EVENTS_PER_CHUNK", 1_000)
    monkeypatch.setattr(simulator, "draw_chunk", fill)
    with pytest.raises(OutputError, match="no space left"):
        simulator.simulate(tmp_path / "world", config_of("events=2000"))
    assert not list((tmp_path / "world").iterdir())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--output", str(tmp_path / "world")])
    assert command.run(args, config_of("events=2000")) == 0
    printed = capsys.readouterr().out
    manifest = open_event_log(tmp_path / "world" / "events").manifest
    lines = [line.split() for line in printed.splitlines()]
    assert ["events", f"{manifest['rows']:,}"] in lines
    for kind, rows in manifest["rows_by_kind"].items():
        assert [kind, f"{rows:,}"] in lines
    assert ["users", f"{manifest['users']:,}"] in lines
    assert [line[0] for line in lines if line[-1] == "%"] == ["direct", "cart", "delayed"]
    with pytest.raises(OutputError, match="--overwrite"):
        command.run(args, config_of("events=2000"))
