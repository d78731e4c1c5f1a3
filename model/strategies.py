"""Where the replicas of a run are: one word of the configuration -> a distribution strategy.

single            one device
mirrored          the GPUs of this host, each with all weights
multiworker       several hosts (TF_CONFIG), each replica with all weights
tpu               a TPU or a slice of them
parameter_server  tables shared out over servers, workers without weights (TF_CONFIG)
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from absl import logging

from cmdcm.core.config import TrainingConfig
from cmdcm.core.errors import ConfigError, TrainingError

TF_CONFIG = "TF_CONFIG"
"""The environment variable that tells a process its cluster and its task there, as JSON."""

_SHARD_BYTES = 256 << 10  # smaller tables stay whole

_EXAMPLE = {
    "cluster": {"worker": ["HOST:PORT", "HOST:PORT"]},
    "task": {"type": "worker", "index": 0},
}


@dataclass(frozen=True)
class Place:
    """The replicas of a run, and this process among its workers.

    Attributes:
        strategy: The distribution strategy; TensorFlow's default one for a single device.
        chief: Whether this process writes checkpoints, logs and the model.
        workers: Processes that train.
        servers: Parameter servers that share the tables; 1 if there are none.
        asynchronous: Whether each worker takes batches of its own, without waiting for the others.
        device_tables: Whether the devices hold tables of their own, and need static shapes and rows
            instead of ids (`model/tpu.py`).
    """

    strategy: tf.distribute.Strategy
    chief: bool = True
    workers: int = 1
    servers: int = 1
    asynchronous: bool = False
    device_tables: bool = False

    @property
    def alone(self) -> bool:
        """Whether no other process takes the same steps as this one."""
        return self.workers == 1 or self.asynchronous

    @property
    def background(self) -> bool:
        """Whether the state is this process' own, between two steps.

        Then checkpoints can be written from a copy while the run goes on, and a step be measured.
        """
        return not self.asynchronous and not self.device_tables

    @property
    def replicas(self) -> int:
        """Replicas among which each batch is shared."""
        return int(self.strategy.num_replicas_in_sync)


def find_place(config: TrainingConfig) -> Place:
    """Returns the replicas that `training.strategy` asks for.

    In a process that `TF_CONFIG` calls a worker or a parameter server of `parameter_server` it does
    not return: the process serves its chief until it is stopped.

    Raises:
        ConfigError: They are not there, or cannot share a batch evenly.
    """
    place = _PLACES[config.strategy](config)
    if config.batch_size % place.replicas:
        raise ConfigError(
            f"training.batch_size: {config.batch_size} examples cannot be shared evenly by "
            f"{place.replicas} replicas; take a multiple of {place.replicas}"
        )
    return place


@contextlib.contextmanager
def cluster_errors(place: Place) -> Iterator[None]:
    """Turns what TensorFlow raises when a process of a cluster is gone into a `TrainingError`."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if not place.asynchronous and place.workers == 1:
            raise
        raise TrainingError(
            f"a process of the cluster was lost: {error.message}. Start all of its processes "
            "again: the run goes on from its last checkpoint"
        ) from error


def cluster(strategy: str) -> Mapping[str, Any]:
    """Returns what `TF_CONFIG` says: the tasks' addresses by job, and which task this process is.

    Raises:
        ConfigError: It is missing, or is no such JSON.
    """
    text = os.environ.get(TF_CONFIG, "")
    try:
        found = json.loads(text)
        task = found["task"]
        found["cluster"][task["type"]][int(task["index"])]
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"training.strategy={strategy} needs the environment variable {TF_CONFIG} in every "
            f"process, such as {json.dumps(_EXAMPLE)}. Received: {text!r}"
        ) from error
    return found


def _single(config: TrainingConfig) -> Place:
    return Place(tf.distribute.get_strategy())


def _mirrored(config: TrainingConfig) -> Place:
    there = [d.name.removeprefix("/device:") for d in tf.config.list_logical_devices()]
    missing = sorted(set(config.devices) - set(there))
    if missing:
        raise ConfigError(f"training.devices: {missing} are not among this host's: {there}")
    return Place(tf.distribute.MirroredStrategy(config.devices or None))


def _multiworker(config: TrainingConfig) -> Place:
    found = cluster("multiworker")
    task, tasks = found["task"], found["cluster"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    chief = task["type"] == "chief" or ("chief" not in tasks and int(task["index"]) == 0)
    return Place(strategy, chief, len(tasks.get("worker", ())) + len(tasks.get("chief", ())))


def _parameter_server(config: TrainingConfig) -> Place:
    found = cluster("parameter_server")
    tasks, task = found["cluster"], found["task"]
    if not tasks.get("ps") or not tasks.get("worker") or len(tasks.get("chief", ())) != 1:
        raise ConfigError(
            f"training.strategy=parameter_server needs one `chief`, `worker`s and `ps`s in "
            f"{TF_CONFIG}. Received: {sorted(tasks)}"
        )
    if task["type"] != "chief":
        logging.info("serving as %s %d, until the process is stopped", task["type"], task["index"])
        tf.distribute.Server(tasks, task["type"], int(task["index"]), "grpc").join()
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")
    partitioner = tf.distribute.experimental.partitioners.MinSizePartitioner(
        _SHARD_BYTES, max_shards=len(tasks["ps"])
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
    if strategy.num_replicas_in_sync > 1:
        raise ConfigError(
            f"training.strategy=parameter_server: {strategy.num_replicas_in_sync} GPUs in one "
            "worker; give each worker process one of them (CUDA_VISIBLE_DEVICES)"
        )
    _Coordinator(strategy)  # a strategy has one, the first; TensorFlow makes it early
    return Place(
        strategy, workers=len(tasks["worker"]), servers=len(tasks["ps"]), asynchronous=True
    )


def _tpu(config: TrainingConfig) -> Place:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(config.tpu)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise ConfigError(
            f"training.strategy=tpu finds no TPU at training.tpu = {config.tpu!r}: run it on a TPU "
            f"VM with TensorFlow for TPUs (pip install tensorflow-tpu). TensorFlow says: {error}"
        ) from error
    return Place(strategy, device_tables=True)


class _Coordinator(tf.distribute.coordinator.ClusterCoordinator):
    def __del__(self) -> None:
        """Does not wait for its threads, as TensorFlow does, for ever if a worker is lost."""


_PLACES: Mapping[str, Callable[[TrainingConfig], Place]] = {
    "single": _single,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "parameter_server": _parameter_server,
    "tpu": _tpu,
}
