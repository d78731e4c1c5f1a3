"""One run on one device, on two, and on two workers: the same losses, the same weights."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import Config, TablesConfig, TrainingConfig
from cmdcm.core.errors import ConfigError, PreemptedError, TrainingError
from cmdcm.model import strategies
from cmdcm.model.strategies import TF_CONFIG, Place, cluster_errors, find_place
from cmdcm.model.trained import MODEL, load_history, load_model
from cmdcm.model.transfer import TABLE

TWO_DEVICES = {"strategy": "mirrored", "devices": ("CPU:0", "CPU:1")}


def start(
    config: Config,
    examples: Path,
    output: Path,
    task: dict | None = None,
    stop_at: int | None = None,
):
    """Starts a training in a process of its own, which may get SIGTERM at a step."""
    name = "chief" if task is None else f"{task['task']['type']}{task['task']['index']}"
    settings = output.with_name(f"{output.name}-{name}.json")
    config.save(settings)
    environment = dict(os.environ)
    if task is not None:
        environment[TF_CONFIG] = json.dumps(task)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "cmdcm.tests.model.train_process"),
            *(settings, examples, output),
            *([] if stop_at is None else [str(stop_at)]),
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def trained_with(config: Config, **training) -> Config:
    settings = {"epochs": 1, "checkpoint_steps": 1000, **training}
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


@contextmanager
def servers(small_world, workers: int, shards: int = 1):
    """Starts workers and parameter servers; yields the chief's task and the workers' processes."""
    cluster = {"chief": addresses(1), "worker": addresses(workers), "ps": addresses(shards)}
    config = trained_with(small_world.config, strategy="parameter_server")
    tasks = [(job, n) for job, count in (("ps", shards), ("worker", workers)) for n in range(count)]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        started = []
        for job, number in tasks:
            task = {"cluster": cluster, "task": {"type": job, "index": number}}
            process = start(config, small_world.examples, Path(folder) / "servers", task)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield {"cluster": cluster, "task": {"type": "chief", "index": 0}}, started[shards:]


def finish(process: subprocess.Popen, code: int = 0) -> None:
    _, errors = process.communicate(timeout=500)
    assert process.returncode == code, errors[-3000:]


@pytest.fixture(scope="module")
def runs(small_world, tmp_path_factory) -> dict[str, Path]:
    """The same run by each strategy; all processes at the same time."""
    root, examples = tmp_path_factory.mktemp("strategies"), small_world.examples
    cluster = {"worker": addresses(2)}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": n}} for n in range(2)]
    with servers(small_world, 1) as (chief, _):
        asked: dict[str, tuple[dict[str, Any], Sequence[dict[str, Any] | None]]] = {
            "single": ({}, [None]),
            "mirrored": (TWO_DEVICES, [None]),
            "multiworker": ({"strategy": "multiworker"}, tasks),
            "parameter_server": ({"strategy": "parameter_server"}, [chief]),
        }
        processes = [
            start(trained_with(small_world.config, **settings), examples, root / name, t)
            for name, (settings, tasks) in asked.items()
            for t in tasks
        ]
        for process in processes:
            finish(process)
    return {name: root / name for name in asked}


def assert_equal_models(run: Path, other: Path) -> None:
    models = (load_model(directory / MODEL) for directory in (run, other))
    for one, two in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=2e-6, atol=2e-6, err_msg=one.name)


@pytest.mark.parametrize("strategy", ["mirrored", "multiworker", "parameter_server"])
def test_every_strategy_ends_with_the_same_weights(runs, strategy):
    assert_equal_models(runs["single"], runs[strategy])


@pytest.mark.parametrize("strategy", ["mirrored", "multiworker", "parameter_server"])
def test_every_strategy_reports_the_same_losses_and_metrics(runs, strategy):
    (alone,), (shared,) = (load_history(runs[name] / MODEL) for name in ("single", strategy))
    assert shared == pytest.approx(alone, rel=1e-5)


def test_a_lost_worker_loses_no_batch(runs, small_world, tmp_path):
    """The chief goes on with the worker that is left; every batch is trained on."""
    config = trained_with(small_world.config, strategy="parameter_server", checkpoint_steps=5)
    with servers(small_world, 2) as (task, workers):
        chief = start(config, small_world.examples, tmp_path / "run", task)
        until = time.monotonic() + 400
        while not (tmp_path / "run" / "checkpoints" / "checkpoint").exists():
            assert chief.poll() is None, chief.communicate()[1][-3000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        workers[0].kill()
        finish(chief)
    (alone,), (lossy,) = (load_history(run / MODEL) for run in (runs["single"], tmp_path / "run"))
    # Each loss is a mean over all rows that were trained on, by weights that differ a little.
    for name in ("loss", "loss_direct", "loss_propensity"):
        assert lossy[name] == pytest.approx(alone[name], rel=0.2), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
def test_a_pre_empted_run_goes_on_on_other_devices(runs, small_world, tmp_path, strategy):
    """SIGTERM to one of its processes stops them all; then one device takes over."""
    settings = TWO_DEVICES if strategy == "mirrored" else {"strategy": strategy}
    config, run = trained_with(small_world.config, **settings), tmp_path / "run"
    tasks: list[dict[str, Any] | None] = [None]
    if strategy == "multiworker":
        cluster = {"worker": addresses(2)}
        tasks = [{"cluster": cluster, "task": {"type": "worker", "index": n}} for n in range(2)]
    processes = [
        start(config, small_world.examples, run, task, 3 if task is tasks[-1] else None)
        for task in tasks
    ]
    for process in processes:
        finish(process, code=PreemptedError.exit_code)
    assert not (run / MODEL).exists()
    finish(start(trained_with(small_world.config), small_world.examples, run))
    assert_equal_models(runs["single"], run)


@pytest.mark.slow
def test_tables_that_are_shared_out_train_the_same(small_world, tmp_path):
    """A table of two shards on two servers, with known ids, several hashes and FTRL."""
    known = TablesConfig(min_count={"item": 40}, hashes={"user": 2})
    wide = small_world.config.model_copy(
        update={
            "tables": known,
            "model": small_world.config.model.model_copy(update={"embedding_dim": 128}),
        }
    )
    with servers(small_world, 1, shards=2) as (chief, _):
        started = [
            start(trained_with(wide, table_optimizer="ftrl"), small_world.examples, tmp_path / "1"),
            start(
                trained_with(wide, table_optimizer="ftrl", strategy="parameter_server"),
                small_world.examples,
                tmp_path / "2",
                chief,
            ),
        ]
        for process in started:
            finish(process)
    state = tf.train.load_checkpoint(str(tmp_path / "2" / "checkpoints"))
    rows, dim = state.get_variable_to_shape_map()[f"network/{TABLE}/.ATTRIBUTES/VARIABLE_VALUE"]
    assert dim * rows * 4 >= 2 * strategies._SHARD_BYTES
    assert_equal_models(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("lost", [tf.errors.UnavailableError, tf.errors.AbortedError])
def test_a_lost_process_of_a_cluster_is_told(lost):
    strategy = SimpleNamespace(num_replicas_in_sync=1)
    for place in (Place(strategy, workers=2), Place(strategy, asynchronous=True)):
        told = pytest.raises(TrainingError, match=r"was lost: ps 0 is gone\. Start all of its proc")
        with told, cluster_errors(place):
            raise lost(None, None, "ps 0 is gone")
    with pytest.raises(lost), cluster_errors(Place(strategy)):
        raise lost(None, None, "no cluster here")


def test_a_cluster_without_servers_is_refused(monkeypatch):
    task = {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}
    monkeypatch.setenv(TF_CONFIG, json.dumps(task))
    with pytest.raises(ConfigError, match=r"needs one `chief`, `worker`s and `ps`s"):
        find_place(TrainingConfig(strategy="parameter_server"))


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    three = Place(SimpleNamespace(num_replicas_in_sync=3))
    monkeypatch.setitem(strategies._PLACES, "mirrored", lambda config: three)
    assert find_place(TrainingConfig(strategy="mirrored", batch_size=255)) is three
    with pytest.raises(ConfigError, match="256 examples cannot be shared evenly by 3 replicas"):
        find_place(TrainingConfig(strategy="mirrored", batch_size=256))


def test_devices_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match=r"\['GPU:7'\] are not among this host's: .'CPU:0'"):
        find_place(TrainingConfig(strategy="mirrored", devices=("GPU:7",)))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"cluster": {}}', '{"cluster": {"worker": []}, "task": {"type": "worker"}}'],
)
def test_a_worker_without_its_cluster_is_told_what_is_missing(monkeypatch, text):
    monkeypatch.setenv(TF_CONFIG, text)
    with pytest.raises(ConfigError, match="needs the environment variable TF_CONFIG"):
        find_place(TrainingConfig(strategy="multiworker"))
