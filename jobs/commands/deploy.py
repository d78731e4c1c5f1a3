"""`cmdcm deploy`: the files with which TensorFlow Serving serves the published versions."""

import argparse
from pathlib import Path

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.jobs.deployment.groups import GROUPS, settings_of
from cmdcm.jobs.deployment.render import Versions, write_deployment
from cmdcm.jobs.deployment.sizing import measured_cpu_ms, memory_advice, sizing_advice
from cmdcm.jobs.served_model import check_servable
from cmdcm.serving.version_folders import find_versions

EXAMPLE = "cmdcm deploy --model_base_path out/serving/cmdcm --output out/deployment"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--model_base_path", type=Path, required=True, help="folder of the numbered versions"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the files to write")
    parser.add_argument("--stable", type=int, help="version to serve (default: the newest)")
    parser.add_argument("--canary", type=int, help="version to serve on trial (default: none)")
    parser.add_argument(
        "--loadtest", type=Path, help="loadtest.json of cmdcm loadtest, for the number of servers"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of a deployment; its versions, labels and audit log are kept",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Writes the files, and prints what to do with them."""
    versions = _versions(args, config)
    advice = _advice(args, config, versions)
    kept = write_deployment(args.output, config, versions, overwrite=args.overwrite)
    if "@sha256:" not in config.deploy.base_image:
        logging.warning(
            "deploy.base_image = %s is not pinned; add the digest that `docker buildx imagetools "
            "inspect` prints: NAME:TAG@sha256:DIGEST",
            config.deploy.base_image,
        )
    print(f"wrote {args.output}")
    if kept:
        print(f"kept versions and labels of {args.output / 'config'}; cmdcm rollout changes them")
    else:
        canary = "" if versions.canary is None else f", canary {versions.canary}"
        print(f"stable is version {versions.stable}{canary}")
    for line in advice:
        print(line)
    print(f"this machine: docker compose --project-directory {args.output} up --build --detach")
    print(f"a cluster: kubectl apply -k {args.output}")
    return 0


def _versions(args: argparse.Namespace, config: Config) -> Versions:
    try:
        found = find_versions(args.model_base_path)
    except OSError as error:
        raise ConfigError(f"--model_base_path {args.model_base_path}: {error.strerror}") from error
    if not found:
        raise ConfigError(
            f"--model_base_path {args.model_base_path} holds no complete version; run cmdcm export"
        )
    stable = max(found) if args.stable is None else args.stable
    for flag, version in (("--stable", stable), ("--canary", args.canary)):
        if version is not None and version not in found:
            raise ConfigError(
                f"{flag} {version}: {args.model_base_path} has no such version; it has "
                f"{sorted(found)}"
            )
    if args.canary == stable:
        raise ConfigError(f"--canary {args.canary} is the stable version")
    for version in (stable, args.canary):
        if version is not None:
            check_servable(version, found[version], config)
    return Versions(args.model_base_path, stable, args.canary)


def _advice(args: argparse.Namespace, config: Config, versions: Versions) -> list[str]:
    folder = find_versions(args.model_base_path)[versions.stable]
    utilisation = config.deploy.target_utilisation
    lines = []
    for group in GROUPS:
        settings = settings_of(group, config)
        measured = 0.0 if args.loadtest is None else measured_cpu_ms(args.loadtest, group.signature)
        cpu_ms = measured or settings.cpu_ms_per_request
        if args.loadtest and settings.peak_requests_per_second and not cpu_ms:
            lines.append(
                f"{group.name}: no sizing; {args.loadtest} has no server CPU of {group.signature}; "
                f"repeat cmdcm loadtest with --server_pid PID --signature {group.signature}"
            )
        else:
            lines += sizing_advice(group.name, settings, utilisation, cpu_ms)
        lines += memory_advice(group.name, settings, folder)
    return lines
