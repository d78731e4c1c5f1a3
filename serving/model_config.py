"""Which models are served: TensorFlow Serving's ModelServerConfig, read and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from absl import logging
from tensorflow_serving.config import model_server_config_pb2

from cmdcm.core.errors import ConfigError
from cmdcm.serving.config_protos import read_text_proto
from cmdcm.serving.status import StatusError, invalid_argument
from cmdcm.serving.version_policy import VersionPolicy, version_policy

PLATFORM = "tensorflow"
"""The one `model_platform`: a SavedModel."""

_URI = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ModelSettings:
    """One entry of a model config, checked.

    Attributes:
        name: Name under which clients ask for the model.
        base_path: Folder of the numbered version folders.
        policy: Chooses the wanted ones among the versions found.
        labels: Version number of each label.
    """

    name: str
    base_path: Path
    policy: VersionPolicy
    labels: Mapping[str, int]


def single_model_config(name: str, base_path: Path) -> model_server_config_pb2.ModelServerConfig:
    """Returns the config that serves the newest version of one model.

    Example:
        >>> config = single_model_config("m", Path("/models/m"))
        >>> [model.base_path for model in config.model_config_list.config]
        ['/models/m']
    """
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(Path(base_path).absolute()), model_platform=PLATFORM
    )
    return config


def read_model_config(path: Path) -> model_server_config_pb2.ModelServerConfig:
    """Reads a ModelServerConfig from a text proto file and checks it.

    Raises:
        ConfigError: Names the file, and the line or the field that is wrong.
    """
    config = read_text_proto(path, model_server_config_pb2.ModelServerConfig, "model config file")
    try:
        model_settings(config)
    except StatusError as error:
        raise ConfigError(f"model config file {path}: {error}") from error
    return config


def model_settings(
    config: model_server_config_pb2.ModelServerConfig,
) -> dict[str, ModelSettings]:
    """Returns the models that a config lists, by name.

    Raises:
        StatusError: INVALID_ARGUMENT, names the entry and the field that is wrong.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid_argument("custom_model_config is not supported; use model_config_list")
    models: dict[str, ModelSettings] = {}
    for index, model in enumerate(config.model_config_list.config):
        place = f"model_config_list.config[{index}]"
        _check(model, place)
        if model.name in models:
            raise invalid_argument(
                f"{place}.name: Illegal to list model {model.name} multiple times in config list"
            )
        models[model.name] = ModelSettings(
            name=model.name,
            base_path=Path(model.base_path),
            policy=version_policy(model.model_version_policy),
            labels=dict(model.version_labels),
        )
    return models


def _check(model: model_server_config_pb2.ModelConfig, place: str) -> None:
    if not model.name:
        raise invalid_argument(f"{place}.name: a model needs a name")
    if _URI.match(model.base_path):
        raise invalid_argument(
            f"{place}.base_path: {model.base_path} is not on a local file system, and the embedded "
            "server reads no other; mount or copy it"
        )
    if not Path(model.base_path).is_absolute():
        raise invalid_argument(
            f"{place}.base_path: Expected model {model.name} to have an absolute path or URI; got "
            f"base_path()={model.base_path}"
        )
    typed = model.model_type != model_server_config_pb2.MODEL_TYPE_UNSPECIFIED
    if typed == bool(model.model_platform):
        fault = "both" if typed else "neither"
        raise invalid_argument(
            f"{place}.model_platform: Illegal setting {fault} ModelServerConfig::model_type "
            f"(deprecated) {'and' if typed else 'nor'} ModelServerConfig::model_platform; set "
            f'model_platform: "{PLATFORM}"'
        )
    if typed and model.model_type != model_server_config_pb2.TENSORFLOW:
        raise invalid_argument(
            f"{place}.model_type: choice {model.model_type} not supported; set "
            f'model_platform: "{PLATFORM}"'
        )
    if not typed and model.model_platform != PLATFORM:
        raise invalid_argument(
            f"{place}.model_platform: Model {model.name} requests unsupported platform "
            f'{model.model_platform}; it must be "{PLATFORM}"'
        )
    if "" in model.version_labels:
        raise invalid_argument(f"{place}.version_labels: a label needs a name")
    if model.HasField("logging_config"):
        logging.warning("%s.logging_config is passed over: see docs/serving.md", place)
