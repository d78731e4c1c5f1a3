"""The refresh in a window: a new version each night for a delayed-feedback model, no other."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import ConfigError, RetrainError
from cmdcm.core.files import read_manifest
from cmdcm.core.settings.model import DelayedFeedback
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.retrain.plan import REFRESH, STEPS, steps_of, until
from cmdcm.jobs.retrain.served import serving_model
from cmdcm.jobs.retrain.step_evaluate import compared
from cmdcm.jobs.retrain.step_refresh import first_running, opened
from cmdcm.jobs.retrain.steps import Context, names
from cmdcm.jobs.retrain.window import Window
from cmdcm.model.delayed.base import DelayedModel
from cmdcm.model.online.loop import Stream
from cmdcm.model.registry import MODELS
from cmdcm.model.trained import MODEL, seen_days
from cmdcm.tests.jobs.retrain.test_end_to_end import settings
from cmdcm.tests.jobs.retrain.worlds import AS_OF, PROMOTION, Clock, FakeSteps, config_of

IN_WINDOW = "2024-12-06"
DOUBLE12 = "double12-2024"


def delayed(config: Config, name: str = "es_dfm") -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"name": name})})


# The plan


def test_the_settings_know_which_models_train_on_streams():
    of_family = {n for n, kind in MODELS.items() if kind.about.family == "delayed feedback"}
    named = set(get_args(DelayedFeedback))
    assert named == {n for n, k in MODELS.items() if issubclass(k, DelayedModel)}
    assert named == of_family - {"ecad"}  # which trains on history alone


def test_only_models_of_streams_have_the_step():
    config = load_config()
    assert steps_of(delayed(config).model) == STEPS
    steps = steps_of(config.model)
    assert names(steps) == [name for name in names(STEPS) if name != REFRESH]
    assert all(REFRESH not in step.needs for step in steps)
    assert names(until(REFRESH, delayed(config).model))[-2:] == ["train", REFRESH]
    with pytest.raises(ConfigError, match="no such step for cmdcm"):
        until(REFRESH, config.model)


def test_the_stream_is_of_the_promotions_after_those_with_examples(tmp_path):
    config = config_of(tmp_path)
    window = Window.of(config, PROMOTION, AS_OF)
    assert [first_running(window, known) for known in ({}, {"a-2024": 9})] == [0, 1]
    assert [p.name for p in opened(window, 1)] == [PROMOTION]
    assert opened(Window.of(config, PROMOTION, "2024-06-05"), 1) == []  # it opens at this instant
    assert [p.name for p in opened(window, 0)] == ["a-2024", PROMOTION]  # refunds are awaited


# The flow, with fake steps


def test_each_night_goes_on_from_the_same_trained_model(monkeypatch, tmp_path):
    fakes = FakeSteps(refreshed="model-2").install(monkeypatch)
    config, bases = delayed(config_of(tmp_path)), []
    fakes.hooks["train"] = lambda context, output: bases.append(context.base)
    first = retrain(config, Request(PROMOTION, AS_OF), Clock())
    assert (first.outcome, first.version) == ("published", 2)
    assert first.record["candidate"] == "model-2"
    fakes.ran.clear()
    fakes.refreshed = "model-3"
    night = retrain(config, Request(PROMOTION, "2024-06-11"), Clock())
    assert (night.outcome, night.version) == ("published", 3)
    assert "train" not in fakes.ran and REFRESH in fakes.ran
    fakes.model, fakes.features, fakes.refreshed = "model-4", "features-2", "model-5"
    retrain(config, Request(PROMOTION, "2024-06-12"), Clock())
    # What was refreshed is nothing to start from: later jobs test on what it has seen.
    assert bases == [None, {"model": "trained", "identity": "model-1"}]


def test_a_stream_that_teaches_nothing_new_changes_nothing(monkeypatch, tmp_path):
    fakes = FakeSteps(refreshed="model-2").install(monkeypatch)
    config = delayed(config_of(tmp_path))
    retrain(config, Request(PROMOTION, AS_OF), Clock())
    night = retrain(config, Request(PROMOTION, "2024-06-11"), Clock())
    assert night.outcome == "unchanged" and fakes.ran[-1] == REFRESH


# The real job


@pytest.fixture(scope="module")
def config(small_world, tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("refresh")
    chosen = (
        "model.name=es_dfm",
        "model.waiting_hours=6",
        "stream.checkpoint_periods=1",
        "stream.step_hours=6",
        "rollout.registry=false",
    )
    return load_config(overrides=settings(folder, small_world.events, *chosen))


@pytest.fixture(scope="module")
def before(config):
    return retrain(config, Request(DOUBLE12, "2024-12-01"), Clock("2024-12-01T00:00"))


@pytest.fixture(scope="module")
def interrupted(config, before):
    """A night that stopped in the middle of the stream, and the periods that it had begun."""
    fit, begun = Stream._fit, list[int]()

    def late(self, number: int) -> None:
        begun.append(number)
        if len(begun) == 2:
            raise RetrainError("the job is not done")
        fit(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "_fit", late)
        runs = [
            retrain(config, Request(DOUBLE12, IN_WINDOW), Clock("2024-12-06T00:00"))
            for _ in range(2)
        ]
    return runs, begun


@pytest.fixture(scope="module")
def night(interrupted):
    return interrupted[0][1]


def weights(model: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(model / "weights"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.slow
def test_a_night_in_the_window_gives_a_new_version(config, before, night):
    assert before.outcome == "published", before.reason
    assert "no click of a window" in before.record["steps"][REFRESH]["summary"]["skipped"]
    assert (night.outcome, night.version) == ("published", 2), night.reason
    steps = night.record["steps"]
    assert steps["train"]["reused"]
    said = steps[REFRESH]["summary"]
    assert said["promotions"] == [DOUBLE12] and said["entries"] >= said["clicks"] * 0.5
    assert said["until_ms"] == Window.of(config, DOUBLE12, IN_WINDOW).as_of_ms
    assert said["days"][1] < IN_WINDOW and said["progressive"] is None
    trained = Path(steps["train"]["path"]) / "run" / MODEL
    made = Path(steps[REFRESH]["path"]) / "run" / MODEL
    old, new = weights(trained), weights(made)
    assert old.keys() == new.keys()
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert any("towers/conversion" in name for name in changed)
    assert not any("towers/dp" in name or "towers/z/" in name for name in changed)
    folder = Path(config.retrain.output) / "2"
    assert read_manifest(folder, "export")["origin"]["model"] == said["digest"]


@pytest.mark.slow
def test_what_judges_it_was_never_trained_on(config, night):
    steps = night.record["steps"]
    data = ExampleSet.open(Path(steps["features"]["path"]) / "examples", config.split)
    made = Path(steps[REFRESH]["path"]) / "run" / MODEL
    trained = Path(steps["train"]["path"]) / "run" / MODEL
    seen = seen_days(made)
    assert set(steps[REFRESH]["summary"]["days"]) <= seen and seen_days(trained) < seen
    assert not seen & set(data.split.test)
    # Once the window's labels are known, its days test; the serving model has seen them.
    serving = serving_model(config, Path(config.retrain.work).resolve())
    context = Context(config, Window.of(config, DOUBLE12, IN_WINDOW), serving=serving)
    assert compared(context, data) == made
    later = ExampleSet(
        data.directory,
        data.manifest,
        data.spec,
        data.calendar,
        type(data.split)("promotion", (), (), tuple(steps[REFRESH]["summary"]["days"])),
    )
    assert compared(context, later) == trained


@pytest.mark.slow
def test_a_refresh_that_was_stopped_goes_on_at_its_checkpoint(interrupted):
    (late, night), begun = interrupted
    assert late.outcome == "late" and late.record["steps"].keys() >= {"train"}
    assert night.outcome == "published" and begun[0] < begun[1] == begun[2]
    folder = Path(night.record["steps"][REFRESH]["path"])
    assert sorted(path.name for path in folder.iterdir()) == ["run", "step.json"]
