"""A training as a run in MLflow: what is there, how it goes on, and that it harms no training."""

import json
import socket
import threading
from pathlib import Path

import pytest
from absl import logging

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import ConfigError, TrainingError
from cmdcm.features.dataset import ExampleSet
from cmdcm.model import mlflow_run
from cmdcm.model.mlflow_run import MlflowRun, data_checksum, tracked_run, trackers
from cmdcm.model.trained import MODEL

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'runs' / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(uri):
    from cmdcm.core.mlflow_store import open_store

    return open_store(uri).client


def tracked(config: Config, uri: str, **changes) -> Config:
    # However slow the machine is, a test sees all that is recorded.
    given = {"mlflow": True, "uri": uri, "flush_seconds": 3600.0, **changes}
    tracking = config.tracking.model_copy(update=given)
    return config.model_copy(update={"tracking": tracking})


def finished(output: Path) -> Path:
    """A training's directory as it is at its end."""
    model = output / MODEL
    model.mkdir(parents=True, exist_ok=True)
    (model / "weights.index").write_bytes(b"x" * 10)
    (model / "config.json").write_text('{"warm_start": "s3://key:secret@bucket/model"}')
    (model / "history.json").write_text("[]")
    return output


def of(client, output: Path, uri: str):
    run = tracked_run(output, uri)
    assert run is not None
    return client.get_run(run)


def steps(client, run, name: str) -> list[tuple[int, float]]:
    points = client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def files(client, run, folder: str = "") -> set[str]:
    found = client.list_artifacts(run.info.run_id, folder or None)
    inner = [files(client, run, entry.path) for entry in found if entry.is_dir]
    return {entry.path for entry in found if not entry.is_dir}.union(*inner)


def test_a_run_has_configuration_data_code_metrics_and_files(
    data, small_world, uri, client, tmp_path
):
    output = finished(tmp_path / "run")
    observer = MlflowRun(data, output, tracked(small_world.config, uri))
    observer.started(0)
    observer.stepped(20, {"step/loss": 0.5, "speed/examples_per_second": 10.0})
    observer.stepped(40, {"step/loss": 0.25})
    record = {"epoch": 1.0, "val_log_loss_conversion": 0.125, "val_auc_direct": float("nan")}
    observer.finished_epoch(1, {**record, "speed/examples_per_second": 9.0})
    observer.ended(None)

    run = of(client, output, uri)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "256"
    assert json.loads(run.data.params["model.trunk_units"]) == [16, 8]
    assert run.data.tags["examples_sha256"] == data_checksum(data)
    assert run.data.tags["mlflow.source.git.commit"]
    assert steps(client, run, "step/loss") == [(20, 0.5), (40, 0.25)]
    assert steps(client, run, "speed/examples_per_second") == [(20, 10.0)]
    assert steps(client, run, "epoch/speed/examples_per_second") == [(1, 9.0)]
    assert steps(client, run, "val_log_loss_conversion") == [(1, 0.125)]
    assert "val_auc_direct" not in run.data.metrics  # it is not a number
    assert files(client, run) == {
        "config.json",
        "split.json",
        "examples/manifest.json",
        "model/weights.index",
        "model/config.json",
        "model/history.json",
    }
    inputs = {entry.dataset.name: entry.dataset for entry in run.inputs.dataset_inputs}
    assert inputs["examples-train"].digest == data_checksum(data)[:36]
    assert json.loads(inputs["examples-train"].profile)["rows"] == data.total("train")
    manifest = Path(client.download_artifacts(run.info.run_id, "examples/manifest.json"))
    assert json.loads(manifest.read_text())["files"] == data.manifest["files"]


def test_a_large_file_stays_where_it_is_and_is_named(data, small_world, uri, client, tmp_path):
    output = finished(tmp_path / "run")
    observer = MlflowRun(data, output, tracked(small_world.config, uri, max_artifact_mb=0))
    observer.started(0)
    observer.ended(None)
    run = of(client, output, uri)
    assert run.data.tags["not_uploaded"] == "config.json, history.json, weights.index"
    assert run.data.tags["model_directory"] == str(output / MODEL)


def test_no_credentials_are_recorded(data, small_world, uri, client, tmp_path):
    output = finished(tmp_path / "run")
    training = small_world.config.training.model_copy(
        update={"warm_start": "s3://key:secret@bucket/model"}
    )
    config = small_world.config.model_copy(update={"training": training})
    observer = MlflowRun(data, output, tracked(config, uri))
    observer.started(0)
    observer.ended(TrainingError("cannot read gs://bucket/x?token=secret"))
    run = of(client, output, uri)
    assert run.info.status == "FAILED"
    assert run.data.params["training.warm_start"] == "s3://***@bucket/model"
    assert run.data.tags["error"] == "TrainingError: cannot read gs://bucket/x?***"
    again = MlflowRun(data, output, tracked(config, uri))
    again.started(0)
    again.ended(None)
    for name in files(client, run):
        content = Path(client.download_artifacts(run.info.run_id, name)).read_bytes()
        assert b"secret" not in content, name


def test_a_training_that_goes_on_goes_on_with_its_run_and_repeats_nothing(
    data, small_world, uri, client, tmp_path
):
    config, output = tracked(small_world.config, uri), finished(tmp_path / "run")
    first = MlflowRun(data, output, config)
    first.started(0)
    first.stepped(20, {"step/loss": 0.5})
    first.finished_epoch(1, {"epoch": 1.0, "loss": 0.5})
    first.stepped(40, {"step/loss": 0.4})
    first.ended(KeyboardInterrupt())
    assert of(client, output, uri).info.status == "KILLED"

    second = MlflowRun(data, output, config)
    second.started(30)  # the last checkpoint was before step 40
    second.stepped(40, {"step/loss": 0.4})
    second.stepped(60, {"step/loss": 0.3})
    second.finished_epoch(2, {"epoch": 2.0, "loss": 0.3})
    second.ended(None)
    run = of(client, output, uri)
    assert run.info.status == "FINISHED"
    assert steps(client, run, "step/loss") == [(20, 0.5), (40, 0.4), (60, 0.3)]
    assert steps(client, run, "loss") == [(1, 0.5), (2, 0.3)]


def test_a_run_that_the_store_no_longer_has_is_started_anew(data, small_world, uri, tmp_path):
    output = finished(tmp_path / "run")
    (output / "mlflow.json").write_text(json.dumps({"uri": uri, "run": "0" * 32}))
    observer = MlflowRun(data, output, tracked(small_world.config, uri))
    observer.started(0)
    observer.ended(None)
    assert tracked_run(output, uri) not in (None, "0" * 32)
    assert tracked_run(output, "https://elsewhere") is None


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    return said


def test_a_server_that_is_not_there_costs_one_warning(
    data, small_world, tmp_path, warnings, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    observer = MlflowRun(data, finished(tmp_path / "run"), tracked(small_world.config, address))
    observer.started(0)
    observer.stepped(20, {"step/loss": 0.5})
    observer._thread.join()
    observer.stepped(40, {"step/loss": 0.5})
    observer.finished_epoch(1, {"epoch": 1.0})
    observer.ended(None)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"MLflow at {address} failed")


def test_a_store_that_hangs_holds_up_neither_steps_nor_the_end(
    data, small_world, uri, tmp_path, warnings, monkeypatch
):
    goes_on = threading.Event()
    monkeypatch.setattr(mlflow_run, "open_store", lambda _: goes_on.wait() and 1 / 0)
    monkeypatch.setattr(mlflow_run, "_MAX_WAITING", 3)
    config = tracked(small_world.config, uri, flush_seconds=0.0)
    observer = MlflowRun(data, finished(tmp_path / "run"), config)
    observer.started(0)
    for step in range(10):
        observer.stepped(step, {"step/loss": 0.5})
    assert observer._waiting.qsize() <= 3
    observer.ended(None)
    assert ["too slow" in text or "not done" in text for text in warnings] == [True, True]
    goes_on.set()
    observer._thread.join()


def test_mlflow_is_asked_for_by_the_configuration_and_needs_to_be_there(
    data, small_world, uri, tmp_path, monkeypatch
):
    on = tracked(small_world.config, uri)
    assert [type(o) for o in trackers(data, tmp_path, on)] == [MlflowRun]
    assert trackers(data, tmp_path, tracked(small_world.config, uri, mlflow=False)) == []
    monkeypatch.setattr(mlflow_run, "mlflow_installed", lambda: False)
    assert trackers(data, tmp_path, on) == []


def test_credentials_in_the_uri_are_refused_and_not_shown():
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME") as caught:
        load_config(overrides=['tracking.uri="https://ann:secret@mlflow:5000"'])
    assert "secret" not in str(caught.value)


def test_a_checksum_depends_on_every_file(data):
    files = {**data.manifest["files"]}
    name = next(iter(files))
    files[name] = {**files[name], "sha256": "0" * 64}
    other = ExampleSet(
        data.directory, {**data.manifest, "files": files}, data.spec, data.calendar, data.split
    )
    assert len(data_checksum(data)) == 64
    assert data_checksum(other) != data_checksum(data)
