"""Two servers of one model config file, as a deployment has them, and traffic on them."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.config import ServingConfig
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.jobs.rollout.config_file import Placement, place, write_text_proto
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving.stubs import WAIT, candidates_request


def write_config(path: Path, base: Path, labels: dict[str, int], *versions: int) -> Path:
    """Writes a file of the models `tiny`, at its versions, and `other`, at version 1."""
    config = ModelServerConfig()
    for name in ("tiny", "other"):
        config.model_config_list.config.add(
            name=name, base_path=str(base), model_platform="tensorflow"
        )
    tiny, other = config.model_config_list.config
    if versions:
        place(tiny, Placement(frozenset(versions), labels))
    place(other, Placement(frozenset({1}), {"live": 1}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_proto(path, config)
    return path


@contextlib.contextmanager
def serving(path: Path, count: int = 2, **settings: object) -> Iterator[list[EmbeddedServer]]:
    """Runs servers of a model config file."""
    config = ServingConfig(
        port=0,
        rest_port=-1,
        poll_seconds=0.05,
        model_config_file=str(path),
        allow_version_labels_for_unavailable_models=True,
        **settings,
    )
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(EmbeddedServer(config=config)) for _ in range(count)]


def answered(target: str, label: str | None, name: str = "tiny") -> int:
    """The version that answers a scoring request with a label, or with none."""
    spec = {} if label is None else {"label": label}
    request = candidates_request(**spec)
    request.model_spec.name = name
    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=WAIT)
    version = int(answer.model_spec.version.value)
    assert set(answer.outputs["cart_effect"].float_val) == {float(version)}
    return version


def entries(path: Path) -> list[dict]:
    """The audit log of a model config file."""
    return [json.loads(line) for line in audit_path(path).read_text().splitlines()]


class Traffic:
    """Scoring requests for `stable` and for the model `other` without pause, on all servers."""

    def __init__(self, targets: list[str]):
        self.versions: set[int] = set()
        self.calls = 0
        self.failures: list[str] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[target]) for target in targets]

    def _run(self, target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stopping.is_set():
                for name, label in (("tiny", "stable"), ("other", "live")):
                    request = candidates_request(label=label)
                    request.model_spec.name = name
                    try:
                        answer = stub.Predict(request, timeout=WAIT)
                    except grpc.RpcError as error:
                        self.failures.append(f"{name} {label}: {error.code()} {error.details()}")
                        continue
                    self.calls += 1
                    if name == "tiny":
                        self.versions.add(int(answer.model_spec.version.value))

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
