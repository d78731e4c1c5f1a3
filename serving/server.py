"""The server: tensorflow_model_server where it is installed, else the embedded one.

The embedded server speaks the same protocol in one Python process, for machines without the
binary: laptops, tests, notebooks.
"""

import contextlib
import ipaddress
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from absl import logging

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ConfigError, ServingError
from cmdcm.serving.grpc_service import GrpcServer
from cmdcm.serving.handlers import Handlers
from cmdcm.serving.rest import RestServer
from cmdcm.serving.versions import ModelVersions

BINARY = "tensorflow_model_server"
GRACE_SECONDS = 10.0
"""How long a stopping server waits for the calls under way."""


class EmbeddedServer:
    """Serves one model over gRPC and REST until stopped.

    Args:
        base_path: Folder of the numbered version folders.
        model_name: Name under which clients ask for the model.
        config: Address, ports, polling interval and message size.

    Attributes:
        versions: The model's versions.
        port: The gRPC port, once started.
        rest_port: The REST port, once started; -1 without REST.

    Example:
        >>> with EmbeddedServer(Path("out/export"), "cmdcm") as server:  # doctest: +SKIP
        ...     client = ScoringClient(server.target, "cmdcm")
    """

    def __init__(self, base_path: Path, model_name: str, config: ServingConfig | None = None):
        # A server inside a program takes free ports unless told otherwise.
        self.config = config or ServingConfig(port=0, rest_port=0)
        self.versions = ModelVersions(model_name, base_path, poll_seconds=self.config.poll_seconds)
        self.port = -1
        self.rest_port = -1
        self._grpc: GrpcServer | None = None
        self._rest: RestServer | None = None

    @property
    def target(self) -> str:
        """HOST:PORT of the gRPC server."""
        return _address(self.config.host, self.port)

    def start(self) -> None:
        """Loads the model and then opens the ports: who can connect is answered.

        Raises:
            ServingError: No version can be served, or a port cannot be bound.
        """
        _warn_of_exposure(self.config.host)
        try:
            self.versions.start()
            self._listen()
        except BaseException:
            self.stop(0)
            raise

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Drains: health turns NOT_SERVING, calls under way end, then the model is unloaded."""
        stopped = None if self._grpc is None else self._grpc.stop(grace_seconds)
        if self._rest is not None:
            self._rest.stop(grace_seconds)
        if stopped is not None:
            stopped.wait()
        self._grpc = self._rest = None
        self.versions.stop()

    def _listen(self) -> None:
        config = self.config
        max_bytes = config.max_message_mb << 20
        handlers = Handlers({self.versions.name: self.versions}, max_bytes)
        try:
            address = _address(config.host, config.port)
            self._grpc = GrpcServer(handlers, address, config.max_message_mb)
        except RuntimeError as error:
            raise ServingError(
                f"cannot listen on {address}: {error}. Is another server running? "
                "Choose another --port, or 0 for a free one"
            ) from error
        self.port = self._grpc.port
        if config.rest_port >= 0:
            try:
                self._rest = RestServer(handlers, config.host, config.rest_port, max_bytes)
            except OSError as error:
                raise ServingError(
                    f"cannot listen on {_address(config.host, config.rest_port)}: "
                    f"{error.strerror}. Choose another --rest_api_port, 0 for a free one, or -1 "
                    "for no REST"
                ) from error
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
    config: ServingConfig, base_path: Path, model_name: str, *, embedded: bool = False
) -> None:
    """Serves until SIGINT or SIGTERM; prints one line with the ports once ready.

    Where tensorflow_model_server is on PATH, it takes this process's place.

    Args:
        config: Address, ports, polling interval and message size.
        base_path: Folder of the numbered version folders.
        model_name: Name under which clients ask for the model.
        embedded: Use the embedded server in any case.

    Raises:
        ServingError: No version can be served, or a port cannot be bound.
        ConfigError: A setting that tensorflow_model_server does not have.
    """
    binary = None if embedded else shutil.which(BINARY)
    if binary is not None:
        _exec_binary(binary, config, base_path, model_name)
    server = EmbeddedServer(base_path, model_name, config)
    with _stop_signal() as stopped, server:
        rest = (
            "no REST"
            if server.rest_port < 0
            else f"REST http://{_address(config.host, server.rest_port)}"
        )
        print(
            f"serving {model_name!r} version {server.versions.available()[-1]}: "
            f"gRPC {server.target}, {rest}",
            flush=True,
        )
        stopped.wait()
        logging.info("stopping: waiting up to %g s for calls under way", GRACE_SECONDS)


def binary_command(
    binary: str, config: ServingConfig, base_path: Path, model_name: str
) -> list[str]:
    """Returns the command line of tensorflow_model_server that serves the same.

    Raises:
        ConfigError: A port of 0: the binary cannot choose one.

    Example:
        >>> command = binary_command("tms", ServingConfig(), Path("/models/m"), "m")
        >>> command[:3]
        ['tms', '--port=8500', '--rest_api_port=8501']
    """
    if config.port == 0 or config.rest_port == 0:
        raise ConfigError(
            f"{BINARY} cannot choose free ports; set --port and --rest_api_port (-1 for no REST), "
            "or pass --embedded"
        )
    max_bytes = config.max_message_mb << 20
    return [
        binary,
        f"--port={config.port}",
        f"--rest_api_port={max(config.rest_port, 0)}",  # the binary's 0 is no REST
        f"--model_name={model_name}",
        f"--model_base_path={Path(base_path).absolute()}",
        f"--file_system_poll_wait_seconds={max(1, round(config.poll_seconds))}",
        f"--grpc_channel_arguments=grpc.max_receive_message_length={max_bytes},"
        f"grpc.max_send_message_length={max_bytes}",
    ]


def _exec_binary(binary: str, config: ServingConfig, base_path: Path, model_name: str) -> NoReturn:
    command = binary_command(binary, config, base_path, model_name)
    if not Path(base_path).is_dir():
        raise ServingError(f"model base path {base_path} is not a directory")
    logging.warning("%s listens on all interfaces; keep others out, or give it TLS", BINARY)
    print(" ".join(command), flush=True)
    os.execv(binary, command)  # noqa: S606 - a list of arguments, no shell


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


def _warn_of_exposure(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        logging.warning(
            "listening on %s without TLS: anyone who reaches it can read and send requests; put a "
            "TLS proxy in front",
            host,
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
