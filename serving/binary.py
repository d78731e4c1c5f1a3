"""tensorflow_model_server, where it is installed: the command line that serves the same."""

import os
from pathlib import Path
from typing import NoReturn

from absl import logging

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ConfigError, ServingError

BINARY = "tensorflow_model_server"

_SAME_NAME = (
    "grpc_socket_path",
    "ssl_config_file",
    "rest_api_timeout_in_ms",
    "model_config_file",
    "monitoring_config_file",
    "enable_batching",
    "batching_parameters_file",
    "enable_model_warmup",
    "max_num_load_retries",
    "load_retry_interval_micros",
    "allow_version_labels_for_unavailable_models",
)
_SAME_NAME_UNLESS_ZERO = (
    "grpc_max_threads",
    "rest_api_num_threads",
    "model_config_file_poll_wait_seconds",
    "tensorflow_session_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
)


def binary_command(
    binary: str, config: ServingConfig, base_path: str | None, model_name: str
) -> list[str]:
    """Returns the command line of tensorflow_model_server that serves the same.

    Settings that are at the binary's own default are left out.

    Args:
        binary: Path of the program.
        config: What to serve and how.
        base_path: Folder or URL of the numbered version folders; ignored with a model config file.
        model_name: Name under which clients ask for the model.

    Raises:
        ConfigError: A port of 0: the binary cannot choose one.

    Example:
        >>> command = binary_command("tms", ServingConfig(), "/models/m", "m")
        >>> command[:3]
        ['tms', '--port=8500', '--rest_api_port=8501']
    """
    if config.port == 0 or config.rest_port == 0:
        raise ConfigError(
            f"{BINARY} cannot choose free ports; set --port and --rest_api_port (-1 for no REST), "
            "or pass --embedded"
        )
    command = [
        binary,
        f"--port={config.port}",
        f"--rest_api_port={max(config.rest_port, 0)}",  # the binary's 0 is no REST
    ]
    if not config.model_config_file:
        command += [
            f"--model_name={model_name}",
            f"--model_base_path={_place(base_path or '')}",
        ]
    poll_seconds = max(1, round(config.poll_seconds)) if config.poll_seconds else 0
    command.append(f"--file_system_poll_wait_seconds={poll_seconds}")
    defaults = ServingConfig()
    for name in _SAME_NAME:
        if getattr(config, name) != getattr(defaults, name):
            command.append(f"--{name}={_flag(getattr(config, name))}")
    for name in _SAME_NAME_UNLESS_ZERO:
        if value := getattr(config, name):
            command.append(f"--{name}={max(1, round(value))}")
    max_bytes = config.max_message_mb << 20
    arguments = (
        f"grpc.max_receive_message_length={max_bytes},grpc.max_send_message_length={max_bytes}"
    )
    if config.grpc_channel_arguments:
        arguments += f",{config.grpc_channel_arguments}"
    return [*command, f"--grpc_channel_arguments={arguments}"]


def run_binary(
    binary: str, config: ServingConfig, base_path: str | None, model_name: str
) -> NoReturn:
    """Replaces this process by tensorflow_model_server.

    Raises:
        ConfigError: A setting that the binary does not have.
        ServingError: The base path is no directory.
    """
    command = binary_command(binary, config, base_path, model_name)
    place = Path(base_path or "")
    if not config.model_config_file and not is_url(str(base_path)) and not place.is_dir():
        raise ServingError(f"model base path {base_path} is not a directory")
    logging.warning("%s listens on all interfaces; keep others out, or give it TLS", BINARY)
    print(" ".join(command), flush=True)
    os.execv(binary, command)  # noqa: S606 - a list of arguments, no shell


def is_url(place: str) -> bool:
    """Returns whether a base path is one of an object store, which the binary reads itself."""
    return "://" in place


def _place(base_path: str) -> str:
    return base_path if is_url(base_path) else str(Path(base_path).absolute())


def _flag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
