"""The study of a search: an SQLite file that one search at a time writes."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from cmdcm.core.errors import OutputError
from cmdcm.core.files import output_errors

STUDY = "study.db"

SCORES, FAULT, SAME_AS = "scores", "fault", "same_as"
"""What the study knows of a trial beside its state and parameters: the folds' scores; why it failed
or had no valid configuration; the number of the equal trial whose results it has."""


@contextlib.contextmanager
def open_study(output: Path, identity: Mapping[str, Any]) -> Iterator[Study]:
    """Opens the study of an output directory, or begins one, and holds its lock.

    Args:
        output: The directory.
        identity: What determines the search, as plain values.

    Raises:
        OutputError: Another search is running there, or another one was begun there.
    """
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"another search is running in {output}; wait for its end") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = output / STUDY
        url = URL.create("sqlite", database=str(path.absolute()))
        try:
            storage = optuna.storages.RDBStorage(str(url))
            study = optuna.create_study(storage=storage, study_name="tune", load_if_exists=True)
        except (SQLAlchemyError, RuntimeError) as error:
            raise OutputError(f"{path} is no study that can be read: {error}") from error
        try:
            _check(study, output, json.loads(json.dumps(identity)))
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _check(study: Study, output: Path, identity: Mapping[str, Any]) -> None:
    known = study.user_attrs.get("search")
    if known is None:
        study.set_user_attr("search", identity)
        return
    differ = [key for key in identity if known.get(key) != identity[key]]
    if differ:
        raise OutputError(
            f"{output} holds a search with another {', '.join(differ)}; choose another --output or "
            "pass --overwrite"
        )
