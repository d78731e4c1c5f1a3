"""`cmdcm rollout`: moves the labels stable and canary on running servers."""

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, RetrainError, ServingError
from cmdcm.core.user import user_name
from cmdcm.datasets.calendar import calendar_of
from cmdcm.jobs.registry.aliases import Aliases
from cmdcm.jobs.rollout.config_file import ModelConfigFile, Placement, placement_of
from cmdcm.jobs.rollout.freeze import frozen
from cmdcm.jobs.rollout.rollout import Author, Rollout
from cmdcm.jobs.rollout.server import Server, addresses
from cmdcm.jobs.served_model import check_servable
from cmdcm.serving.channels import ClientTls

EXAMPLE = (
    "cmdcm rollout canary --target 127.0.0.1:8500 --target 127.0.0.1:8510 "
    "--model_config_file out/deployment/config/models.config --version 4"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("action", choices=["canary", "promote", "rollback", "status"])
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        help="gRPC address of a server, HOST:PORT, or dns:///HOST:PORT for all addresses of a "
        "name; repeat it for all servers of the model",
    )
    parser.add_argument(
        "--model_config_file",
        type=Path,
        help="the servers' model config file (default: serving.model_config_file)",
    )
    parser.add_argument(
        "--model_base_path",
        type=Path,
        help="folder of the numbered versions on this machine (default: that of the model config "
        "file)",
    )
    parser.add_argument("--model", help="name of the model (default: export.name)")
    parser.add_argument(
        "--version", type=int, help="version to try (canary) or to return to (rollback)"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        action="append",
        default=[],
        help="TFRecord of PredictionLog to compare scores on (promote; default: the canary's "
        "warm-up requests); may be repeated",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="promote whatever the scores are, or in a freeze; needs --reason and --by",
    )
    parser.add_argument("--reason", default="", help="why, for the audit log")
    parser.add_argument("--by", default="", help="who, for the audit log (default: the user)")
    parser.add_argument("--tls_ca", type=Path, help="PEM file that signs the servers; for TLS")
    parser.add_argument("--tls_key", type=Path, help="PEM file of our key, for mutual TLS")
    parser.add_argument("--tls_certificate", type=Path, help="PEM file of our certificate")
    parser.add_argument("--tls_server_name", default="", help="name in the servers' certificate")


def run(args: argparse.Namespace, config: Config) -> int:
    """Acts, and prints where versions and labels are."""
    if args.action == "canary" and args.version is None:
        raise ConfigError("set --version, the version to try")
    if args.action in ("promote", "status") and args.version is not None:
        raise ConfigError(f"--version does not go with {args.action}")
    if args.force and not (args.by and args.reason):
        raise ConfigError("--force needs --reason and --by")
    path = args.model_config_file or config.serving.model_config_file
    if not path:
        raise ConfigError("set --model_config_file, the file that the servers read")
    if args.action in ("canary", "promote") and not args.force:
        calendar, now = calendar_of(config.calendar), round(time.time() * 1000)
        if reason := frozen(calendar, config.rollout, now):
            raise RetrainError(f"{reason}, or --force with --reason and --by")
    file = ModelConfigFile(Path(path), args.model or config.export.name)
    author = Author(args.by or user_name(), args.reason)
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server(
                    target,
                    file.model,
                    config.rollout.deadline_ms,
                    config.serving.max_message_mb,
                    _tls(args),
                )
            )
            for target in addresses(args.target)
        ]
        aliases = Aliases(config, file.model) if config.rollout.registry else None
        rollout = Rollout(file, servers, config.rollout, author, aliases, args.model_base_path)
        if args.action == "status":
            return _status(rollout)
        if args.version is not None:
            _check(rollout.folder(args.version), args, config)
        _act(rollout, args)
    return 0


def _check(folder: Path, args: argparse.Namespace, config: Config) -> None:
    if folder.is_dir() or args.model_base_path:
        check_servable(args.version, folder, config)
    else:
        logging.warning(
            "the files of version %d are not checked: %s is not on this machine; pass "
            "--model_base_path",
            args.version,
            folder,
        )


def _act(rollout: Rollout, args: argparse.Namespace) -> None:
    match args.action:
        case "canary":
            print(_text(rollout.canary(args.version)))
        case "promote":
            placement, shift = rollout.promote(args.replay, force=args.force)
            print(
                f"requests {shift.requests}, scores {shift.rows}: mean {shift.mean_stable:.4g} "
                f"-> {shift.mean_canary:.4g}, largest shift {shift.max_shift:.4g}, PSI "
                f"{shift.psi:.4g}"
            )
            print(_text(placement))
        case "rollback":
            print(_text(rollout.rollback(args.version)))


def _status(rollout: Rollout) -> int:
    print(f"{rollout.file.path}: {_text(placement_of(rollout.file.entry()))}")
    for server in rollout.servers:
        with contextlib.suppress(ServingError):  # told by `faults`
            states = [
                f"{s.version} {s.state.name}" + (f" ({s.message})" if s.message else "")
                for s in server.statuses().values()
            ]
            print(f"{server.target}: {_join(states)}")
    faults = rollout.faults()
    if faults:
        raise ServingError("; ".join(faults))
    return 0


def _text(placement: Placement) -> str:
    labels = [f"{label} = {version}" for label, version in placement.labels.items()]
    return f"{_join(labels)}; loaded: {_join([str(v) for v in sorted(placement.versions)])}"


def _join(parts: Sequence[str]) -> str:
    return ", ".join(parts) or "none"


def _tls(args: argparse.Namespace) -> ClientTls | None:
    given = (args.tls_ca, args.tls_key, args.tls_certificate)
    if not any(given):
        return None
    return ClientTls(args.tls_ca, args.tls_key, args.tls_certificate, args.tls_server_name)
