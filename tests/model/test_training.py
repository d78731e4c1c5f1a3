"""Training from outside: what a run leaves, how it resumes, when it refuses."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import Config, LabelsConfig
from cmdcm.core.errors import ConfigError, DataError, OutputError, PreemptedError, TrainingError
from cmdcm.core.files import read_json, read_manifest, verify_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.model import training
from cmdcm.model.observers import Observer
from cmdcm.model.scoring import predict
from cmdcm.model.trained import MODEL, load_history, load_model
from cmdcm.model.training import remove_run, train
from cmdcm.tests.model.batches import TINY, tiny_spec
from cmdcm.tests.model.test_optional_labels import WithMicro


def with_settings(config: Config, **changes: dict) -> Config:
    sections = {
        name: getattr(config, name).model_copy(update=values) for name, values in changes.items()
    }
    return config.model_copy(update=sections)


def weights(directory) -> list[np.ndarray]:
    return [v.numpy() for v in load_model(directory / MODEL).weights]


def assert_same_weights(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def undisturbed(small_world, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(data, output, small_world.config, progress=False)
    return output


def test_a_run_leaves_a_verified_model_its_history_and_tensorboard_logs(undisturbed, small_world):
    verify_manifest(undisturbed / MODEL)
    assert Config.load(undisturbed / MODEL / "config.json") == small_world.config
    history = load_history(undisturbed / MODEL)
    assert [record["epoch"] for record in history] == list(range(1, len(history) + 1))
    for head in ("conversion", "direct", "delayed", "cart"):
        for metric in ("auc", "log_loss", "pcoc"):
            assert np.isfinite(history[0][f"val_{metric}_{head}"])
    assert list((undisturbed / "logs").glob("events.*"))


def kill(monkeypatch, data, output, config, fatal_step) -> training.Checkpoints:
    """Starts a run and kills it at a step; returns its checkpoints, maybe still being written."""
    made = []

    class Killed(BaseException):
        pass

    class KillAt(training.Steps):
        steps = 0

        def take(self, batch, stop=False):
            KillAt.steps += 1
            if KillAt.steps == fatal_step:
                raise Killed
            return super().take(batch, stop)

    class Recorded(training.Checkpoints):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(training, "Steps", KillAt)
        patch.setattr(training, "Checkpoints", Recorded)
        with pytest.raises(Killed):
            train(data, output, config, progress=False)
    assert not (output / MODEL).exists()
    [checkpoints] = made
    return checkpoints


def forbid_steps(monkeypatch):
    """Makes every step of training fail."""

    def refuse(*args, **kwargs):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(training.Steps, "take", refuse)


@pytest.mark.parametrize("fatal_step", [3, 9])
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    undisturbed, small_world, data, tmp_path, monkeypatch, fatal_step
):
    """Killed before and after the first checkpoint, then run again; same seed, same weights."""
    kill(monkeypatch, data, tmp_path / "run", small_world.config, fatal_step)
    train(data, tmp_path / "run", small_world.config, progress=False)
    assert_same_weights(weights(tmp_path / "run"), weights(undisturbed))


@pytest.mark.slow
def test_a_run_that_is_resumed_after_an_epochs_last_step_keeps_the_optimizers_state(
    undisturbed, small_world, data, tmp_path, monkeypatch
):
    """It validates and saves the end of the epoch before any step of its own."""
    steps = math.ceil(data.total("train") / small_world.config.training.batch_size)
    config = with_settings(small_world.config, training={"checkpoint_steps": steps})
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "validate", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(data, run, config, progress=False)
    kill(monkeypatch, data, run, config, fatal_step=1)
    train(data, run, config, progress=False)
    assert_same_weights(weights(run), weights(undisturbed))


def test_sigterm_saves_the_state_and_the_same_call_goes_on(
    undisturbed, small_world, data, tmp_path, monkeypatch
):
    class Terminated(training.Steps):
        steps = 0

        def take(self, batch, stop=False):
            Terminated.steps += 1
            if Terminated.steps == 10:  # not at a checkpoint
                os.kill(os.getpid(), signal.SIGTERM)
            return super().take(batch, stop)

    with monkeypatch.context() as patch:
        patch.setattr(training, "Steps", Terminated)
        with pytest.raises(PreemptedError, match="the state is saved: run the same command") as why:
            train(data, tmp_path / "run", small_world.config, progress=False)
    assert why.value.exit_code == 75
    assert not (tmp_path / "run" / MODEL).exists()
    taken = Terminated.steps
    train(data, tmp_path / "run", small_world.config, progress=False)
    assert_same_weights(weights(tmp_path / "run"), weights(undisturbed))
    assert taken < 10 + training.CHECK_STEPS


def at_sigterm(monkeypatch, name):
    """Has SIGTERM come when a method of the run is called."""
    method = getattr(training._Run, name)

    def told(run, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return method(run, *arguments)

    monkeypatch.setattr(training._Run, name, told)


@pytest.mark.parametrize("phase", ["resume", "validate", "finish_epoch", "calibrate"])
def test_sigterm_is_heard_outside_of_the_steps(
    undisturbed, small_world, data, tmp_path, monkeypatch, phase
):
    told = []

    class Told(Observer):
        def ended(self, error):
            told.append(type(error))

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_sigterm(patch, phase)
        with pytest.raises(PreemptedError, match="run the same command to go on"):
            train(data, run, small_world.config, progress=False, observers=[Told()])
    assert told == ([] if phase == "resume" else [PreemptedError])
    assert not (run / MODEL).exists()
    state = tf.train.latest_checkpoint(str(run / "checkpoints"))
    if phase == "validate":  # the steps of its epoch are not lost
        steps = math.ceil(data.total("train") / small_world.config.training.batch_size)
        reader = tf.train.load_checkpoint(state)
        assert reader.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == steps
    assert (state is None) == (phase == "resume")
    train(data, run, small_world.config, progress=False)
    assert_same_weights(weights(run), weights(undisturbed))


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(
    undisturbed, small_world, data, tmp_path, monkeypatch, caplog
):
    run = tmp_path / "run"
    checkpoints = kill(monkeypatch, data, run, small_world.config, fatal_step=24)
    checkpoints.wait()  # else the newest is maybe not complete, and nothing names it
    state = tf.train.get_checkpoint_state(str(run / "checkpoints"))
    assert len(state.all_model_checkpoint_paths) > 1
    newest = Path(f"{state.model_checkpoint_path}.data-00000-of-00001")
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    train(data, run, small_world.config, progress=False)
    assert "cannot be read, trying the one before" in caplog.text
    assert_same_weights(weights(run), weights(undisturbed))


def test_a_finished_run_is_not_trained_again(undisturbed, small_world, data, monkeypatch):
    forbid_steps(monkeypatch)
    before = weights(undisturbed)
    train(data, undisturbed, small_world.config, progress=False)
    assert_same_weights(weights(undisturbed), before)


def test_a_finished_run_is_calibrated_anew_without_training(
    undisturbed, small_world, data, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    forbid_steps(monkeypatch)
    settings = {"method": "platt", "slices": ("hours_to_promotion",), "min_positives": 5}
    settings["levels"] = False  # which look at other days than those that are added up below
    model = train(
        data, run, with_settings(small_world.config, calibration=settings), progress=False
    )
    assert_same_weights(weights(run), weights(undisturbed))
    verify_manifest(run / MODEL)
    assert read_manifest(run / MODEL, MODEL)["calibration"] == "platt"
    assert set(read_json(run / MODEL / "calibration.json", "it")["heads"]["direct"]["shifts"]) == {
        "hours_to_promotion"
    }
    loaded = load_model(run / MODEL)
    assert loaded.calibration == model.calibration is not None
    frame = predict(loaded, data.files("validation"), data.spec, data.calendar)
    for head in ("conversion", "direct", "delayed", "cart"):
        names = (f"p_{head}", f"uncalibrated_p_{head}")
        after, before = (frame[name].to_numpy().astype(float) for name in names)
        assert after.sum() / int(frame[head].sum()) == pytest.approx(1, abs=0.05)
        assert np.abs(after - before).max() > 1e-4
    without = with_settings(small_world.config, calibration={"method": "none"})
    train(data, run, without, progress=False)
    assert not (run / MODEL / "calibration.json").exists()


def test_another_configuration_does_not_go_on_with_a_run(undisturbed, small_world, data):
    other = with_settings(small_world.config, training={"learning_rate": 0.5})
    with pytest.raises(OutputError, match="another configuration"):
        train(data, undisturbed, other, progress=False)


def test_a_run_goes_on_with_fewer_checkpoints_than_it_began_with(
    undisturbed, small_world, data, tmp_path, monkeypatch
):
    """As after a full disk."""
    kill(monkeypatch, data, tmp_path / "run", small_world.config, fatal_step=9)
    fewer = {"keep_checkpoints": 1, "checkpoint_steps": 1000}
    train(data, tmp_path / "run", with_settings(small_world.config, training=fewer), progress=False)
    assert_same_weights(weights(tmp_path / "run"), weights(undisturbed))
    assert len(list((tmp_path / "run" / "checkpoints").glob("ckpt-*.index"))) == 1


def test_early_stopping_keeps_the_best_epoch(small_world, data, tmp_path):
    # A rate this high overfits at once, so that the first epochs cannot all be the best.
    config = with_settings(
        small_world.config, training={"epochs": 6, "learning_rate": 0.05, "patience": 1}
    )
    model = train(data, tmp_path / "run", config, progress=False)
    model.calibrate(None)
    losses = [r["val_log_loss_conversion"] for r in load_history(tmp_path / "run" / MODEL)]
    assert len(losses) < 6, "the run should have stopped early"
    assert losses[-1] > min(losses)
    frame = predict(model, data.files("validation"), data.spec, data.calendar)
    p, y = frame["p_conversion"].to_numpy().astype(float), frame["conversion"].to_numpy()
    log_loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert log_loss == pytest.approx(min(losses), rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_head(
    small_world, data, tmp_path, monkeypatch
):
    original = training.make_model

    def poisoned(spec, config):
        model = original(spec, config)
        head_losses = model.head_losses

        def losses(logits, labels):
            made = head_losses(logits, labels)
            made["direct"] = made["direct"].__class__(
                made["direct"].losses * tf.constant(np.nan), made["direct"].weights
            )
            return made

        monkeypatch.setattr(model, "head_losses", losses)
        return model

    monkeypatch.setattr(training, "make_model", poisoned)
    with pytest.raises(TrainingError, match="head direct is not finite at step 1 of epoch 1"):
        train(data, tmp_path / "run", small_world.config, progress=False)
    assert not (tmp_path / "run" / MODEL).exists()


def test_a_head_without_a_positive_label_is_named(small_world, tmp_path):
    examples = tmp_path / "examples"
    shutil.copytree(small_world.examples, examples)
    manifest = json.loads((examples / "manifest.json").read_text())
    for day in manifest["days"].values():
        day["delayed"] = 0
    (examples / "manifest.json").write_text(json.dumps(manifest))
    data = ExampleSet.open(examples, small_world.config.split)
    with pytest.raises(DataError, match="head 'r1' has 0 positive labels 'delayed'"):
        train(data, tmp_path / "run", small_world.config, progress=False)


def test_a_corrupted_shard_is_named_with_its_offset(small_world, tmp_path):
    examples = tmp_path / "examples"
    shutil.copytree(small_world.examples, examples)
    data = ExampleSet.open(examples, small_world.config.split)
    shard = data.files("train")[-1]
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"{shard.parent.name}.*{shard.name}.*\d"):
        train(data, tmp_path / "run", small_world.config, progress=False)


def test_corrupted_and_truncated_shards_are_skipped_and_counted(small_world, tmp_path):
    examples = tmp_path / "examples"
    shutil.copytree(small_world.examples, examples)
    data = ExampleSet.open(examples, small_world.config.split)
    shards = [data.files("train")[0], data.files("train")[-1], data.files("validation")[0]]
    for shard, change in zip(shards, ("flip", "cut", "flip"), strict=True):
        content = bytearray(shard.read_bytes())
        content[-100] ^= 1
        shard.write_bytes(content[:-100] if change == "cut" else content)
    with pytest.raises(DataError, match=f"{shards[1].parent.name}/{shards[1].name}: "):
        train(data, tmp_path / "run", small_world.config, progress=False)
    config = with_settings(small_world.config, training={"on_corrupt": "skip", "epochs": 1})
    train(data, tmp_path / "run", config, progress=False)
    assert [r["skipped_files"] for r in load_history(tmp_path / "run" / MODEL)] == [3]
    assert read_manifest(tmp_path / "run" / MODEL, MODEL)["skipped_files"] == 3


@pytest.mark.slow
def test_down_sampled_training_resumes_exactly(small_world, data, tmp_path, monkeypatch):
    settings = {"negative_rate": 0.3, "epochs": 1}
    config = with_settings(small_world.config, training=settings)
    train(data, tmp_path / "run", config, progress=False)
    kill(monkeypatch, data, tmp_path / "killed", config, fatal_step=9)
    train(data, tmp_path / "killed", config, progress=False)
    assert_same_weights(weights(tmp_path / "killed"), weights(tmp_path / "run"))


def test_overwrite_deletes_runs_alone(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(OutputError, match="no training run"):
        remove_run(tmp_path / "precious")
    assert (tmp_path / "precious" / "file").exists()

    (tmp_path / "killed").mkdir()  # before run.json had its name
    (tmp_path / "killed" / ".run.json.staging-17").write_text("{")
    remove_run(tmp_path / "killed")
    assert not (tmp_path / "killed").exists()


def test_a_label_that_the_examples_lack_is_an_error_that_names_its_setting(data):
    spec = tiny_spec(labels=LabelsConfig(micro=True))
    with pytest.raises(ConfigError, match=r"'micro_head'.*'micro'.*labels\.micro = true"):
        training.check_labels(WithMicro(spec, TINY), data)


def test_training_names_a_label_that_the_examples_lack_before_it_reads_any(
    small_world, data, tmp_path
):
    config = with_settings(small_world.config, model={"name": "hm3"})
    with pytest.raises(ConfigError, match=r"model\.name = 'hm3' learns .* labels\.micro = true"):
        train(data, tmp_path / "run", config, progress=False)
    assert not (tmp_path / "run").exists()
