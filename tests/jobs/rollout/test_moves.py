"""Steps between placements, and waiting for versions, against a server that plays back states."""

from concurrent import futures

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.config import RolloutConfig
from cmdcm.core.errors import ServingError
from cmdcm.jobs.rollout.config_file import Placement
from cmdcm.jobs.rollout.moves import steps, wait_until_available
from cmdcm.jobs.rollout.server import Server
from cmdcm.serving.status import StatusError
from cmdcm.serving.versions import State


@st.composite
def placements(draw) -> Placement:
    versions = draw(st.frozensets(st.integers(1, 5), min_size=1))
    names = st.sampled_from(["stable", "canary", "previous"])
    labels = draw(st.dictionaries(names, st.sampled_from(sorted(versions))))
    return Placement(versions, labels)


@given(placements(), placements())
def test_a_label_only_ever_names_versions_that_are_loaded(now, wanted):
    found = steps(now, wanted)
    assert found[-1] == wanted
    for before, step in zip((now, *found), found, strict=False):
        # Versions load and unload at their own time: what a label names, before or after a step,
        # is asked for on both sides of it; new ones have been waited for when labels move.
        if step.labels != before.labels:
            assert step.versions == before.versions
        assert {*before.labels.values(), *step.labels.values()} <= before.versions | step.versions
        assert set(step.labels.values()) <= step.versions
        assert set(before.labels.values()) <= step.versions or step == wanted


class Playback(model_service_pb2_grpc.ModelServiceServicer):
    """Tells one state of version 2 after the other, the last one for ever; refuses reloads."""

    def __init__(self, *states: State | None):
        self.states = list(states)

    def GetModelStatus(self, request, context):  # noqa: N802
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        answer = get_model_status_pb2.GetModelStatusResponse()
        if state is not None:
            status = answer.model_version_status.add(version=2, state=state)
            if state == State.END:
                status.status.error_code = 5
                status.status.error_message = "no such file"
        return answer

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        answer = model_management_pb2.ReloadConfigResponse()
        answer.status.error_code = 3
        answer.status.error_message = "a base path is missing"
        return answer


@pytest.fixture
def play():
    """Starts a server that plays back states."""
    servers, clients = [], []

    def start(*states) -> Server:
        server = grpc.server(futures.ThreadPoolExecutor(1))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Playback(*states), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        clients.append(Server(f"127.0.0.1:{port}", "m"))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in servers:
        server.stop(None)


QUICK = RolloutConfig(poll_seconds=0.001)
WANTED = frozenset({2})


def test_waiting_for_a_version(play):
    wait_until_available(play(None, State.START, State.LOADING, State.AVAILABLE), WANTED, QUICK)


def test_a_failure_of_before_is_not_taken_for_one_of_now(play):
    states = [State.END] * 3 + [State.LOADING] + [State.END] * 3 + [State.AVAILABLE]
    wait_until_available(play(*states), WANTED, QUICK)


def test_a_failure_that_lasts(play):
    with pytest.raises(ServingError, match="cannot load version 2: NOT_FOUND: no such file"):
        wait_until_available(play(State.END), WANTED, QUICK)


def test_a_version_that_loads_for_ever(play):
    settings = RolloutConfig(poll_seconds=0.001, load_timeout_seconds=0.05)
    with pytest.raises(ServingError, match=r"version 2 after 0\.05 s .*it is LOADING"):
        wait_until_available(play(State.LOADING), WANTED, settings)


def test_a_reload_that_is_refused_in_its_answer(play):
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: a base path is missing") as caught:
        play(State.AVAILABLE).reload(ModelServerConfig())
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
