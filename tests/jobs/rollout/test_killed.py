"""A roll-out that is killed before or after any of its steps, against servers in memory."""

from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from cmdcm.core.config import RolloutConfig
from cmdcm.jobs.rollout import rollout as module
from cmdcm.jobs.rollout.config_file import ModelConfigFile, placement_of
from cmdcm.jobs.rollout.rollout import Author, Rollout
from cmdcm.serving.status import StatusError
from cmdcm.serving.versions import State, VersionStatus
from cmdcm.tests.jobs.rollout.world import write_config

SETTINGS = RolloutConfig(min_rows=1, poll_seconds=0.001)


class Killed(BaseException):
    """The process has ended."""


class Process:
    """Ends before its step number `steps`, and does nothing from then on."""

    def __init__(self, steps: int):
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class MemoryServer:
    """A server that loads at once, and refuses labels of versions that it has not loaded yet."""

    def __init__(self, number: int, entry):
        self.target = f"server-{number}:8500"
        self.process = Process(1_000)
        placement = placement_of(entry)
        self.versions, self.labels = set(placement.versions), dict(placement.labels)

    def available(self) -> list[int]:
        return sorted(self.versions)

    def statuses(self) -> dict[int, VersionStatus]:
        return {v: VersionStatus(v, State.AVAILABLE) for v in self.versions}

    def labelled(self, label: str) -> int | None:
        return self.labels.get(label)

    def reload(self, config) -> None:
        self.process.step()
        tiny, other = config.model_config_list.config
        assert dict(other.version_labels) == {"live": 1}
        placement = placement_of(tiny)
        assert set(self.labels.values()) <= placement.versions | set(placement.labels.values())
        if not set(placement.labels.values()) <= self.versions:
            raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, "not available")
        self.versions, self.labels = set(placement.versions), dict(placement.labels)
        self.process.step()

    def scores(self, *_: object) -> np.ndarray:
        return np.ones(5)


class MemoryFile(ModelConfigFile):
    """A model config file whose process may be killed before and after it is replaced."""

    process = Process(1_000)

    def write(self, config) -> None:
        self.process.step()
        super().write(config)
        self.process.step()


ACTIONS = {
    "canary": lambda rollout: rollout.canary(2),
    "promote": lambda rollout: rollout.promote(["requests"]),
    "cancel": lambda rollout: rollout.rollback(),
    "return": lambda rollout: rollout.rollback(),
}
BEFORE = {
    "canary": ({"stable": 1, "previous": 3}, (1, 3)),
    "promote": ({"stable": 1, "canary": 2}, (1, 2)),
    "cancel": ({"stable": 1, "canary": 2}, (1, 2)),
    "return": ({"stable": 2, "previous": 1}, (1, 2)),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_kill_leaves_labels_on_loaded_versions_and_a_way_back(tmp_path, monkeypatch, action):
    monkeypatch.setattr(module, "read_requests", lambda *_: [predict_pb2.PredictRequest()])
    ended = False
    kills = 0
    while not ended:
        folder = tmp_path / str(kills)
        file = MemoryFile(write_config(folder / "m.config", folder, *flat(BEFORE[action])), "tiny")
        servers: list[Any] = [MemoryServer(number, file.entry()) for number in (1, 2)]
        rollout = Rollout(file, servers, SETTINGS, Author("ann"))
        set_process(file, servers, Process(kills))
        try:
            ACTIONS[action](rollout)
            ended = True
        except Killed:
            kills += 1
        set_process(file, servers, Process(1_000))
        for server in servers:
            assert set(server.labels.values()) <= server.versions
            assert server.labels["stable"] in (1, 2)
        rollout.rollback(1)
        assert rollout.faults() == []
        assert [(s.labels, s.versions) for s in servers] == [({"stable": 1}, {1})] * 2
    assert kills >= 6


def flat(before):
    labels, versions = before
    return (labels, *versions)


def set_process(file, servers, process) -> None:
    for one in (file, *servers):
        one.process = process
