"""The model config file as the state of a roll-out: which versions are loaded, with which labels.

What a server that starts reads and what a running one was told are the same file, so there is no
second place to remember things in: the label `previous` is the way back.

    stable     answers the traffic
    canary     is on trial, for the clients that ask for it
    previous   was stable before; it stays loaded until the next canary
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from cmdcm.core.errors import ConfigError
from cmdcm.core.files import staged_file
from cmdcm.serving.model_config import read_model_config

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"


@dataclass(frozen=True)
class Placement:
    """Which versions of a model are wanted, and their labels.

    Attributes:
        versions: Numbers of the versions to load; none where the policy is not `specific`.
        labels: Version number of each label.
    """

    versions: frozenset[int]
    labels: Mapping[str, int]

    def as_dict(self) -> dict[str, object]:
        """Returns the placement as JSON can hold it."""
        return {"versions": sorted(self.versions), "labels": dict(sorted(self.labels.items()))}


def placement_of(entry: ModelConfig) -> Placement:
    """Returns the placement that an entry of a model config describes."""
    return Placement(
        frozenset(entry.model_version_policy.specific.versions),
        dict(sorted(entry.version_labels.items())),  # a map of protobuf has no order
    )


def place(entry: ModelConfig, placement: Placement) -> None:
    """Writes a placement into an entry of a model config.

    Example:
        >>> entry = ModelConfig(name="m", base_path="/models/m")
        >>> place(entry, Placement(frozenset({3, 4}), {"stable": 3, "canary": 4}))
        >>> placement_of(entry).as_dict()
        {'versions': [3, 4], 'labels': {'canary': 4, 'stable': 3}}
    """
    entry.model_version_policy.Clear()
    entry.model_version_policy.specific.versions.extend(sorted(placement.versions))
    entry.version_labels.clear()
    for label, version in placement.labels.items():
        entry.version_labels[label] = version


def write_text_proto(path: Path, message: Message) -> None:
    """Writes a message as a text proto, in a form that does not depend on the order of maps."""
    path.write_text(text_format.MessageToString(message), encoding="utf-8")


class ModelConfigFile:
    """A model config file and the entry of one model in it; other models stay as they are.

    Args:
        path: The text proto of ModelServerConfig.
        model: Name of the model.

    Raises:
        ConfigError: The file cannot be read or does not list the model.
    """

    def __init__(self, path: Path, model: str):
        self.path = Path(path)
        self.model = model
        names = [entry.name for entry in self.read().model_config_list.config]
        if model not in names:
            raise ConfigError(f"{path} does not list the model {model!r}; it has {names}")

    def read(self) -> ModelServerConfig:
        """Returns what the file says now."""
        return read_model_config(self.path)

    def entry(self) -> ModelConfig:
        """Returns the model's entry."""
        return self._entry(self.read())

    def placed(self, placement: Placement) -> ModelServerConfig:
        """Returns the file's config with another placement of the model."""
        config = self.read()
        place(self._entry(config), placement)
        return config

    def write(self, config: ModelServerConfig) -> None:
        """Replaces the file by a config, at once and as a whole."""
        with staged_file(self.path) as staging:
            write_text_proto(staging, config)

    def _entry(self, config: ModelServerConfig) -> ModelConfig:
        return next(e for e in config.model_config_list.config if e.name == self.model)
