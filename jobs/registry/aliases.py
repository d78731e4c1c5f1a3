"""The registry's aliases follow the labels of the servers, and any difference is told.

The model config file says which version has which label; it is what servers read, so it is right
and an alias that differs is wrong. Every roll-out sets the aliases after it has moved the labels.
A store that fails then does not undo a roll-out: the audit log has it, and `cmdcm rollout status`
and `cmdcm registry list` name the difference until `cmdcm registry sync` has ended it.
"""

from collections.abc import Mapping

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, ServingError
from cmdcm.core.mlflow_store import mlflow_installed, sqlite_file
from cmdcm.jobs.registry.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from cmdcm.jobs.rollout.config_file import CANARY, STABLE
from cmdcm.jobs.rollout.config_file import PREVIOUS as PREVIOUS_LABEL

ALIAS_OF = {STABLE: CHAMPION, CANARY: CHALLENGER, PREVIOUS_LABEL: PREVIOUS}
"""The alias of each label."""


class Aliases:
    """The aliases of one model, for a roll-out. Nothing is opened before it is needed.

    They are left alone where MLflow or the SQLite file is not there, or no version of the model
    was ever registered: then there is no registry to keep true.

    Args:
        config: Says where the registry is (`tracking.uri`).
        model: Name of the served model.
    """

    def __init__(self, config: Config, model: str):
        self._config = config
        self._model = model

    def check(self, version: int) -> None:
        """Refuses a version that is not registered, while others are.

        A store that cannot be asked refuses nothing: the servers have to go on without it.

        Raises:
            ServingError: It is not registered.
        """
        try:
            registry = self.registry()
            known = registry is None or registry.find(version) is not None
        except CmdcmError as error:
            logging.warning("whether version %d is registered is not known: %s", version, error)
            return
        if not known:
            raise ServingError(
                f"version {version} of {self._model} is not registered, so nobody could tell what "
                "it was made of: run cmdcm registry register, or pass --set rollout.registry=false"
            )

    def follow(self, labels: Mapping[str, int]) -> dict[str, object]:
        """Sets the aliases by the labels, which are moved already, so that it never fails.

        Returns:
            What the audit log should know.
        """
        try:
            registry = self.registry()
            if registry is None:
                return {}
            entry: dict[str, object] = {"aliases": follow(registry, labels)}
            faults = differences(registry, labels)
        except Exception as error:
            entry, faults = {}, [str(error) or type(error).__name__]
        if faults:
            logging.warning("the labels are as they should be, the registry is not: %s", faults)
            entry["registry_faults"] = faults
        return entry

    def faults(self, labels: Mapping[str, int]) -> list[str]:
        """Returns where aliases and labels differ; none if all is well."""
        try:
            registry = self.registry()
            return [] if registry is None else differences(registry, labels)
        except CmdcmError as error:
            return [str(error)]

    def registry(self) -> Registry | None:
        """Returns the registry; None if there is none to keep true.

        Raises:
            OutputError: The store cannot be asked.
        """
        file = sqlite_file(self._config.tracking.uri)
        if not mlflow_installed() or (file is not None and not file.exists()):
            return None
        registry = Registry.of(self._config, self._model)
        return registry if registry.versions() else None


def follow(registry: Registry, labels: Mapping[str, int]) -> dict[str, int]:
    """Sets the aliases by the labels; returns them.

    Raises:
        OutputError: The store failed.
    """
    found = registry.aliases()
    for alias, version in _wanted(registry, labels).items():
        if found.get(alias) != version:
            registry.set_alias(alias, version)
    return registry.aliases()


def differences(registry: Registry, labels: Mapping[str, int]) -> list[str]:
    """Returns where aliases and labels differ, and labels of versions that are not registered.

    Raises:
        OutputError: The store failed.
    """
    found, faults = registry.aliases(), []
    should = _wanted(registry, labels)
    for label, alias in ALIAS_OF.items():
        if label in labels and should[alias] is None:
            faults.append(
                f"version {labels[label]}, labelled {label!r}, is not registered: run cmdcm "
                "registry register"
            )
        if found.get(alias) != should[alias]:
            faults.append(
                f"the alias {alias!r} has version {found.get(alias, 'none')}, and the label "
                f"{label!r} has version {labels.get(label, 'none')}: run cmdcm registry sync"
            )
    return faults


def _wanted(registry: Registry, labels: Mapping[str, int]) -> dict[str, int | None]:
    """Returns the version that each alias should have; None where it has no registered one."""
    known = {version.version for version in registry.versions()}
    versions = {alias: labels.get(label) for label, alias in ALIAS_OF.items()}
    return {alias: v if v in known else None for alias, v in versions.items()}
