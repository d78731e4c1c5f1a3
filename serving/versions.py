"""The versions of one model: found in its base path, loaded, swapped and unloaded.

The base path holds one folder a version, named by its number (`00000123` is 123; anything else is
ignored). It is polled. The newest version is served; it is loaded and warmed up before the old one
goes, and if it cannot be loaded the old one goes on serving.

    found -> START -> LOADING -> AVAILABLE -> UNLOADING -> END
                         `--- cannot be loaded ---------> END with the error
"""

import contextlib
import enum
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from absl import logging

from cmdcm.core.errors import ServingError
from cmdcm.serving.servable import Servable
from cmdcm.serving.status import from_exception, not_found

_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_MAX_VERSION = 2**63 - 1
_KEPT_STATES = 100  # ended versions that the status still lists

_Fingerprint = frozenset[tuple[str, int, int]]


class State(enum.IntEnum):
    """States of a version, with the numbers of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """What is known of one version; `code` is OK unless it could not be loaded."""

    version: int
    state: State
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""


@dataclass
class _Serving:
    """A loaded version and how many calls use it; the last user of a retired one closes it."""

    servable: Servable
    users: int = 0
    retired: bool = False


def latest(found: Mapping[int, Path]) -> set[int]:
    """Returns the newest version alone: the version policy `latest` with one version."""
    return {max(found)}


class ModelVersions:
    """Keeps the wanted versions of one model loaded.

    Args:
        name: Name of the model.
        base_path: Folder of the numbered version folders.
        poll_seconds: Seconds between two looks at the base path.
        policy: Chooses the wanted ones among the versions found.
        load: Loads a version from (folder, name, number).

    Example:
        >>> versions = ModelVersions("cmdcm", Path("out/export"))  # doctest: +SKIP
        >>> versions.start()  # doctest: +SKIP
        >>> with versions.use() as servable:  # doctest: +SKIP
        ...     servable.predict("serving_default", {"examples": examples})
    """

    def __init__(
        self,
        name: str,
        base_path: Path,
        *,
        poll_seconds: float = 2.0,
        policy: Callable[[Mapping[int, Path]], set[int]] = latest,
        load: Callable[[Path, str, int], Servable] = Servable.load,
    ):
        self.name = name
        self.base_path = Path(base_path)
        self._poll_seconds = poll_seconds
        self._policy = policy
        self._load = load
        self._lock = threading.Lock()  # guards the next two
        self._serving: dict[int, _Serving] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, _Fingerprint] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"versions-{name}", daemon=True)
        self._complaint = ""

    def start(self) -> None:
        """Loads what there is, then polls in a thread.

        Raises:
            ServingError: No version can be served, with the reason.
        """
        if not self.base_path.is_dir():
            raise ServingError(
                f"model base path {self.base_path} is not a directory; export a model there, or "
                "pass the folder that holds the numbered versions"
            )
        self.poll()
        if not self.available():
            faults = [f"{s.code.name}: {s.message}" for s in self.statuses() if s.message]
            reason = "; ".join(faults) or (
                "it has no complete version folder (a number as its name, saved_model.pb inside)"
            )
            raise ServingError(f"no version of {self.name!r} in {self.base_path} serves: {reason}")
        self._thread.start()

    def stop(self) -> None:
        """Stops polling and unloads all versions; calls under way end first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for version in self.available():
            self._retire(version)

    def available(self) -> list[int]:
        """Returns the versions that serve, in ascending order."""
        with self._lock:
            return sorted(self._serving)

    def statuses(self, version: int | None = None) -> list[VersionStatus]:
        """Returns the status of one or of all versions, newest first.

        Raises:
            StatusError: NOT_FOUND, `version` was never seen.
        """
        with self._lock:
            known = dict(self._statuses)
        if version is None:
            return [known[number] for number in sorted(known, reverse=True)]
        if version not in known:
            raise not_found(f"Could not find version {version} of model {self.name}")
        return [known[version]]

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> Iterator[Servable]:
        """Yields a loaded version, which stays loaded until the block ends.

        Args:
            version: Number of the version; None for the newest that serves.

        Raises:
            StatusError: NOT_FOUND, that version does not serve.
        """
        with self._lock:
            wanted = max(self._serving, default=None) if version is None else version
            entry = self._serving.get(wanted) if wanted is not None else None
            if entry is None:
                asked = "Latest" if version is None else f"Specific {version}"
                raise not_found(f"Servable not found for request: {asked} of {self.name}")
            entry.users += 1
        try:
            yield entry.servable
        finally:
            with self._lock:
                entry.users -= 1
                close = entry.retired and entry.users == 0
            if close:
                self._close(entry)

    def poll(self) -> None:
        """Looks at the base path once: loads what is wanted, then unloads what is not.

        A base path that cannot be read or holds no version changes nothing: a lost mount should
        not stop the service.
        """
        try:
            found = find_versions(self.base_path)
        except OSError as error:
            self._complain(f"cannot read model base path {self.base_path}: {error.strerror}")
            return
        if not found:
            self._complain(f"no version of {self.name!r} found in {self.base_path}")
            return
        self._complaint = ""
        for version in set(self._failed) - set(found):
            del self._failed[version]
        wanted = self._policy(found)
        for version in sorted(wanted - set(self.available())):
            self._try_load(version, found[version])
        if wanted & set(self.available()):
            for version in set(self.available()) - wanted:
                self._retire(version)

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.poll()
            except Exception:  # the thread must outlive a surprise; the next poll may succeed
                logging.exception("polling %s failed", self.base_path)

    def _try_load(self, version: int, path: Path) -> None:
        """Loads a version, unless it failed before and no file of it has changed since."""
        try:
            fingerprint = _fingerprint(path)
        except OSError:
            return  # files are coming or going; the next poll sees them
        if self._failed.get(version) == fingerprint:
            return
        self._set(VersionStatus(version, State.START))
        self._set(VersionStatus(version, State.LOADING))
        try:
            servable = self._load(path, self.name, version)
        except Exception as error:
            status = from_exception(error)
            logging.error("cannot load version %d of %r: %s", version, self.name, status)
            self._failed[version] = fingerprint
            self._set(VersionStatus(version, State.END, status.code, str(status)))
            return
        self._failed.pop(version, None)
        with self._lock:
            self._serving[version] = _Serving(servable)
        self._set(VersionStatus(version, State.AVAILABLE))
        logging.info("version %d of %r is available", version, self.name)

    def _retire(self, version: int) -> None:
        self._set(VersionStatus(version, State.UNLOADING))
        with self._lock:
            entry = self._serving.pop(version)
            entry.retired = True
            close = entry.users == 0
        if close:
            self._close(entry)

    def _close(self, entry: _Serving) -> None:
        entry.servable.close()
        self._set(VersionStatus(entry.servable.version, State.END))
        logging.info("version %d of %r is unloaded", entry.servable.version, self.name)

    def _set(self, status: VersionStatus) -> None:
        with self._lock:
            self._statuses[status.version] = status
            ended = sorted(v for v, known in self._statuses.items() if known.state == State.END)
            for version in ended[:-_KEPT_STATES]:
                del self._statuses[version]

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:  # once, not at every poll
            logging.warning("%s", complaint)
        self._complaint = complaint


def find_versions(base_path: Path) -> dict[int, Path]:
    """Returns the complete version folders; one without its model file is still being written."""
    found: dict[int, Path] = {}
    for path in sorted(base_path.iterdir()):
        if not (path.name.isascii() and path.name.isdigit()) or int(path.name) > _MAX_VERSION:
            continue
        if any((path / name).is_file() for name in _MODEL_FILES):
            found.setdefault(int(path.name), path)
    return found


def _fingerprint(path: Path) -> _Fingerprint:
    """Returns name, size and time of change of every file, to see whether any has changed."""
    files = [file for file in path.rglob("*") if file.is_file()]
    stats = [(file, file.stat()) for file in files]
    return frozenset((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
