"""The back-test on the small world: the real job at each as-of instant, and nothing dated later."""

import re
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from cmdcm.core.config import load_config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_json, verify_manifest
from cmdcm.jobs.backtest import replay as module
from cmdcm.jobs.backtest.replay import replay
from cmdcm.jobs.main import main, parse
from cmdcm.tests.jobs.retrain.test_end_to_end import SETTINGS

pytestmark = pytest.mark.slow
PROMOTIONS = ["double11-2024", "double12-2024"]


@pytest.fixture(scope="module")
def output(small_world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backtest") / "out"
    line = ["cmdcm", "backtest", "--output", str(folder), "--baseline", "vanilla"]
    line += ["--ordinary", "--lead-days", "2"]
    for promotion in PROMOTIONS:
        line += ["--promotion", promotion]
    # Requests that a server logged are of today: no job of then may ask for them.
    logged = 'retrain.replay=["requests-of-today.tfrecord"]'
    for setting in (*SETTINGS, f"retrain.events={small_world.events}", logged):
        line += ["--set", setting]
    assert main(parse(line)) == 0
    return folder


def test_it_reports_each_promotion_day_and_model(output):
    report = output / "report"
    verify_manifest(report)
    frame = pl.read_parquet(report / "results.parquet")
    kinds = {p: set(frame.filter(promotion=p)["model"]) for p in PROMOTIONS}
    assert kinds == {
        "double11-2024": {"retrained", "vanilla", "ordinary"},
        "double12-2024": {"retrained", "yesterday", "never", "vanilla", "ordinary"},
    }
    days = frame.filter(promotion="double12-2024")["day"].unique().to_list()
    assert len(days) > 3 and "all" in days
    decided = read_json(report / "decisions.json", "decisions")
    assert [(d["promotion"], d["outcome"]) for d in decided] == [
        (p, "accepted") for p in PROMOTIONS
    ]
    assert all(re.fullmatch(r"\d+ checks kept, \d+ warnings", d["reason"]) for d in decided)
    assert (report / "backtest.html").exists() and "by promotion" in (
        report / "backtest.md"
    ).read_text(encoding="utf-8")


def test_no_job_saw_an_event_dated_after_its_instant(output):
    folders = sorted((output / "work" / "decisions").iterdir())
    assert len(folders) == 2
    for folder in folders:
        record = read_json(folder / "decision.json", "decision")
        as_of = datetime.fromisoformat(record["window"]["as_of"])
        events = Path(record["steps"]["snapshot"]["path"]) / "events"
        times = pl.read_parquet(events / "*.parquet")["timestamp"].dt.epoch("ms").to_numpy()
        assert times.max() < as_of.timestamp() * 1000
        examples = read_json(
            Path(record["steps"]["features"]["path"]) / "examples" / "manifest.json", "examples"
        )
        assert record["window"]["promotion"] not in examples["promotions"]
        assert examples["observed_until_ms"] == as_of.timestamp() * 1000


def test_promotions_without_enough_known_ones_are_refused(small_world, tmp_path):
    config = load_config(overrides=[*SETTINGS, f"retrain.events={small_world.events}"])
    with pytest.raises(ConfigError, match="cannot replay"):
        replay(config, tmp_path, ["618-2023"])


def test_too_few_ordinary_days_are_told_before_any_job_runs(small_world, tmp_path, monkeypatch):
    def too_few(calendar, as_of_ms, kind):
        raise DataError(f"too few before a {kind}")

    monkeypatch.setattr(module, "ordinary_days", too_few)
    monkeypatch.setattr(module, "retrain", None)
    config = load_config(overrides=[*SETTINGS, f"retrain.events={small_world.events}"])
    with pytest.raises(DataError, match="too few before a double11"):
        replay(config, tmp_path, PROMOTIONS, lead_days=2, ordinary=True)
