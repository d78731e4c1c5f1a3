"""`cmdcm serve`: a server for exported models."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config, ServingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.serving.server import run_server

EXAMPLE = "cmdcm serve --model_base_path out/serving/cmdcm --port 8500 --rest_api_port 8501"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, named as tensorflow_model_server's."""
    parser.add_argument(
        "--model_base_path",
        type=Path,
        required=True,
        help="folder of the numbered versions; new ones are picked up while serving",
    )
    parser.add_argument("--model_name", help="name of the model (default: export.name)")
    parser.add_argument(
        "--port", type=int, help="gRPC port; 0 for a free one (default: serving.port)"
    )
    parser.add_argument(
        "--rest_api_port",
        type=int,
        help="REST port; 0 for a free one, -1 for no REST (default: serving.rest_port)",
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="use the embedded server even where tensorflow_model_server is on PATH",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Serves until SIGINT or SIGTERM."""
    settings = config.serving.model_dump()
    if args.port is not None:
        settings["port"] = args.port
    if args.rest_api_port is not None:
        settings["rest_port"] = args.rest_api_port
    try:
        serving = ServingConfig(**settings)
    except ValueError as error:
        raise ConfigError(f"--port and --rest_api_port: {error}") from error
    name = args.model_name or config.export.name
    run_server(serving, args.model_base_path, name, embedded=args.embedded)
    return 0
