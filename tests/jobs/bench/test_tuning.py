"""An equal budget for each model: what is searched, and which trials follow."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from cmdcm.core.config import Config
from cmdcm.jobs.bench import tuning
from cmdcm.jobs.bench.plan import Plan, load_plan
from cmdcm.jobs.bench.trials import Trial, trials_of
from cmdcm.jobs.bench.tuning import Tuned, tune
from cmdcm.jobs.tune.space import Space
from cmdcm.tests.conftest import SMALL

PLAN = """
title = "T"
baseline = "a"
seeds = [3, 4]
tune = 5
[worlds.one]
[models.a]
[models.b]
set = ["model.gate=false"]
space = "default"
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return load_plan(str(path))


def found(trial: Trial, rate: float) -> Tuned:
    training = trial.config.training.model_copy(update={"learning_rate": rate})
    config = trial.config.model_copy(update={"training": training})
    return Tuned(trial.world.name, trial.model, 5, 2, 0.4, 0.3, {"x": rate}, config)


def test_every_model_has_the_same_budget_and_its_best_settings_for_all_seeds(
    plan, tmp_path, monkeypatch
):
    searched: list[tuple[str, int, int, Space]] = []

    def search(trial: Trial, space: Space, budget: int, folder: Path, workers: int) -> Tuned:
        searched.append((trial.model, trial.world.seed, budget, space))
        return found(trial, 0.01 * len(searched))

    monkeypatch.setattr(tuning, "_search", search)
    monkeypatch.setattr(tuning, "prepare_worlds", lambda *args, **kwargs: None)
    trials = trials_of(plan, tmp_path)
    made, results = tune(trials, plan, tmp_path, 1, progress=False)
    assert [entry[:3] for entry in searched] == [("a", 3, 5), ("b", 3, 5)]
    assert "model.gate_units" in searched[1][3].to_json()
    assert "model.gate_units" not in searched[0][3].to_json()
    assert [one.model for one in results] == ["a", "b"]
    assert [(t.world.seed, t.model) for t in made] == [(3, "a"), (3, "b"), (4, "a"), (4, "b")]
    for trial, given in zip(made, trials, strict=True):
        rate = {"a": 0.01, "b": 0.02}[trial.model]
        assert trial.config.training.learning_rate == rate
        assert trial.config.seed == given.config.seed == trial.world.seed
        assert trial.folder.parent == given.folder.parent
        assert trial.folder != given.folder


def test_a_model_that_goes_on_has_what_was_found_for_its_base(tmp_path, monkeypatch):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN + '[models.c]\nset = ["training.epochs=7"]\nbase = "b"\n')
    plan = load_plan(str(path))
    monkeypatch.setattr(tuning, "_search", lambda trial, *_: found(trial, 0.003))
    monkeypatch.setattr(tuning, "prepare_worlds", lambda *args, **kwargs: None)
    trials = trials_of(plan, tmp_path)
    made, results = tune(trials, plan, tmp_path, 1, progress=False)
    assert [one.model for one in results] == ["a", "b"]
    assert [trial.model for trial in made] == ["a", "b", "c", "a", "b", "c"]
    for trial, given in zip(made, trials, strict=True):
        if trial.model == "c":
            assert trial.base in made
            assert trial.base.model == "b"
            assert trial.config.training.learning_rate == 0.003
            assert trial.config.training.epochs == 7
            assert not trial.config.model.gate
            assert trial.folder != given.folder


def test_without_a_budget_nothing_is_searched(plan, tmp_path):
    trials = trials_of(plan, tmp_path)
    assert tune(trials, plan.model_copy(update={"tune": 0}), tmp_path) == (trials, [])


def test_the_table_shows_what_was_found():
    one = Tuned("world", "m", 5, 2, 0.41234567, 0.3, {"training.learning_rate": 0.01}, Config())
    shown = tuning.table([one, replace(one, number=0)])
    assert shown.rows[0] == (
        *("world", "m", "5", "2", "0.41235", "0.30000"),
        "training.learning_rate = 0.01",
    )


@pytest.mark.slow
def test_a_search_is_logged_and_goes_on(small_world, tmp_path):
    settings = [*SMALL, "training.epochs=1"]
    path = tmp_path / "plan.toml"
    path.write_text(
        f"title = 'T'\nbaseline = 'a'\nseeds = [1]\ntune = 2\nset = {json.dumps(settings)}\n"
        f"[worlds.one]\nevents = {json.dumps(str(small_world.events))}\n"
        "[models.a]\nset = ['model.name=single_task']\n"
    )
    plan = load_plan(str(path))
    trials = trials_of(plan, tmp_path / "out")
    _, (first,) = tune(trials, plan, tmp_path / "out", 1, progress=False)
    (log,) = (tmp_path / "out" / "tuning").glob("*/a-*/trials.parquet")
    frame = pl.read_parquet(log)
    assert frame["state"].to_list() == ["complete", "complete"]
    assert first.before == frame["loss"][0]
    assert first.after == frame["loss"].min()
    more = plan.model_copy(update={"tune": 3})
    _, (second,) = tune(trials, more, tmp_path / "out", 1, progress=False)
    again = pl.read_parquet(log)
    assert again["seconds"].to_list()[:2] == frame["seconds"].to_list()  # not run again
    assert (second.trials, len(again)) == (3, 3)
