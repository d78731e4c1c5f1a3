"""`cmdcm tune` from the command line: killed in the middle, resumed, and read."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from cmdcm.core.config import CalibrationConfig, Config, load_config
from cmdcm.core.files import read_json
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.tune.folds import folds_of, open_fold
from cmdcm.model.trained import MODEL, load_history
from cmdcm.model.training import train
from cmdcm.tests.conftest import SMALL
from cmdcm.tests.jobs.page import Page
from cmdcm.tests.jobs.test_cli import cmdcm, parsed_flags

__all__ = ["parsed_flags"]

pytestmark = pytest.mark.slow

SETTINGS = [*SMALL, "model.name=single_task", "training.epochs=1", "training.checkpoint_steps=100"]
SPACE = '[space]\n"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'


@dataclass(frozen=True)
class Tuned:
    """A search that was killed in its second trial and then went on."""

    arguments: list[str]
    output: Path
    examples: Path
    config: Config
    kept: dict[Path, int]  # what was there at the kill, with its time

    def tune(self, *more: str) -> int:
        return cmdcm("tune", *self.arguments, *more)


@pytest.fixture(scope="module")
def tuned(small_world, tmp_path_factory) -> Tuned:
    root = tmp_path_factory.mktemp("tune")
    config = load_config(overrides=SETTINGS)
    examples, output = root / "examples", root / "tuning"
    test = ExampleSet.open(small_world.examples, config.split).split.test
    # The test split is not there to be read.
    shutil.copytree(small_world.examples, examples, ignore=shutil.ignore_patterns(*test))
    (root / "space.toml").write_text(SPACE)
    arguments = [
        *("--examples", str(examples), "--output", str(output), "--trials", "2", "--folds", "2"),
        *("--space", str(root / "space.toml")),
        *(word for setting in SETTINGS for word in ("--set", setting)),
    ]
    command = [sys.executable, "-m", "cmdcm.jobs.main", "tune", *arguments]
    with subprocess.Popen(command) as process:
        while not (output / "trials" / "0001" / "fold-0.json").exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert not (output / "best.toml").exists()
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("fold-*.json")}
    assert len(kept) == 3
    made = Tuned(arguments, output, examples, config, kept)
    assert made.tune() == 0
    return made


def test_the_search_went_on_where_it_was_killed(tuned):
    assert {path: path.stat().st_mtime_ns for path in tuned.kept} == tuned.kept
    frame = pl.read_parquet(tuned.output / "trials.parquet")
    assert frame["state"].to_list() == ["complete", "complete"]
    assert frame["training.learning_rate"][0] == tuned.config.training.learning_rate
    assert frame["training.learning_rate"][1] != tuned.config.training.learning_rate
    for number, losses in enumerate(frame["losses"]):
        folder = tuned.output / "trials" / f"{number:04d}"
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["config.json", "fold-0.json", "fold-1.json"]
        scores = [read_json(folder / f"fold-{k}.json", "fold")["score"] for k in (0, 1)]
        assert losses.to_list() == [score["loss"] for score in scores]


def test_a_fold_s_loss_is_that_of_the_same_training_alone(tuned, tmp_path):
    split = tuned.config.split
    fold = folds_of(ExampleSet.open(tuned.examples, split), split)[-1]
    data = open_fold(tuned.examples, split, fold)
    # The log loss of a history is that before calibration, which would ask for a test split.
    config = tuned.config.model_copy(update={"calibration": CalibrationConfig(method="none")})
    train(data, tmp_path / "run", config, progress=False)
    (record,) = load_history(tmp_path / "run" / MODEL)
    frame = pl.read_parquet(tuned.output / "trials.parquet")
    # To the last bit, though there it was the second training of another process.
    assert frame["losses"][0][1] == record["val_log_loss_conversion"]


def test_the_best_configuration_is_a_file_for_config(tuned):
    frame = pl.read_parquet(tuned.output / "trials.parquet")
    best = frame.sort("loss", "number").row(0, named=True)
    config = load_config(tuned.output / "best.toml")
    rate = {"learning_rate": best["training.learning_rate"]}
    training = tuned.config.training.model_copy(update=rate)
    assert config == tuned.config.model_copy(update={"training": training})


def test_the_results_say_whether_tuning_helped(tuned):
    frame = pl.read_parquet(tuned.output / "trials.parquet")
    text = (tuned.output / "results.md").read_text()
    assert "2 trials: 2 complete" in text
    assert ("optimistic" in text) == (frame["loss"][1] < frame["loss"][0])
    page = Page((tuned.output / "results.html").read_text())
    mean = page.row("Log loss by fold", "mean")
    assert mean[1] == f"{frame['loss'][0]:.5f}"
    assert mean[2] == f"{min(frame['loss'].to_list()):.5f}"


def test_what_is_done_is_not_done_again(tuned, capsys):
    before = (tuned.output / "trials.parquet").read_bytes()
    assert tuned.tune() == 0
    assert {path: path.stat().st_mtime_ns for path in tuned.kept} == tuned.kept
    assert (tuned.output / "trials.parquet").read_bytes() == before
    assert "| mean |" in capsys.readouterr().out


def test_another_search_in_the_same_output_is_refused(tuned, capsys):
    assert tuned.tune("--set", "seed=9", "--head", "cart") == 7
    assert "a search with another seed, head" in capsys.readouterr().err
    assert tuned.tune("--folds", "1") == 7
    assert "another folds" in capsys.readouterr().err


def test_only_a_search_is_overwritten(tuned, tmp_path, capsys):
    (tmp_path / "precious").touch()
    assert tuned.tune("--output", str(tmp_path), "--overwrite") == 7
    assert "is no search" in capsys.readouterr().err
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--space", "nowhere.toml"], 2, "cannot read space nowhere.toml"),
        (["--examples", "nowhere"], 3, "nowhere"),
        (["--trials", "0"], 2, "should be 1 or more"),
        (["--folds", "-1"], 2, "should be 0 or more"),
        (["--head", "click"], 2, "invalid choice: 'click'"),
        (["--set", "training.warm_start=run/model"], 2, "training.warm_start should be empty"),
        (["--set", "training.strategy=multiworker"], 2, "each trial is one process"),
    ],
)
def test_wrong_usage_is_named_before_anything_is_written(
    small_world, tmp_path, capsys, more, code, words
):
    output = tmp_path / "out"
    arguments = ["--examples", small_world.examples, "--output", output, *more]
    assert cmdcm("tune", *arguments) == code
    assert words in capsys.readouterr().err
    assert not output.exists()


def test_a_missing_optuna_says_how_to_install_it(small_world, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    arguments = ["--examples", small_world.examples, "--output", tmp_path / "out"]
    assert cmdcm("tune", *arguments) == 2
    assert 'pip install "cmdcm[tune]"' in capsys.readouterr().err
