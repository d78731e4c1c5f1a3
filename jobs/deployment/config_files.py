"""The text protos that the servers read."""

from pathlib import Path

from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.config import Config, DeployConfig
from cmdcm.core.errors import ConfigError
from cmdcm.jobs.deployment.groups import MODELS_FOLDER
from cmdcm.jobs.rollout.config_file import CANARY, STABLE, Placement, place
from cmdcm.serving.config_protos import BatchingParameters, MonitoringConfig, SSLConfig
from cmdcm.serving.model_config import single_model_config

METRICS_PATH = "/monitoring/prometheus/metrics"


def model_server_config(name: str, stable: int, canary: int | None) -> ModelServerConfig:
    """Returns the config of one model, with its stable version and perhaps a canary.

    The policy names the versions, so that a new folder is not served before a roll-out says so.
    """
    labels = {STABLE: stable} | ({} if canary is None else {CANARY: canary})
    config = single_model_config(name, Path(MODELS_FOLDER) / name)
    place(config.model_config_list.config[0], Placement(frozenset(labels.values()), labels))
    return config


def batching_parameters(config: Config) -> Message:
    """Returns how `serving_default` is batched.

    The allowed sizes are those to which clients pad. A batch for each CPU runs at a time.
    """
    deploy = config.deploy
    sizes = sorted(set(config.export.warmup_candidates))
    parameters = BatchingParameters()
    parameters.max_batch_size.value = sizes[-1]
    parameters.allowed_batch_sizes.extend(sizes)
    parameters.batch_timeout_micros.value = deploy.batch_timeout_micros
    parameters.max_enqueued_batches.value = deploy.max_enqueued_batches
    parameters.num_batch_threads.value = deploy.examples.cpus
    return parameters


def monitoring_config() -> Message:
    """Returns the config that serves Prometheus metrics at `METRICS_PATH` of the REST port."""
    return MonitoringConfig(prometheus_config={"enable": True, "path": METRICS_PATH})


def ssl_config(deploy: DeployConfig) -> Message:
    """Returns the TLS of the gRPC port; the PEM texts themselves are part of it.

    Raises:
        ConfigError: Names the setting whose file cannot be read or is no PEM.
    """
    config = SSLConfig(
        server_key=_pem(deploy.tls_key, "tls_key"),
        server_cert=_pem(deploy.tls_certificate, "tls_certificate"),
    )
    if deploy.tls_client_ca:
        config.custom_ca = _pem(deploy.tls_client_ca, "tls_client_ca")
        config.client_verify = True
    return config


def _pem(path: str, setting: str) -> str:
    try:
        text = Path(path).read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"deploy.{setting}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if "-----BEGIN " not in text:
        raise ConfigError(f"deploy.{setting}: {path} is no PEM text")
    return text
