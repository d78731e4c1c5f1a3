"""Warm starts from outside: what a run takes over, what it refuses, what it must not forget."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError, TrainingError
from cmdcm.core.files import read_json, read_manifest, write_json
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.split import files_of
from cmdcm.model import training, warm_start
from cmdcm.model.forgetting import measure_before, previous_days, reads
from cmdcm.model.scoring import predict
from cmdcm.model.trained import MODEL, load_history, load_model, seen_days
from cmdcm.model.training import train
from cmdcm.model.transfer import variables

BEST = Path("checkpoints", "best")


def configured(config: Config, **settings: dict) -> Config:
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=values)
            for name, values in settings.items()
        }
    )


def opened(world, config: Config) -> ExampleSet:
    return ExampleSet.open(world.examples, config.split)


def days_of(data: ExampleSet, promotion: str) -> list[str]:
    return [d for d, entry in data.manifest["days"].items() if entry["promotion"] == promotion]


def weights(model) -> dict[str, np.ndarray]:
    return {path: variable.numpy() for path, variable in variables(model).items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys() != set()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.fixture(scope="module")
def promotions(small_world) -> list[str]:
    manifest = read_manifest(small_world.examples, "examples")["promotions"]
    return sorted(manifest, key=lambda name: manifest[name]["first_day"])


@pytest.fixture(scope="module")
def first(small_world, promotions, tmp_path_factory) -> Path:
    """A run for the last promotion but one; the newest that it trains on is `promotions[-4]`."""
    config = configured(
        small_world.config,
        split={"test": (promotions[-2],), "windows": 1},
        training={"epochs": 1},
    )
    run = tmp_path_factory.mktemp("first") / "run"
    train(opened(small_world, config), run, config, progress=False)
    return run


@pytest.fixture(scope="module")
def next_config(small_world, promotions, first) -> Config:
    """The run for the last promotion, which goes on from the first one."""
    return configured(
        small_world.config,
        split={"test": (promotions[-1],), "windows": 2},
        training={
            "epochs": 1,
            "warm_start": str(first / MODEL),
            "recency_half_life_days": 200.0,
            "max_forgetting": 10.0,
        },
    )


@pytest.fixture(scope="module")
def second(small_world, next_config, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("second") / "run"
    train(opened(small_world, next_config), run, next_config, progress=False)
    return run


def test_the_start_counts_as_epoch_0_and_is_the_other_model(
    small_world, next_config, first, second
):
    data = opened(small_world, next_config)
    start, *epochs = load_history(second / MODEL)
    assert (start["epoch"], [record["epoch"] for record in epochs]) == (0, [1])
    source = load_model(first / MODEL)
    source.calibrate(None)
    frame = predict(source, data.files("validation"), data.spec, data.calendar)
    p, y = frame["p_conversion"].to_numpy().astype(float), frame["conversion"].to_numpy()
    log_loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert start["val_log_loss_conversion"] == pytest.approx(log_loss, rel=1e-6)
    written = read_json(second / "warm_start.json", "it")
    assert all(match["size"] == match["matched"] for match in written["matches"])
    assert {match["kind"] for match in written["matches"]} == {"table", "input", "weight"}


def test_the_model_knows_what_it_was_started_from(
    small_world, next_config, promotions, first, second
):
    data = opened(small_world, next_config)
    manifest = read_manifest(second / MODEL, MODEL)
    assert manifest["warm_start"]["source"] == str(first / MODEL)
    assert set(manifest["warm_start"]["days"]["train"]) == set(days_of(data, promotions[-4]))
    assert set(manifest["split"]["train"]) == {
        day for name in promotions[-4:-2] for day in days_of(data, name)
    }
    assert seen_days(first / MODEL) == {
        day for name in promotions[-4:-2] for day in days_of(data, name)
    }
    assert seen_days(second / MODEL) == {
        day for name in promotions[-4:-1] for day in days_of(data, name)
    }
    by_promotion = manifest["promotion_weights"]
    assert set(by_promotion) == set(promotions[-4:-2])
    rows = [sum(data.manifest["days"][d]["rows"] for d in days_of(data, p)) for p in by_promotion]
    assert np.average(list(by_promotion.values()), weights=rows) == pytest.approx(1)
    assert by_promotion[promotions[-4]] < 1 < by_promotion[promotions[-3]]
    assert read_manifest(first / MODEL, MODEL)["warm_start"] is None


def test_forgetting_is_measured_on_the_last_promotion_that_the_source_learned(
    small_world, next_config, promotions, first, second
):
    data = opened(small_world, next_config)
    result = read_json(second / "forgetting.json", "it")
    days = days_of(data, promotions[-4])
    assert (result["before"]["promotion"], result["before"]["days"]) == (promotions[-4], days)
    assert result["before"]["model"] == "source"
    losses = []
    for run in (first, second):
        model = load_model(run / MODEL)
        model.calibrate(None)
        frame = predict(model, files_of(data.directory, tuple(days)), data.spec, data.calendar)
        p, y = frame["p_conversion"].to_numpy().astype(float), frame["conversion"].to_numpy()
        losses.append(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
    assert [result[k]["log_loss"] for k in ("before", "after")] == pytest.approx(losses, rel=1e-6)
    assert result["relative_rise"] == pytest.approx(losses[1] / losses[0] - 1, abs=1e-6)


def test_a_model_that_forgot_is_published_only_on_request(
    small_world, next_config, second, tmp_path, caplog
):
    run = tmp_path / "run"
    shutil.copytree(second, run)
    shutil.rmtree(run / MODEL)
    (run / "forgetting.json").unlink()
    started = read_json(run / "warm_start.json", "it")
    started["before"]["log_loss"] /= 2
    write_json(run / "warm_start.json", started)
    data = opened(small_world, next_config)
    strict = configured(next_config, training={"max_forgetting": 0.05})
    with pytest.raises(TrainingError, match=r"above training\.max_forgetting = 5\.00%") as error:
        train(data, run, strict, progress=False)
    assert started["before"]["promotion"] in str(error.value)
    assert read_json(run / "forgetting.json", "it")["relative_rise"] > 0.5
    assert not (run / MODEL).exists()
    allowed = configured(strict, training={"on_forgetting": "warn"})
    train(data, run, allowed, progress=False)
    assert "above training.max_forgetting" in caplog.text
    assert_same(weights(load_model(run / MODEL)), weights(load_model(second / MODEL)))


@pytest.mark.parametrize("fatal_step", [3, 9])
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    small_world, next_config, first, second, tmp_path, monkeypatch, fatal_step
):
    """Killed before and after the first checkpoint, after which the source is not needed."""

    class Killed(BaseException):
        pass

    class KillAt(training.Steps):
        steps = 0

        def take(self, batch, stop=False):
            KillAt.steps += 1
            if KillAt.steps == fatal_step:
                raise Killed
            return super().take(batch, stop)

    source = tmp_path / "source"
    shutil.copytree(first / MODEL, source)
    config = configured(next_config, training={"warm_start": str(source)})
    data = opened(small_world, config)
    with monkeypatch.context() as patch:
        patch.setattr(training, "Steps", KillAt)
        with pytest.raises(Killed):
            train(data, tmp_path / "run", config, progress=False)
    if fatal_step == 9:
        shutil.rmtree(source)
    train(data, tmp_path / "run", config, progress=False)
    assert_same(weights(load_model(tmp_path / "run" / MODEL)), weights(load_model(second / MODEL)))


def test_checkpoints_of_a_run_can_be_started_from(small_world, next_config, first):
    data = opened(small_world, next_config)
    best = warm_start.open_source(str(first / BEST), data)
    by_model = warm_start.open_source(str(first / MODEL), data)
    assert (best.spec, best.config, best.days) == (by_model.spec, by_model.config, by_model.days)
    expected = weights(load_model(first / MODEL))
    assert_same(weights(best.load()), expected)
    numbers = [int(f.stem.partition("-")[2]) for f in first.glob("checkpoints/ckpt-*.index")]
    newest = first / "checkpoints" / f"ckpt-{max(numbers)}"  # after the one epoch, the best
    state = warm_start.open_source(str(newest), data)
    assert_same(weights(state.load()), expected)


def test_what_is_no_source_is_refused_before_anything_is_written(
    small_world, next_config, promotions, first, tmp_path
):
    data = opened(small_world, next_config)

    def refused(source: Path, words: str, data: ExampleSet = data) -> None:
        config = configured(next_config, training={"warm_start": str(source)})
        with pytest.raises(DataError, match=words):
            train(data, tmp_path / "run", config, progress=False)
        assert not (tmp_path / "run").exists()

    refused(tmp_path / "nothing", "neither a trained model")
    refused(first / "checkpoints" / "ckpt-99", "neither a trained model")
    refused(tmp_path, "manifest of the model not found")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").touch()
    refused(tmp_path / "export", "is an export, whose weights are constants")
    split = {"test": (promotions[-3],)}
    learned = opened(small_world, configured(small_world.config, split=split))
    refused(first / BEST, "this run's validation part", learned)
    split |= {"validation": (promotions[-5],)}
    stopped_on = opened(small_world, configured(small_world.config, split=split))
    refused(first / MODEL, "this run's test part", stopped_on)


def test_a_source_that_does_not_fit_leaves_the_output_to_other_settings(
    small_world, next_config, first, tmp_path
):
    data, run = opened(small_world, next_config), tmp_path / "run"
    config = configured(next_config, training={"warm_start": str(first / MODEL)})
    with pytest.raises(DataError, match="no weights that fit"):
        train(data, run, configured(config, model={"name": "hdr"}), progress=False)
    assert not (run / "run.json").exists()
    assert not (run / "warm_start.json").exists()


def test_damaged_weights_are_named(small_world, next_config, first, tmp_path):
    shutil.copytree(first / MODEL, tmp_path / "source")
    (file,) = (tmp_path / "source").glob("weights.data*")
    file.write_bytes(file.read_bytes()[:100])
    data = opened(small_world, next_config)
    source = warm_start.open_source(str(tmp_path / "source"), data)
    with pytest.raises(DataError, match=f"weights at {tmp_path}.* cannot be read"):
        source.load()


def test_examples_without_the_source_s_days_cannot_show_forgetting(
    small_world, next_config, promotions, first, caplog
):
    data = opened(small_world, next_config)
    days = {d: e for d, e in data.manifest["days"].items() if e["promotion"] != promotions[-4]}
    cut = dataclasses.replace(data, manifest=data.manifest | {"days": days})
    known = set(days_of(data, promotions[-4]))
    model = load_model(first / MODEL)
    with pytest.raises(DataError, match=r"no click of the days that .* was trained on"):
        measure_before(model, model, cut, known, next_config.training)
    allowed = next_config.training.model_copy(update={"on_forgetting": "warn"})
    assert measure_before(model, model, cut, known, allowed) is None
    assert "forgetting cannot be measured" in caplog.text


def test_previous_days_are_those_of_the_last_known_promotion(small_world, next_config, promotions):
    data = opened(small_world, next_config)
    two = {day for name in promotions[1:3] for day in days_of(data, name)}
    assert list(previous_days(data, two)) == days_of(data, promotions[2])
    assert previous_days(data, {"1999-01-01"}) == ()


def test_a_source_reads_examples_that_have_all_its_inputs_in_one_form(small_world):
    spec = FeatureSpec.load(small_world.examples / "spec.json")

    def with_one(name: str, **settings) -> FeatureSpec:
        return FeatureSpec(
            features=tuple(
                f.model_copy(update=settings) if f.name == name else f for f in spec.features
            )
        )

    assert reads(spec, spec)
    assert reads(spec, with_one("item_id", buckets=7))
    assert reads(spec, with_one("clicked_ages", length=2))
    assert reads(with_one("price", side="meta"), spec)
    assert not reads(spec, with_one("price", side="meta"))
    assert not reads(spec, with_one("user_id", dtype="string"))
    counts = spec["user_counts"].components
    assert not reads(spec, with_one("user_counts", components=counts[::-1]))


def test_a_source_that_reads_what_the_examples_lack_is_compared_as_it_starts(
    small_world, next_config, promotions, first, second, tmp_path
):
    """The old model also read a number that the examples have no more."""
    run = tmp_path / "older"
    shutil.copytree(first, run)
    described = json.loads((run / "run.json").read_text())
    unknown = {"name": "gone", "dtype": "int64", "side": "item", "encoding": "identity"}
    described["spec"]["features"].append(unknown | {"buckets": 3, "table": "gone"})
    write_json(run / "run.json", described)
    data = opened(small_world, next_config)
    source = warm_start.open_source(str(run / BEST), data)
    assert not reads(source.spec, data.spec)
    model = load_model(first / MODEL)
    model.calibrate(None)
    before = measure_before(model, model, data, source.days["train"], next_config.training)
    assert before is not None
    assert before["model"] == "source"
    other = load_model(first / MODEL)
    other.spec = source.spec
    as_started = measure_before(other, model, data, source.days["train"], next_config.training)
    assert as_started == before | {"model": "start"}
