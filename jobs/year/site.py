"""The serving side of the year: one server, asked for `stable` all the time.

What answers is written down, so that a version which should not have answered, or a time in which
none did, is seen and not inferred.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.closing import Closing
from cmdcm.core.config import Config, ServingConfig
from cmdcm.core.errors import ServingError
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.jobs.rollout.config_file import (
    STABLE,
    ModelConfigFile,
    Placement,
    place,
    placement_of,
    write_text_proto,
)
from cmdcm.jobs.rollout.server import Server
from cmdcm.jobs.rollout.shift import read_requests
from cmdcm.serving.channels import open_channel
from cmdcm.serving.server import EmbeddedServer

PAUSE_SECONDS = 0.2
"""Between two requests."""

DEADLINE_SECONDS = 60.0
"""Of a request: not how fast, but whether an answer comes is watched."""

_MESSAGE_BYTES = ServingConfig().max_message_mb << 20


class Site(Closing):
    """A server of a model config file, and who asks it.

    Args:
        folder: Gets `models.config`.
        config: Name of the model; the base path is `retrain.output`.
        version: The version that is stable at the start.

    Attributes:
        target: The server's gRPC address; the same after a restart.
        answered: Version -> answers that it gave to requests for `stable`.
        failures: Requests for `stable` that were not answered though the server was up.
    """

    def __init__(self, folder: Path, config: Config, version: int) -> None:
        self.answered: Counter[int] = Counter()
        self.failures: list[str] = []
        self._model = config.export.name
        base = Path(config.retrain.output).resolve()
        described = ModelServerConfig()
        entry = described.model_config_list.config.add(
            name=self._model, base_path=str(base), model_platform="tensorflow"
        )
        place(entry, Placement(frozenset({version}), {STABLE: version}))
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "models.config"
        write_text_proto(self.file, described)
        self._request = next(iter(read_requests([base / str(version) / WARMUP_FILE], 1)))
        self._port = 0
        self._watched = threading.Lock()
        self._ending = threading.Event()
        self._server: EmbeddedServer | None = None
        self._start()
        self._port = self._running().port
        self.target = self._running().target
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stable(self) -> int:
        """Returns the version that is stable: what the file says, and the server if it is up.

        Raises:
            ServingError: The server answers with another version than the file says.
        """
        labels = placement_of(ModelConfigFile(self.file, self._model).entry()).labels
        version = labels[STABLE]
        if self._server is not None:
            with Server(self.target, self._model, round(DEADLINE_SECONDS * 1000)) as server:
                found = server.labelled(STABLE)
            if found != version:
                raise ServingError(f"{self.target} answers with {found}, the file says {version}")
        return version

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Stops the server for a while, and starts it again on its port."""
        with self._watched:
            self._running().stop()
            self._server = None
            try:
                yield
            finally:
                self._start()

    def close(self) -> None:
        """Ends the requests, then the server."""
        self._ending.set()
        self._thread.join()
        if self._server is not None:  # it may have failed to start again
            self._server.stop()

    def _start(self) -> None:
        config = ServingConfig(
            port=self._port,
            rest_port=-1,
            model_config_file=str(self.file),
            allow_version_labels_for_unavailable_models=True,
        )
        server = EmbeddedServer(config=config)
        server.start()
        self._server = server
        with open_channel(server.target, _MESSAGE_BYTES, None) as channel:
            grpc.channel_ready_future(channel).result(DEADLINE_SECONDS)

    def _running(self) -> EmbeddedServer:
        if self._server is None:
            raise ServingError("the server is down")
        return self._server

    def _watch(self) -> None:
        request = predict_pb2.PredictRequest()
        request.CopyFrom(self._request)
        request.model_spec.name = self._model
        request.model_spec.ClearField("version_choice")
        request.model_spec.version_label = STABLE
        while not self._ending.wait(PAUSE_SECONDS):
            # A channel that outlived the server would hold back all others of the process: they
            # share its connection, and the longer it fails, the longer it waits.
            with self._watched, open_channel(self.target, _MESSAGE_BYTES, None) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                try:
                    answer = stub.Predict(request, timeout=DEADLINE_SECONDS)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                except Exception as error:  # else the watch would end, and nobody see it
                    self.failures.append(repr(error))
                else:
                    self.answered[int(answer.model_spec.version.value)] += 1
