"""The MLflow store of runs and of registered models: a SQLite file, or a server by its URL.

MLflow is an extra (`cmdcm[mlflow]`) and takes seconds to import, so it is imported here, when a
store is opened, and nowhere else.
"""

import contextlib
import fcntl
import importlib.util
import logging as std_logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdcm.core.errors import ConfigError
from cmdcm.core.files import output_errors

_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    # A training or a roll-out does not wait long for a server that does not answer, and tells
    # nobody else that it runs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def mlflow_installed() -> bool:
    """Returns whether the extra is there, without importing it."""
    return importlib.util.find_spec("mlflow") is not None


@dataclass(frozen=True)
class MlflowStore:
    """An open store.

    Attributes:
        uri: Where it is.
        client: Its `mlflow.MlflowClient`.
        artifacts: Folder of the artefacts of new experiments; None for the server's choice.
    """

    uri: str
    client: Any
    artifacts: Path | None

    def experiment(self, name: str) -> str:
        """Returns the id of an experiment, which is made if it is not there."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = None if self.artifacts is None else (self.artifacts / name).as_uri()
        try:
            return str(self.client.create_experiment(name, artifact_location=place))
        except MlflowException:  # another process was faster
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


def sqlite_file(uri: str) -> Path | None:
    """Returns the absolute path of a SQLite store; None for a store of another kind.

    Example:
        >>> sqlite_file("sqlite:////var/mlflow.db"), sqlite_file("https://mlflow:5000")
        (PosixPath('/var/mlflow.db'), None)
    """
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def open_store(uri: str) -> MlflowStore:
    """Opens a store; a SQLite file is made if it is not there, its artefacts lie beside it.

    Args:
        uri: `sqlite:///FILE`, or any other tracking URI of MLflow, such as `https://mlflow:5000`.

    Raises:
        ConfigError: MLflow is not installed.
        OutputError: The file's folder cannot be made.
        MlflowException: The store cannot be opened.
    """
    if not mlflow_installed():
        raise ConfigError("MLflow is not installed; run: pip install 'cmdcm[mlflow]'")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for library in ("alembic", "mlflow"):
        std_logging.getLogger(library).setLevel(std_logging.WARNING)
    file = sqlite_file(uri)
    if file is None:
        return MlflowStore(uri, MlflowClient(uri, registry_uri=uri), None)
    with _alone(file):  # two processes that make the tables at once would both fail
        client = MlflowClient(uri, registry_uri=uri)
        client.search_registered_models(max_results=1)
    return MlflowStore(uri, client, file.parent / f"{file.stem}-artifacts")


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    lock = file.with_name(f".{file.name}.lock")
    with output_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
