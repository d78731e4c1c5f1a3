"""The trained model in an export: a warm start from the version, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_json, read_manifest, verify_manifest
from cmdcm.core.locations import location
from cmdcm.export.publish import export_model
from cmdcm.export.versions import publish
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.main import main, parse
from cmdcm.model import warm_start
from cmdcm.model.registry import make_model
from cmdcm.model.scoring import predict
from cmdcm.model.trained import EXPORTED, MODEL, load_history, load_model, seen_days, zero_inputs
from cmdcm.model.training import build_model, train
from cmdcm.model.transfer import as_text, transfer

SMALL = {"warmup_candidates": (1,), "check_rows": 10, "max_warmup_rows": 1}


def configured(config: Config, **settings: dict) -> Config:
    return config.model_copy(
        update={n: getattr(config, n).model_copy(update=s) for n, s in settings.items()}
    )


def opened(world, config: Config) -> ExampleSet:
    return ExampleSet.open(world.examples, config.split)


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def promotions(small_world) -> list[str]:
    manifest = read_manifest(small_world.examples, "examples")["promotions"]
    return sorted(manifest, key=lambda name: manifest[name]["first_day"])


@pytest.fixture(scope="module")
def trained(small_world, promotions, tmp_path_factory) -> Path:
    """A model for the last promotion but one."""
    split = {"test": (promotions[-2],), "windows": 1}
    config = configured(small_world.config, split=split, training={"epochs": 1})
    run = tmp_path_factory.mktemp("trained") / "run"
    train(opened(small_world, config), run, config, progress=False)
    return run / MODEL


@pytest.fixture(scope="module")
def version(small_world, trained, tmp_path_factory) -> Path:
    """An export of it by the command, whose own table has lost most of its precision."""
    base = tmp_path_factory.mktemp("serving") / "cmdcm"
    line = ["cmdcm", "export", "--model", str(trained), "--examples", str(small_world.examples)]
    line += ["--output", str(base), "--set", "export.table_dtype=int8"]
    for setting in ("max_table_loss=1", "warmup_candidates=[1]", "check_rows=10"):
        line += ["--set", f"export.{setting}"]
    assert main(parse(line)) == 0
    return base / "1"


@pytest.fixture(scope="module")
def next_config(small_world, promotions) -> Config:
    """The run for the last promotion, which goes on from the other one."""
    return configured(
        small_world.config,
        split={"test": (promotions[-1],), "windows": 2},
        training={"epochs": 1, "max_forgetting": 10.0},
    )


def test_a_version_carries_the_very_files_of_the_trained_model(trained, version):
    verify_manifest(version)
    assert contents(version / EXPORTED) == contents(trained)
    assert f"{EXPORTED}/weights.index" in read_manifest(version, "export")["files"]
    base = location("memory://training-model/cmdcm")
    assert publish(version, base) == 1
    arrived = {str(f).partition("/cmdcm/1/")[2] for f in base.rglob("*") if f.is_file()}
    assert arrived == set(contents(version))


@pytest.mark.slow
def test_a_run_goes_on_from_a_version(small_world, next_config, trained, version, tmp_path):
    config = configured(next_config, training={"warm_start": str(version)})
    train(opened(small_world, config), tmp_path / "run", config, progress=False)
    known = read_manifest(tmp_path / "run" / MODEL, MODEL)["warm_start"]
    assert known["source"] == str(version)
    assert {day for days in known["days"].values() for day in days} == seen_days(trained)
    start, _ = load_history(tmp_path / "run" / MODEL)
    source = load_model(trained)
    source.calibrate(None)
    data = opened(small_world, config)
    frame = predict(source, data.files("validation"), data.spec, data.calendar)
    p, y = frame["p_conversion"].to_numpy().astype(float), frame["conversion"].to_numpy()
    log_loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert start["val_log_loss_conversion"] == pytest.approx(log_loss, rel=1e-6)


def test_it_starts_as_from_the_trained_model_bit_for_bit(
    small_world, next_config, trained, version, tmp_path
):
    data = opened(small_world, next_config)
    frames, written = [], []
    for number, setting in enumerate((trained, version)):
        model, output = build_model(data, next_config), tmp_path / str(number)
        source = warm_start.open_source(str(setting), data)
        warm_start.start(source, model, data, output, next_config.training, writes=True)
        frames.append(predict(model, data.files("test"), data.spec, data.calendar))
        written.append(read_json(output / "warm_start.json", "it"))
    assert len(frames[0]) > 100 and frames[0].equals(frames[1])
    assert [start.pop("source") for start in written] == [str(trained), str(version)]
    assert written[0] == written[1]


def test_other_vocabularies_and_features_match_as_with_the_trained_model(
    small_world, next_config, trained, version
):
    data = opened(small_world, next_config)
    features = []
    for feature in data.spec.features:
        if feature.name == "price":
            continue
        if feature.vocabulary:
            feature = feature.model_copy(update={"vocabulary": ("new", *feature.vocabulary[1:])})
        features.append(feature)
    tables = []
    for setting in (trained, version):
        model = make_model(FeatureSpec(features=tuple(features)), next_config.model)
        model.score(*zero_inputs(model.spec))
        source = warm_start.open_source(str(setting), data)
        tables.append(as_text(transfer(source.load(), model)))
    assert tables[0] == tables[1]
    assert "new, as the unknown value: new" in tables[0] and "price" in tables[0]


def test_a_version_without_the_trained_model_names_the_setting(
    small_world, next_config, trained, tmp_path
):
    config = configured(small_world.config, export={**SMALL, "training_model": False})
    data = opened(small_world, next_config)
    made = export_model(load_model(trained), tmp_path, config, data, trained=trained)
    assert not (made.path / EXPORTED).exists()
    assert set(read_manifest(made.path, "export")["seen_days"]) == seen_days(trained)
    with pytest.raises(DataError, match=r"made without export\.training_model; give .* RUN/model"):
        warm_start.open_source(str(made.path), data)


def test_a_version_with_another_file_is_refused(small_world, next_config, version, tmp_path):
    copy = tmp_path / "1"
    shutil.copytree(version, copy)
    data = opened(small_world, next_config)
    assert warm_start.open_source(str(copy), data).weights == copy / EXPORTED / "weights"
    (weights,) = (copy / EXPORTED).glob("weights.data*")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=rf"{EXPORTED}/weights\.data.*: SHA-256 differs"):
        warm_start.open_source(str(copy), data)
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="manifest not found"):
        warm_start.open_source(str(copy), data)
