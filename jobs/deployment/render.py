"""Writing the deployment of a model: everything that its servers need, from one configuration.

config/models.config                 which versions, with the labels stable and canary
config/batching_parameters.config    for the servers of serving_default
config/monitoring.config             Prometheus metrics
secret/ssl.config                    key and certificates, where there is TLS
Dockerfile, docker-compose.yaml      both groups of servers on one machine
kustomization.yaml, kubernetes/      both groups in a cluster
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import staged_directory
from cmdcm.jobs.deployment.config_files import (
    METRICS_PATH,
    batching_parameters,
    model_server_config,
    monitoring_config,
    ssl_config,
)
from cmdcm.jobs.deployment.groups import (
    BATCHING,
    CONFIG_FOLDER,
    GROUPS,
    GRPC_PORT,
    MODEL_CONFIG,
    MODELS_FOLDER,
    MONITORING,
    REST_PORT,
    SECRET_FOLDER,
    SSL,
    server_command,
    settings_of,
)
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.jobs.rollout.config_file import STABLE, write_text_proto
from cmdcm.jobs.rollout.lock import rollout_lock
from cmdcm.serving.batching_options import read_batching_options
from cmdcm.serving.config_protos import MonitoringConfig, read_text_proto
from cmdcm.serving.model_config import read_model_config
from cmdcm.serving.tls import read_tls

TEMPLATES = Path(__file__).parents[1] / "templates"

_APP = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")
_LOCAL_PORTS = 10  # between the ports of one group and those of the next


@dataclass(frozen=True)
class Versions:
    """Which versions a new deployment serves first.

    Attributes:
        base_path: Folder of the numbered version folders.
        stable: The version that answers the traffic.
        canary: A version on trial; None for none.
    """

    base_path: Path
    stable: int
    canary: int | None = None


def write_deployment(
    output: Path, config: Config, versions: Versions, *, overwrite: bool = False
) -> bool:
    """Writes the deployment files; they appear together, after their check.

    Args:
        output: The directory to write.
        config: Sections `deploy`, `export` and `serving`.
        versions: What is served first.
        overwrite: Replace an existing deployment. The state of its roll-outs, which is the model
            config and the audit log, is kept.

    Returns:
        Whether the model config of the deployment before was kept.

    Raises:
        ConfigError: A setting that cannot be used.
        OutputError: `output` exists (without `overwrite`) or cannot be written.
    """
    state = Path(output) / "config" / MODEL_CONFIG
    if not (overwrite and state.exists()):
        _write(output, config, versions, {}, overwrite)
        return False
    with rollout_lock(state):
        kept = {
            path.name: path.read_bytes() for path in (state, audit_path(state)) if path.exists()
        }
        _write(output, config, versions, kept, overwrite)
    return True


def _write(
    output: Path, config: Config, versions: Versions, kept: dict[str, bytes], overwrite: bool
) -> None:
    values = _values(config, versions)
    with staged_directory(output, overwrite=overwrite) as staging:
        (staging / "config").mkdir()
        for name, message in _config_messages(config, versions).items():
            write_text_proto(staging / "config" / name, message)
        for name, content in kept.items():
            (staging / "config" / name).write_bytes(content)
        if config.deploy.tls_key:
            _write_secret(staging / "secret" / SSL, ssl_config(config.deploy))
        (staging / "kubernetes").mkdir()
        for name in ("Dockerfile", "docker-compose.yaml", "kustomization.yaml"):
            _render(staging / name, name, values)
        for name in ("namespace", "network"):
            _render(staging / "kubernetes" / f"{name}.yaml", f"kubernetes-{name}.yaml", values)
        for server in values["servers"]:
            path = staging / "kubernetes" / f"{server['name']}.yaml"
            _render(path, "kubernetes-server.yaml", {**values, **server})
        _check(staging)


def _config_messages(config: Config, versions: Versions) -> dict[str, Message]:
    return {
        MODEL_CONFIG: model_server_config(config.export.name, versions.stable, versions.canary),
        BATCHING: batching_parameters(config),
        MONITORING: monitoring_config(),
    }


def _check(directory: Path) -> None:
    """Reads the text protos back as the servers will."""
    read_model_config(directory / "config" / MODEL_CONFIG)
    read_batching_options(directory / "config" / BATCHING)
    read_text_proto(directory / "config" / MONITORING, MonitoringConfig, "monitoring config file")
    if (directory / "secret").exists():
        read_tls(directory / "secret" / SSL)


def _write_secret(path: Path, message: Message) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    write_text_proto(path, message)


def _values(config: Config, versions: Versions) -> dict[str, Any]:
    """Returns what the templates know."""
    deploy = config.deploy
    name = config.export.name
    return {
        "app": app_name(name),
        "base_image": deploy.base_image,
        "image": deploy.image,
        "namespace": deploy.namespace,
        "model_claim": deploy.model_claim,
        "monitoring_namespace": deploy.monitoring_namespace,
        "user_id": deploy.user_id,
        "drain_seconds": deploy.drain_seconds,
        "startup_seconds": deploy.startup_seconds,
        "target_utilisation": deploy.target_utilisation,
        "tls": bool(deploy.tls_key),
        "grpc_port": GRPC_PORT,
        "rest_port": REST_PORT,
        "config_folder": CONFIG_FOLDER,
        "secret_folder": SECRET_FOLDER,
        "model_folder": f"{MODELS_FOLDER}/{name}",
        "model_base_path": str(Path(versions.base_path).absolute()),
        "config_files": [MODEL_CONFIG, BATCHING, MONITORING],
        "ssl_file": SSL,
        "metrics_path": METRICS_PATH,
        "ready_path": f"/v1/models/{name}/labels/{STABLE}/metadata",
        "servers": [
            {
                "name": group.name,
                "signature": group.signature,
                "command": server_command(group, config),
                "settings": settings_of(group, config),
                "local_port": deploy.local_port + _LOCAL_PORTS * index,
            }
            for index, group in enumerate(GROUPS)
        ],
    }


def app_name(model_name: str) -> str:
    """Returns the name of a model's Kubernetes objects.

    Raises:
        ConfigError: The model's name gives none.

    Example:
        >>> app_name("CM_DCM.v2")
        'cm-dcm-v2'
    """
    name = re.sub(r"[_.]", "-", model_name.lower())
    if not _APP.fullmatch(name):
        raise ConfigError(
            f"export.name = {model_name!r} gives no name for Kubernetes; it should start with a "
            "letter, end with a letter or digit, and have 52 characters at most"
        )
    return name


def _render(path: Path, name: str, values: dict[str, Any]) -> None:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(),  # of pages; these are YAML, with the filter `tojson`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    path.write_text(environment.get_template(f"{name}.j2").render(values), encoding="utf-8")
