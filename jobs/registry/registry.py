"""The registry: one entry of MLflow's model registry for each served version, with its lineage.

A version's number is that of its folder, `BASE/7`, which is what servers and roll-outs speak of;
MLflow counts its entries by itself, so the folder's number is a tag of the entry. The lineage lies
with the entry's files, and its shortest parts are tags, too.

    champion     the version that is labelled `stable`
    challenger   the version that is labelled `canary`
    previous     the version that is labelled `previous`

Aliases follow the labels (`cmdcm.jobs.registry.aliases`); nothing moves a label for an alias.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import MANIFEST, read_json, verify_manifest, write_json
from cmdcm.core.locations import Location
from cmdcm.core.mlflow_store import MlflowStore, open_store
from cmdcm.core.redaction import redact
from cmdcm.jobs.registry.lineage import Lineage, read_lineage

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)

_LINEAGE = "lineage.json"
_NUMBER, _SHA, _EXPORT = "serving_version", "manifest_sha256", "export"
_TAG_LENGTH = 500


@dataclass(frozen=True)
class Registered:
    """A registered version.

    Attributes:
        version: Its number, that of its folder under the base path.
        entry: MLflow's number of the entry.
        run: MLflow's run that holds its lineage.
        export: Its folder.
        manifest_sha256: SHA-256 of the folder's manifest.
        created_ms: When it was registered, UTC ms.
        aliases: Its aliases, in alphabetical order.
        tags: The shortest parts of its lineage.
    """

    version: int
    entry: str
    run: str
    export: str
    manifest_sha256: str
    created_ms: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


class Registry:
    """The registered versions of one served model.

    Args:
        uri: The MLflow store (`tracking.uri`).
        model: Name of the served model (`export.name`).
        experiment: Experiment of the runs of versions whose training has none
            (`tracking.experiment`).

    Raises:
        ConfigError: MLflow is not installed.
        OutputError: The store cannot be opened.

    Example:
        >>> registry = Registry("sqlite:///out/mlflow.db", "cmdcm")  # doctest: +SKIP
        >>> version = registry.register(Path("out/serving/cmdcm/4"), lineage)  # doctest: +SKIP
        >>> registry.set_alias("challenger", version)  # doctest: +SKIP
        >>> registry.resolve("challenger").version  # doctest: +SKIP
        4
    """

    def __init__(self, uri: str, model: str, experiment: str = "cmdcm"):
        self.uri = uri
        self.model = model
        self._experiment = experiment
        with self._calls():
            self._store: MlflowStore = open_store(uri)
        self._client: Any = self._store.client

    @classmethod
    def of(cls, config: Config, model: str = "") -> "Registry":
        """Opens the registry of the configured model, or of another one by its name."""
        tracking = config.tracking
        return cls(tracking.uri, model or config.export.name, tracking.experiment)

    def register(self, export: Location, lineage: Lineage) -> int:
        """Registers a published version; one that is registered already is left as it is.

        Args:
            export: Its folder, `BASE/NUMBER`.
            lineage: Where it comes from.

        Returns:
            Its number.

        Raises:
            DataError: The folder is no published version or does not match its manifest, or its
                number is registered with another content.
            OutputError: The store failed.
        """
        number, digest = self._checked(export)
        known = self.find(number)
        if known is not None:
            if known.manifest_sha256 != digest:
                raise DataError(
                    f"version {number} of {self.model} is registered with another content, from "
                    f"{known.export}: one model has one base path; set another export.name"
                )
            return number
        place = str(export.absolute() if isinstance(export, Path) else export)
        with self._calls():
            run = self._run_of(lineage, number)
            folder = f"registry/{number}"
            self._store_files(run, folder, export, lineage)
            self._make_model()
            tags = {_NUMBER: str(number), _SHA: digest, _EXPORT: redact(place), **_short(lineage)}
            self._client.create_model_version(
                self.model,
                f"{self._client.get_run(run).info.artifact_uri}/{folder}",
                run,
                tags=tags,
            )
        return number

    def versions(self) -> list[Registered]:
        """Returns all registered versions, in the order of their numbers."""
        from mlflow.exceptions import MlflowException

        with self._calls():
            try:
                aliases = self._client.get_registered_model(self.model).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
            entries, token = [], None
            while True:
                page = self._client.search_model_versions(
                    f"name = '{self.model}'", max_results=1000, page_token=token
                )
                entries += [entry for entry in page if _NUMBER in entry.tags]
                token = page.token
                if not token:
                    break
        return sorted((_registered(e, aliases) for e in entries), key=lambda v: v.version)

    def find(self, version: int) -> Registered | None:
        """Returns a version by its number; None if it is not registered."""
        return next((v for v in self.versions() if v.version == version), None)

    def resolve(self, name: str | int) -> Registered:
        """Returns a version by its number or by an alias.

        Raises:
            DataError: There is none; names those there are.
        """
        found = self.versions()
        for version in found:
            if str(name) == str(version.version) or name in version.aliases:
                return version
        numbers = [v.version for v in found]
        raise DataError(
            f"{name} is neither a registered version of {self.model} nor an alias of one; "
            f"{redact(self.uri)} has the versions {numbers} and the aliases {self.aliases()}"
        )

    def lineage(self, name: str | int) -> Lineage:
        """Returns where a version comes from.

        Raises:
            DataError: There is no such version, or its lineage is gone.
        """
        version = self.resolve(name)
        with tempfile.TemporaryDirectory() as scratch:
            with self._calls():
                path = self._client.download_artifacts(
                    version.run, f"registry/{version.version}/{_LINEAGE}", scratch
                )
            return read_lineage(Path(path))

    def aliases(self) -> dict[str, int]:
        """Returns the version of each alias."""
        return {alias: v.version for v in self.versions() for alias in v.aliases}

    def set_alias(self, alias: str, version: int | None) -> None:
        """Gives an alias to a registered version, or takes it away from all (None).

        Where the model is served, `cmdcm rollout` does it as it moves the labels.

        Raises:
            DataError: The version is not registered.
            OutputError: The store failed.
        """
        if version is None:
            with self._calls():
                self._client.delete_registered_model_alias(self.model, alias)
            return
        entry = self.resolve(version).entry
        with self._calls():
            self._client.set_registered_model_alias(self.model, alias, entry)

    def _checked(self, export: Location) -> tuple[int, str]:
        """Returns number and digest of a version, after checking all its files if it is local."""
        if not export.name.isdecimal():
            raise DataError(f"{export} is no version: expected BASE/NUMBER")
        if read_json(export / MANIFEST, "manifest of the export").get("kind") != "export":
            raise DataError(f"{export} was not written by `cmdcm export`")
        if isinstance(export, Path):
            verify_manifest(export)
        return int(export.name), hashlib.sha256((export / MANIFEST).read_bytes()).hexdigest()

    def _run_of(self, lineage: Lineage, number: int) -> str:
        """Returns the training's run, or makes one for the version."""
        from mlflow.exceptions import MlflowException

        if lineage.training_run:
            try:
                return str(self._client.get_run(lineage.training_run).info.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        run = self._client.create_run(
            self._store.experiment(self._experiment), run_name=f"{self.model}-{number}"
        )
        self._client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def _store_files(self, run: str, folder: str, export: Location, lineage: Lineage) -> None:
        from mlflow.entities import Metric

        with tempfile.TemporaryDirectory() as scratch:
            write_json(Path(scratch) / _LINEAGE, lineage.as_dict())
            (Path(scratch) / MANIFEST).write_bytes((export / MANIFEST).read_bytes())
            for name in (_LINEAGE, MANIFEST):
                self._client.log_artifact(run, str(Path(scratch) / name), folder)
        self._client.log_batch(
            run, metrics=[Metric(name, value, 0, 0) for name, value in lineage.metrics.items()]
        )

    def _make_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Turns a failure of the store, whatever its library, into an error that names it."""
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _STORE_LIBRARIES:
                raise
            text = redact(f"{type(error).__name__}: {error}")
            raise OutputError(f"MLflow at {redact(self.uri)} failed: {text}") from error


_STORE_LIBRARIES = ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "sqlite3")


def _registered(entry: Any, aliases: Mapping[str, Any]) -> Registered:
    tags = dict(entry.tags)
    return Registered(
        version=int(tags.pop(_NUMBER)),
        entry=str(entry.version),
        run=str(entry.run_id),
        export=tags.pop(_EXPORT, ""),
        manifest_sha256=tags.pop(_SHA, ""),
        created_ms=int(entry.creation_timestamp),
        aliases=tuple(
            sorted(name for name, of in aliases.items() if str(of) == str(entry.version))
        ),
        tags=tags,
    )


def _short(lineage: Lineage) -> dict[str, str]:
    """Returns the parts of a lineage that are short enough for tags."""
    values = redact(lineage.as_dict())
    names = ("model", "code_revision", "examples_sha256", "promotion", "as_of", "parent")
    tags = {name: str(values[name]) for name in names if values[name]}
    for part, span in lineage.data.items():
        tags[f"data.{part}"] = f"{span['first']}..{span['last']}, {span['days']} days"
    return {name: text[:_TAG_LENGTH] for name, text in tags.items()}
