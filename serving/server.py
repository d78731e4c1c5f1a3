"""The embedded server: TensorFlow Serving's protocol in one Python process.

For machines without tensorflow_model_server: laptops, tests, notebooks.
"""

import contextlib
import gc
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from absl import logging

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ConfigError, ServingError
from cmdcm.serving.batching import BatchScheduler
from cmdcm.serving.batching_options import BatchingOptions, read_batching_options
from cmdcm.serving.binary import BINARY, is_url, run_binary
from cmdcm.serving.config_poller import ConfigPoller
from cmdcm.serving.entry import Entry
from cmdcm.serving.exposure import check_exposure, reload_over_network, rest_host
from cmdcm.serving.grpc_service import THREADS, GrpcOptions, GrpcServer
from cmdcm.serving.handlers import Handlers
from cmdcm.serving.loading import load_servable
from cmdcm.serving.metrics import Metrics, prometheus_path
from cmdcm.serving.model_config import read_model_config, single_model_config
from cmdcm.serving.models import Models
from cmdcm.serving.rest import RestApp
from cmdcm.serving.rest_server import RestServer
from cmdcm.serving.servable import Runner, Servable
from cmdcm.serving.tls import Tls, read_tls

GRACE_SECONDS = 10.0
"""How long a stopping server waits for the calls under way."""

SWITCH_SECONDS = 0.0005
"""How long a thread of the server may compute in Python while another one waits."""

_Bound = TypeVar("_Bound", GrpcServer, RestServer)


class EmbeddedServer:
    """Serves models over gRPC and REST until stopped.

    Args:
        base_path: Folder of the numbered version folders; None with a model config file.
        model_name: Name under which clients ask for the model; ignored with a model config file.
        config: Addresses, limits and files.

    Attributes:
        models: The served models.
        metrics: What the server counts.
        port: The gRPC port, once started.
        rest_port: The REST port, once started; -1 without REST.

    Raises:
        ConfigError: A config file that cannot be used, or an address that others reach without
            TLS.

    Example:
        >>> with EmbeddedServer(Path("out/export"), "cmdcm") as server:  # doctest: +SKIP
        ...     client = ScoringClient(server.target, "cmdcm")
    """

    def __init__(
        self,
        base_path: Path | None = None,
        model_name: str = "",
        config: ServingConfig | None = None,
    ):
        # A server inside a program takes free ports unless told otherwise.
        self.config = config = config or ServingConfig(port=0, rest_port=0)
        self._tls: Tls | None = (
            read_tls(Path(config.ssl_config_file)) if config.ssl_config_file else None
        )
        check_exposure(config, self._tls)
        self._prometheus_path = prometheus_path(_path(config.monitoring_config_file))
        batching_file = _path(config.batching_parameters_file)
        self._batching_options = (
            BatchingOptions() if batching_file is None else read_batching_options(batching_file)
        )
        self._config_file = _path(config.model_config_file)
        if self._config_file is not None:
            self._model_config = read_model_config(self._config_file)
        elif base_path is not None and model_name:
            self._model_config = single_model_config(model_name, base_path)
        else:
            raise ConfigError("set --model_base_path or --model_config_file")
        self.metrics = Metrics()
        self.models = Models(
            poll_seconds=config.poll_seconds,
            max_num_load_retries=config.max_num_load_retries,
            load_retry_seconds=config.load_retry_interval_micros / 1e6,
            allow_version_labels_for_unavailable_models=(
                config.allow_version_labels_for_unavailable_models
            ),
            load=self._load,
        )
        self.port = -1
        self.rest_port = -1
        self._batching: BatchScheduler | None = None
        self._poller: ConfigPoller | None = None
        self._grpc: GrpcServer | None = None
        self._rest: RestServer | None = None

    @property
    def target(self) -> str:
        """HOST:PORT of the gRPC server."""
        return _address(self.config.host, self.port)

    @property
    def rest_target(self) -> str:
        """HOST:PORT of the REST server."""
        return _address(rest_host(self.config), self.rest_port)

    def start(self) -> None:
        """Loads the models and then opens the ports: who can connect is answered.

        Raises:
            ServingError: A model cannot be served, or a port cannot be bound.
        """
        config = self.config
        try:
            if config.enable_batching:
                self._batching = BatchScheduler(self._batching_options, self.metrics)
            self.models.reload(self._model_config)
            self._listen()
            if self._config_file is not None and config.model_config_file_poll_wait_seconds:
                self._poller = ConfigPoller(
                    self.models, self._config_file, config.model_config_file_poll_wait_seconds
                )
                self._poller.start()
        except BaseException:
            self.stop(0)
            raise

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Drains: health turns NOT_SERVING, calls under way end, then the models are unloaded."""
        if self._poller is not None:
            self._poller.stop()
        stopped = None if self._grpc is None else self._grpc.stop(grace_seconds)
        if self._rest is not None:
            self._rest.stop(grace_seconds)
        if stopped is not None:
            stopped.wait()
        if self._batching is not None:
            self._batching.stop()
        self._grpc = self._rest = self._batching = self._poller = None
        self.models.stop()

    def _load(self, path: Path, name: str, version: int) -> Servable:
        started = time.perf_counter()
        servable = None
        both = self.config.tensorflow_session_parallelism
        try:
            servable = load_servable(
                path,
                name,
                version,
                self._runner,
                warm=self.config.enable_model_warmup,
                require_manifest=self.config.require_manifest,
                intra_op_threads=both or self.config.tensorflow_intra_op_parallelism,
                inter_op_threads=both or self.config.tensorflow_inter_op_parallelism,
            )
        finally:
            seconds = time.perf_counter() - started
            self.metrics.load(path, seconds, loaded=servable is not None)
        return servable

    def _runner(self, servable: Servable) -> Runner:
        """Returns what the servable runs signatures by: batched if wanted, and measured."""
        run: Runner = servable.run
        if self._batching is not None:
            run = self._batching.batched(run)

        def timed(
            signature: str, fed: Sequence[np.ndarray], outputs: tuple[str, ...]
        ) -> Sequence[np.ndarray]:
            started = time.perf_counter()
            answer = run(signature, fed, outputs)
            self.metrics.runtime(servable.name, time.perf_counter() - started)
            return answer

        return timed

    def _listen(self) -> None:
        config = self.config
        max_bytes = config.max_message_mb << 20
        entry = Entry(Handlers(self.models, max_bytes), self.metrics)
        addresses = [_address(config.host, config.port)]
        if config.grpc_socket_path:
            addresses.append(f"unix:{config.grpc_socket_path}")
        options = GrpcOptions(
            addresses=addresses,
            max_message_bytes=max_bytes,
            threads=config.grpc_max_threads or THREADS,
            calls_a_thread=config.max_calls_a_thread,
            tls=self._tls,
            reload_over_network=reload_over_network(config, self._tls),
            channel_arguments=_channel_arguments(config.grpc_channel_arguments),
        )
        self._grpc = _bind(lambda: GrpcServer(entry, options), " and ".join(addresses), "--port")
        self.port = self._grpc.port
        if config.rest_port >= 0:
            app = RestApp(
                entry,
                max_bytes=max_bytes,
                timeout_seconds=config.rest_api_timeout_in_ms / 1000,
                threads=config.rest_api_num_threads or THREADS,
                prometheus_path=self._prometheus_path,
            )
            host = rest_host(config)
            self._rest = _bind(
                lambda: RestServer(app, host, config.rest_port),
                _address(host, config.rest_port),
                "--rest_api_port",
            )
            self.rest_port = self._rest.port
            self._rest.start()
        self._grpc.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def run_server(
    config: ServingConfig, base_path: str | None, model_name: str, *, embedded: bool = False
) -> None:
    """Serves until SIGINT or SIGTERM; prints one line with the ports once ready.

    Where tensorflow_model_server is on PATH, it takes this process's place.

    Args:
        config: Addresses, limits and files.
        base_path: Folder of the numbered version folders, for tensorflow_model_server a URL, too;
            None with a model config file.
        model_name: Name under which clients ask for the model; ignored with a model config file.
        embedded: Use the embedded server in any case.

    Raises:
        ServingError: A model cannot be served, or a port cannot be bound.
        ConfigError: A config file that cannot be used, an address that others reach without TLS,
            or a setting that tensorflow_model_server does not have.
    """
    binary = None if embedded else shutil.which(BINARY)
    if binary is not None:
        run_binary(binary, config, base_path, model_name)
    if base_path and is_url(base_path):
        raise ConfigError(
            f"--model_base_path {base_path} is a URL, and the embedded server reads folders alone; "
            f"copy the versions to one, or put {BINARY} on PATH"
        )
    server = EmbeddedServer(Path(base_path) if base_path else None, model_name, config)
    with _stop_signal() as stopped, server:
        # Else a thread that loads a version keeps a request waiting for 5 ms each time that this
        # needs the interpreter.
        sys.setswitchinterval(SWITCH_SECONDS)
        # A full collection that walks all of TensorFlow's modules stops every thread for half a
        # second; without them it takes 0.03 s, and what unloaded versions leave is found sooner.
        gc.freeze()
        models = ", ".join(
            f"{name!r} version {' and '.join(map(str, server.models.available(name)))}"
            for name in server.models.names()
        )
        rest = "no REST" if server.rest_port < 0 else f"REST http://{server.rest_target}"
        print(f"serving {models}: gRPC {server.target}, {rest}", flush=True)
        stopped.wait()
        logging.info("stopping: waiting up to %g s for calls under way", GRACE_SECONDS)


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yields an event that SIGINT and SIGTERM set."""
    stopped = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def _bind(listen: Callable[[], _Bound], address: str, flag: str) -> _Bound:
    try:
        return listen()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ServingError(
            f"cannot listen on {address}: {reason}. Is another server running? Choose another "
            f"{flag}, or 0 for a free one"
        ) from error


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Returns `key=value,key=value` as pairs; a value that is a number is passed as one."""
    pairs = [argument.partition("=")[::2] for argument in text.split(",") if argument]
    return [(key, int(value) if value.lstrip("-").isdecimal() else value) for key, value in pairs]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(text: str) -> Path | None:
    return Path(text) if text else None
