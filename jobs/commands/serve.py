"""`cmdcm serve`: a server for exported models."""

import argparse
from importlib import metadata
from typing import Any

from cmdcm.core.config import Config, ServingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.serving.server import run_server

EXAMPLE = "cmdcm serve --model_base_path out/serving/cmdcm --port 8500 --rest_api_port 8501"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, named as tensorflow_model_server's; each is a setting of `serving`."""
    parser.add_argument(
        "--model_base_path",
        help="folder of the numbered versions; new ones are picked up while serving",
    )
    parser.add_argument("--model_name", help="name of the model (default: export.name)")

    def setting(flag: str, help_text: str, kind: Any = str, field: str = "") -> None:
        field = field or flag
        help_text = f"{help_text} (default: serving.{field})"
        parser.add_argument(f"--{flag}", dest=field, type=kind, help=help_text)

    def switch(flag: str, help_text: str) -> None:
        help_text = f"{help_text} (default: serving.{flag})"
        parser.add_argument(f"--{flag}", type=_boolean, nargs="?", const=True, help=help_text)

    setting("port", "gRPC port; 0 for a free one", int)
    setting("grpc_socket_path", "unix socket that takes gRPC calls, too")
    setting("grpc_max_threads", "threads that run gRPC calls; 0 for four a CPU", int)
    setting("grpc_channel_arguments", "more arguments of gRPC: key=value,key=value")
    setting("ssl_config_file", "text proto of SSLConfig, for TLS on the gRPC port")
    setting("rest_api_port", "REST port; 0 for a free one, -1 for no REST", int, "rest_port")
    setting("rest_api_timeout_in_ms", "longest that a REST request may take", int)
    setting("rest_api_num_threads", "threads that run REST requests; 0 for four a CPU", int)
    setting("model_config_file", "text proto of ModelServerConfig, in place of one model")
    setting(
        "model_config_file_poll_wait_seconds",
        "seconds between two looks at that file; 0 for one look",
        float,
    )
    setting(
        "file_system_poll_wait_seconds",
        "seconds between two looks for new versions; 0 for one look",
        float,
        "poll_seconds",
    )
    setting("monitoring_config_file", "text proto of MonitoringConfig, for a metrics page")
    switch("enable_batching", "run concurrent requests as one")
    setting("batching_parameters_file", "text proto of BatchingParameters")
    switch("enable_model_warmup", "run a version's warm-up requests before it serves")
    setting("tensorflow_session_parallelism", "sets the next two where it is not 0", int)
    setting("tensorflow_intra_op_parallelism", "threads of one operation; 0 for one a CPU", int)
    setting("tensorflow_inter_op_parallelism", "operations at once; 0 for one a CPU", int)
    setting("max_num_load_retries", "how often a version that cannot be loaded is retried", int)
    setting("load_retry_interval_micros", "microseconds between these attempts", int)
    switch(
        "allow_version_labels_for_unavailable_models",
        "let new labels name versions that do not serve yet",
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="use the embedded server even where tensorflow_model_server is on PATH",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"cmdcm {metadata.version('cmdcm')}, TensorFlow {metadata.version('tensorflow')}",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Serves until SIGINT or SIGTERM."""
    settings = config.serving.model_dump()
    given = {
        name: getattr(args, name) for name in settings if getattr(args, name, None) is not None
    }
    try:
        serving = ServingConfig(**{**settings, **given})
    except ValueError as error:
        raise ConfigError(f"flags of serve ({', '.join(given)}): {error}") from error
    if not serving.model_config_file and args.model_base_path is None:
        raise ConfigError("set --model_base_path, or --model_config_file for several models")
    name = args.model_name or config.export.name
    run_server(serving, args.model_base_path, name, embedded=args.embedded)
    return 0


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]
