"""The versions of one model: found in its base path, loaded, swapped and unloaded.

The base path holds one folder a version, named by its number (`00000123` is 123; anything else is
ignored). It is polled. The versions that the policy wants are served; a new one is loaded and
warmed up before an old one goes, and if it cannot be loaded the old one goes on serving.

    found -> START -> LOADING -> AVAILABLE -> UNLOADING -> END
                         `--- cannot be loaded ---------> END with the error
                                                           (START again when it is tried again)
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from cmdcm.core.errors import ServingError
from cmdcm.serving.loading import load_servable
from cmdcm.serving.memory import give_back_freed_memory
from cmdcm.serving.servable import Servable
from cmdcm.serving.status import from_exception, not_found
from cmdcm.serving.version_folders import Fingerprint, find_versions, fingerprint_of
from cmdcm.serving.version_policy import VersionPolicy, latest
from cmdcm.serving.version_status import State, VersionStatus

_KEPT_STATES = 100  # ended versions that the status still lists


@dataclass
class _Serving:
    """A loaded version, what was last told of it, and how many calls use it.

    It is AVAILABLE, or UNLOADING: then it goes when its last user leaves.
    """

    servable: Servable
    status: VersionStatus
    users: int = 0


@dataclass
class _Failure:
    """A version that could not be loaded: as which files, how often, and when to try again."""

    fingerprint: Fingerprint
    attempts: int
    retry_at: float


class ModelVersions:
    """Keeps the wanted versions of one model loaded.

    Args:
        name: Name of the model.
        base_path: Folder of the numbered version folders.
        policy: Chooses the wanted ones among the versions found.
        poll_seconds: Seconds between two looks at the base path; 0 looks once only.
        max_num_load_retries: How often a version that cannot be loaded is tried again.
        load_retry_seconds: Seconds before it is tried again.
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
        policy: VersionPolicy = latest,
        poll_seconds: float = 2.0,
        max_num_load_retries: int = 5,
        load_retry_seconds: float = 60.0,
        load: Callable[[Path, str, int], Servable] = load_servable,
    ):
        self.name = name
        self._source = (Path(base_path), policy)
        self._poll_seconds = poll_seconds
        self._max_attempts = 1 + max_num_load_retries
        self._load_retry_seconds = load_retry_seconds
        self._load = load
        self._lock = threading.Lock()  # guards the next four
        self._serving: dict[int, _Serving] = {}
        self._idle: list[_Serving] = []
        self._statuses: dict[int, VersionStatus] = {}
        self._closing = False
        self._failures: dict[int, _Failure] = {}
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"versions-{name}", daemon=True)
        self._complaint = ""

    def start(self) -> None:
        """Loads what there is, then polls in a thread.

        Raises:
            ServingError: No version can be served, with the reason.
        """
        self.poll()
        if not self.available():
            faults = [f"{s.code.name}: {s.message}" for s in self.statuses() if s.message]
            reason = "; ".join(faults) or self._complaint
            raise ServingError(f"no version of {self.name!r} serves: {reason}")
        self._thread.start()

    def configure(self, base_path: Path, policy: VersionPolicy) -> None:
        """Changes where versions are found and which are wanted; the thread acts on it at once."""
        self._source = (Path(base_path), policy)
        self._wake.set()

    def close(self) -> None:
        """Stops polling and unloads all versions, without waiting for the calls under way."""
        with self._lock:
            self._closing = True
        self._wake.set()
        for version in self.available():
            self._retire(version)

    def join(self) -> None:
        """Waits, once closed, for the polling thread; it may be loading a version."""
        if self._thread.is_alive():
            self._thread.join()

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
            self._leave(entry)

    def poll(self) -> None:
        """Looks at the base path once: loads what is wanted, then unloads what is not.

        A base path that cannot be read, or holds no version that is wanted, changes nothing: a
        lost mount should not stop the service.
        """
        base_path, policy = self._source
        try:
            found = find_versions(base_path)
        except (OSError, ValueError) as error:  # a path may even hold what no file name can
            self._complain(
                f"model base path {base_path} is not a directory that can be read: {error}"
            )
            return
        wanted = policy(found)
        if not wanted:
            self._complain(
                f"model base path {base_path} has no complete version folder that is wanted (a "
                "number as its name, saved_model.pb inside)"
            )
            return
        self._complaint = ""
        for version in set(self._failures) - set(found):
            del self._failures[version]
        for version in sorted(wanted - set(self.available())):
            if not self._closing:
                self._try_load(version, found[version])
        if wanted & set(self.available()):
            for version in set(self.available()) - wanted:
                self._retire(version)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._poll_seconds or None)
            self._wake.clear()
            with self._lock:  # both at once: what is idle later is not left to this thread
                idle, self._idle = self._idle, []
                closing = self._closing
            for entry in idle:
                self._unload(entry)
            if closing:
                return
            try:
                self.poll()
            except Exception:  # the thread must outlive a surprise; the next poll may succeed
                logging.exception("polling %s failed", self._source[0])

    def _try_load(self, version: int, path: Path) -> None:
        """Loads a version, unless it failed before and it is not time to try again."""
        try:
            fingerprint = fingerprint_of(path)
        except OSError:
            return  # files are coming or going; the next poll sees them
        failure = self._failures.get(version)
        if failure is None or failure.fingerprint != fingerprint:
            failure = _Failure(fingerprint, attempts=0, retry_at=0.0)
        elif failure.attempts >= self._max_attempts or time.monotonic() < failure.retry_at:
            return
        self._set(VersionStatus(version, State.START))
        self._set(VersionStatus(version, State.LOADING))
        try:
            servable = self._load(path, self.name, version)
        except Exception as error:
            status = from_exception(error)
            logging.error("cannot load version %d of %r: %s", version, self.name, status)
            failure.attempts += 1
            failure.retry_at = time.monotonic() + self._load_retry_seconds
            self._failures[version] = failure
            self._set(VersionStatus(version, State.END, status.code, str(status)))
            return
        self._failures.pop(version, None)
        self._admit(servable)

    def _admit(self, servable: Servable) -> None:
        with self._lock:
            closing = self._closing
            state = State.UNLOADING if closing else State.AVAILABLE
            entry = _Serving(servable, VersionStatus(servable.version, state))
            self._record(entry.status)
            if not closing:
                self._serving[servable.version] = entry
        if closing:  # while it was loaded
            self._unload(entry)
        else:
            logging.info("version %d of %r is available", servable.version, self.name)

    def _leave(self, entry: _Serving) -> None:
        """Ends a use. The thread unloads what nobody uses any more: no call should wait for it."""
        with self._lock:
            entry.users -= 1
            if entry.users or entry.status.state == State.AVAILABLE:
                return
            closing = self._closing
            if not closing:
                self._idle.append(entry)
        if closing:  # the thread ends, or has ended
            self._unload(entry)
        else:
            self._wake.set()

    def _retire(self, version: int) -> None:
        with self._lock:
            entry = self._serving.pop(version, None)
            if entry is None:  # `close` was faster
                return
            entry.status = VersionStatus(version, State.UNLOADING)
            unload = entry.users == 0
            self._record(entry.status)
        if unload:
            self._unload(entry)

    def _unload(self, entry: _Serving) -> None:
        entry.servable.close()
        give_back_freed_memory()
        version = entry.servable.version
        with self._lock:
            if self._statuses.get(version) is entry.status:  # else it was loaded anew meanwhile
                self._record(VersionStatus(version, State.END))
        logging.info("version %d of %r is unloaded", version, self.name)

    def _set(self, status: VersionStatus) -> None:
        with self._lock:
            self._record(status)

    def _record(self, status: VersionStatus) -> None:
        """Notes a status; the lock is held."""
        self._statuses[status.version] = status
        ended = sorted(v for v, known in self._statuses.items() if known.state == State.END)
        for version in ended[:-_KEPT_STATES]:
            del self._statuses[version]

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:  # once, not at every poll
            logging.warning("%s", complaint)
        self._complaint = complaint
