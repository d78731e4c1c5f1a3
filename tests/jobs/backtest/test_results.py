"""The back-test's figures against the metrics themselves, and its tables."""

from types import SimpleNamespace

import polars as pl
import pytest

from cmdcm.core.config import EvaluationConfig
from cmdcm.core.errors import DataError
from cmdcm.jobs.backtest.page import notes, page, tables
from cmdcm.jobs.backtest.results import EVERY, decisions, figures
from cmdcm.jobs.bench.page import markdown
from cmdcm.model.metrics import auc, log_loss
from cmdcm.tests.model.predictions_data import predictions

CONFIG = EvaluationConfig(bootstrap=30)


@pytest.fixture(scope="module")
def frames() -> dict[str, dict[str, pl.DataFrame]]:
    made = {}
    for seed, promotion in enumerate(("618-2024", "double11-2024")):
        models = predictions(1_500, days=2, seed=seed, models=("vanilla", "cmdcm"), base_rate=0.2)
        made[promotion] = {"retrained": models["cmdcm"], "yesterday": models["vanilla"]}
    return made


@pytest.fixture(scope="module")
def frame(frames) -> pl.DataFrame:
    return figures(frames, CONFIG, seed=1)


def row(frame: pl.DataFrame, **wanted: str) -> dict:
    [found] = frame.filter(*(pl.col(k) == v for k, v in wanted.items())).iter_rows(named=True)
    return found


def test_each_figure_is_the_metric_of_its_clicks(frames, frame):
    models = frames["618-2024"]
    one_day = str(models["retrained"]["day"].min())
    for day, clicks in (
        (EVERY, models["yesterday"]),
        (one_day, models["yesterday"].filter(pl.col("day").cast(pl.String) == one_day)),
    ):
        found = row(
            frame,
            promotion="618-2024",
            day=day,
            head="conversion",
            model="yesterday",
            metric="log_loss",
        )
        expected = log_loss(clicks["conversion"], clicks["p_conversion"])
        assert found["estimate"] == pytest.approx(expected)
        assert found["rows"] == len(clicks) and found["positives"] == clicks["conversion"].sum()
        assert found["lower"] < found["estimate"] < found["upper"]


def test_differences_are_retrained_less_the_model_and_paired(frames, frame):
    models = frames["double11-2024"]
    scores = {k: auc(f["conversion"], f["p_conversion"]) or 0.0 for k, f in models.items()}
    found = row(
        frame,
        promotion="double11-2024",
        day=EVERY,
        head="conversion",
        model="yesterday",
        metric="auc",
    )
    assert found["difference"] == pytest.approx(scores["retrained"] - scores["yesterday"])
    assert found["difference_lower"] <= found["difference"] <= found["difference_upper"]
    own = frame.filter(pl.col("model") == "retrained")
    assert own["difference"].null_count() == len(own)
    assert frame.filter(pl.col("metric") == "pcoc")["difference"].null_count() > 0


def test_all_promotions_are_pooled(frames, frame):
    pooled = pl.concat([m["retrained"] for m in frames.values()])
    found = row(
        frame,
        promotion=EVERY,
        day=EVERY,
        head="conversion",
        model="retrained",
        metric="log_loss",
    )
    expected = log_loss(pooled["conversion"], pooled["p_conversion"])
    assert found["estimate"] == pytest.approx(expected) and found["rows"] == len(pooled)
    # A promotion that lacks a kind of model is not pooled: its clicks would be one-sided.
    lacking = {**frames, "618-2024": {"retrained": frames["618-2024"]["retrained"]}}
    rows = figures(lacking, CONFIG, seed=1)
    assert row(
        rows,
        promotion=EVERY,
        day=EVERY,
        head="conversion",
        model="yesterday",
        metric="auc",
    )["rows"] == len(frames["double11-2024"]["yesterday"])


def test_models_of_other_clicks_are_refused(frames):
    models = frames["618-2024"]
    broken = {**models, "yesterday": models["yesterday"].head(7)}
    with pytest.raises(DataError, match="same clicks"):
        figures({"618-2024": broken}, CONFIG, seed=1)


def test_the_page_shows_decisions_promotions_and_days(frame):
    decided = [
        {"promotion": "618-2024", "as_of": "2024-06-01", "outcome": "refused", "reason": "<pcoc>"}
    ]
    made = tables(frame, decided)
    assert [t.caption for t in made] == [
        "What the gate decided",
        "conversion: by promotion",
        "delayed: by promotion",
        "conversion: by day of the click",
    ]
    html = page("Back-test", made, notes(0.95, 7))
    assert "&lt;pcoc&gt;" in html and "double11-2024" in html
    assert "retrained - model, Log loss" in markdown("Back-test", made, notes(0.95, 7))


def test_decisions_count_checks_or_say_why_not():
    gate = {"summary": {"checks": {"pass": 5, "warn": 1, "fail": 0, "skipped": 2}}}
    accepted = SimpleNamespace(
        outcome="stopped", reason="as asked", record={"steps": {"gate": gate}}
    )
    refused = SimpleNamespace(outcome="refused", reason="the gate refused: pcoc", record={})
    made = decisions(
        [
            SimpleNamespace(promotion=name, as_of="2024-06-01", decision=decision, models={})
            for name, decision in (("a", accepted), ("b", refused))
        ]
    )
    assert [(d["outcome"], d["reason"]) for d in made] == [
        ("accepted", "5 checks kept, 1 warnings"),
        ("refused", "the gate refused: pcoc"),
    ]
