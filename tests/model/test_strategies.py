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

from cmdcm.core.config import Config, TrainingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.model import strategies
from cmdcm.model.strategies import TF_CONFIG, Place, find_place
from cmdcm.model.trained import MODEL, load_history, load_model

TWO_DEVICES = {"strategy": "mirrored", "devices": ("CPU:0", "CPU:1")}


def start(config: Config, examples: Path, output: Path, task: dict | None = None):
    """Starts a training in a process of its own."""
    name = "chief" if task is None else f"{task['task']['type']}{task['task']['index']}"
    settings = output.with_name(f"{output.name}-{name}.json")
    config.save(settings)
    environment = dict(os.environ)
    if task is not None:
        environment[TF_CONFIG] = json.dumps(task)
    return subprocess.Popen(
        [sys.executable, "-m", "cmdcm.tests.model.train_process", settings, examples, output],
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
def servers(small_world, workers: int):
    """Starts workers and a parameter server; yields the chief's task and the workers' processes."""
    cluster = {"chief": addresses(1), "worker": addresses(workers), "ps": addresses(1)}
    config = trained_with(small_world.config, strategy="parameter_server")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        started = []
        for job, number in [("ps", 0), *(("worker", n) for n in range(workers))]:
            task = {"cluster": cluster, "task": {"type": job, "index": number}}
            process = start(config, small_world.examples, Path(folder) / "servers", task)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield {"cluster": cluster, "task": {"type": "chief", "index": 0}}, started[1:]


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]


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


@pytest.mark.parametrize("strategy", ["mirrored", "multiworker", "parameter_server"])
def test_every_strategy_ends_with_the_same_weights(runs, strategy):
    alone, shared = load_model(runs["single"] / MODEL), load_model(runs[strategy] / MODEL)
    for one, other in zip(alone.weights, shared.weights, strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), rtol=0, atol=2e-6, err_msg=one.name)


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
