"""The two groups of servers, and the command line of each.

TensorFlow Serving batches a session, all signatures of it, and then refuses a request whose inputs
differ in their number of rows, as `score_candidates` has them: one user, N candidates. So there are
servers without batching for `score_candidates` and servers with batching for `serving_default`, on
the same versions and the same model config.
"""

from dataclasses import dataclass

from cmdcm.core.config import Config, ServerGroupConfig, ServingConfig
from cmdcm.export.signatures import CANDIDATES_SIGNATURE, EXAMPLES_SIGNATURE
from cmdcm.serving.binary import BINARY, binary_command

CONFIG_FOLDER = "/config"
MODELS_FOLDER = "/models"
SECRET_FOLDER = "/secret"  # noqa: S105 - a folder
MODEL_CONFIG = "models.config"
BATCHING = "batching_parameters.config"
MONITORING = "monitoring.config"
SSL = "ssl.config"
GRPC_PORT = 8500
REST_PORT = 8501

_CLOSING_SECONDS = 10  # for the calls under way on a connection that has reached its age


@dataclass(frozen=True)
class Group:
    """A group of servers.

    Attributes:
        name: Its name, in file names and labels.
        signature: The signature that it is for.
        batched: Whether concurrent requests run as one.
    """

    name: str
    signature: str
    batched: bool


GROUPS = (
    Group("candidates", CANDIDATES_SIGNATURE, batched=False),
    Group("examples", EXAMPLES_SIGNATURE, batched=True),
)


def settings_of(group: Group, config: Config) -> ServerGroupConfig:
    """Returns the settings of a group."""
    return config.deploy.examples if group.batched else config.deploy.candidates


def session_threads(group: Group, settings: ServerGroupConfig) -> int:
    """Returns how many of TensorFlow's operations run at once, each by one thread.

    Left to itself TensorFlow takes the machine's number of CPUs, not the container's, and is then
    throttled. Without batching a request may use all CPUs of its server, for latency: by
    operations that run at once, since to share one of these short operations costs more than it
    saves. With it there are as many batches at once as CPUs, and one thread each costs the least.
    """
    return 1 if group.batched else settings.cpus


def server_command(group: Group, config: Config) -> list[str]:
    """Returns the command line of a server in its container."""
    deploy = config.deploy
    arguments = [
        f"grpc.max_connection_age_ms={1000 * deploy.max_connection_age_seconds}",
        f"grpc.max_connection_age_grace_ms={1000 * _CLOSING_SECONDS}",
    ]
    if config.serving.grpc_channel_arguments:
        arguments.append(config.serving.grpc_channel_arguments)
    threads = session_threads(group, settings_of(group, config))
    changes = {
        "port": GRPC_PORT,
        "rest_port": REST_PORT,
        "grpc_socket_path": "",
        "grpc_max_threads": deploy.grpc_max_threads,
        "grpc_channel_arguments": ",".join(arguments),
        "ssl_config_file": f"{SECRET_FOLDER}/{SSL}" if deploy.tls_key else "",
        "model_config_file": f"{CONFIG_FOLDER}/{MODEL_CONFIG}",
        # Read once, at the start: polling would undo what a roll-out has told the server until the
        # file in the container is the new one, too.
        "model_config_file_poll_wait_seconds": 0.0,
        "monitoring_config_file": f"{CONFIG_FOLDER}/{MONITORING}",
        "tensorflow_session_parallelism": 0,
        "tensorflow_intra_op_parallelism": 1,
        "tensorflow_inter_op_parallelism": threads,
        "enable_batching": group.batched,
        "batching_parameters_file": f"{CONFIG_FOLDER}/{BATCHING}" if group.batched else "",
        # Warm-up requests go the way of all requests: under batching those of the other signature
        # are refused, and a version with a warm-up request that fails does not load.
        "enable_model_warmup": not group.batched,
        # At the start no version is available yet, and the file names labels.
        "allow_version_labels_for_unavailable_models": True,
    }
    serving = ServingConfig(**{**config.serving.model_dump(), **changes})
    return binary_command(BINARY, serving, None, config.export.name)
