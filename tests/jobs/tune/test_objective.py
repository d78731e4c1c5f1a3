"""A trial's folds, with a training that writes a given history."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, TrainingError
from cmdcm.core.files import read_json
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.tune import objective
from cmdcm.jobs.tune.folds import folds_of
from cmdcm.jobs.tune.objective import Job, clean, score_folds

NAN = float("nan")


def record(epoch, conversion, cart):
    losses = {"val_log_loss_conversion": conversion, "val_log_loss_cart": cart}
    return {"epoch": float(epoch), "loss": 1.0, **losses, "val_auc_conversion": 0.5}


@dataclass
class Trainings:
    """The trainings that were asked for; each left the history that stood first in the list."""

    histories: list[list[dict[str, float]]] = field(default_factory=list)
    calls: list[tuple[ExampleSet, Path, Config]] = field(default_factory=list)


@pytest.fixture
def trained(monkeypatch):
    made = Trainings()

    def train(data, output, config, *, progress):
        made.calls.append((data, output, config))
        (output / "model").mkdir(parents=True)
        (output / "checkpoints").mkdir()
        (output / "model" / "history.json").write_text(json.dumps(made.histories.pop(0)))

    monkeypatch.setattr(objective, "train", train)
    return made


def job(world, folder, head="conversion", latest=2):
    data = ExampleSet.open(world.examples, world.config.split)
    folds = folds_of(data, world.config.split, latest=latest)
    return Job(world.examples, folds, head, world.config, folder, 1)


def test_each_fold_is_scored_by_the_epoch_whose_weights_are_kept(small_world, tmp_path, trained):
    scores: list[dict] = []
    # The cart's own best epoch is another one than the kept one.
    trained.histories += [[record(1, 0.3, 0.1), record(2, 0.2, 0.7)], [record(1, 0.5, 0.6)]]
    task = job(small_world, tmp_path / "t", "cart")
    score_folds(task, scores.append)
    assert [(s["fold"], s["loss"], s["epoch"]) for s in scores] == [(0, 0.7, 2), (1, 0.6, 1)]
    for fold, (data, _, config) in zip(task.folds, trained.calls, strict=True):
        assert (data.split.train, data.split.validation) == (fold.train, fold.validation)
        assert data.split.test == ()
        assert config.calibration.method == "none"
        assert (config.model, config.training) == (task.config.model, task.config.training)
    # Of the runs only the histories stay.
    names = sorted(path.name for path in task.folder.rglob("*"))
    assert names == ["config.json", "fold-0.json", "fold-1.json"]
    kept = read_json(task.folder / "fold-0.json", "fold")
    assert kept["history"] == [record(1, 0.3, 0.1), record(2, 0.2, 0.7)]
    assert Config.load(task.folder / "config.json").model == task.config.model


def test_a_fold_that_is_scored_is_not_trained_again(small_world, tmp_path, trained):
    trained.histories += [[record(1, 0.3, 0.1)], [record(1, 0.4, 0.1)]]
    task = job(small_world, tmp_path / "t")
    first: list[dict] = []

    def killed(score):
        first.append(score)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_folds(task, killed)
    again: list[dict] = []
    score_folds(task, again.append)
    assert again[0] == first[0]
    assert [score["loss"] for score in again] == [0.3, 0.4]
    assert [output.name for _, output, _ in trained.calls] == ["fold-0", "fold-1"]


def test_epochs_without_a_finite_loss_do_not_count(small_world, tmp_path, trained):
    trained.histories += [[record(1, NAN, 0.1), record(2, 0.4, NAN), record(3, 0.5, 0.2)]]
    scores: list[dict] = []
    score_folds(job(small_world, tmp_path / "t", "cart", latest=1), scores.append)
    assert [(s["loss"], s["epoch"]) for s in scores] == [(0.2, 3)]
    trained.histories += [[record(1, NAN, 0.1)]]
    with pytest.raises(TrainingError, match=r"fold double11-2024: no epoch has a finite"):
        score_folds(job(small_world, tmp_path / "u", latest=1), scores.append)


def test_a_head_that_the_model_lacks_is_named(small_world, tmp_path, trained):
    trained.histories += [[record(1, 0.3, 0.1)]]
    with pytest.raises(ConfigError, match=r"no head 'direct'; it has \['conversion', 'cart'\]"):
        score_folds(job(small_world, tmp_path / "t", "direct"), lambda score: None)


def test_cleaning_leaves_the_records(tmp_path):
    (tmp_path / "fold-1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "fold-1" / "checkpoints" / "x").touch()
    (tmp_path / "fold-0.json").touch()
    (tmp_path / "config.json").touch()
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "fold-0.json"]
    clean(tmp_path / "absent")
