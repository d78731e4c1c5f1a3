"""How servers get from one placement to another without a failed request.

    load   versions that are new, beside the old ones; wait until they serve
    move   the labels, all at once
    drop   versions that are no longer wanted

so that at no time a label names a version that is not loaded. Servers go one after the other: while
one loads a version, the others answer undisturbed.
"""

import time
from collections.abc import Sequence

from cmdcm.core.config import RolloutConfig
from cmdcm.core.errors import ServingError
from cmdcm.jobs.rollout.config_file import ModelConfigFile, Placement
from cmdcm.jobs.rollout.server import Server
from cmdcm.serving.versions import State

_FAILED_LOOKS = 4
"""Looks after which a version that failed is believed to stay so; a new attempt may start."""


def steps(now: Placement, wanted: Placement) -> tuple[Placement, Placement, Placement]:
    """Returns what is in place after loading, after moving and after dropping.

    Example:
        >>> now = Placement(frozenset({2, 3}), {"stable": 3, "previous": 2})
        >>> for step in steps(now, Placement(frozenset({2}), {"stable": 2})):
        ...     print(step.as_dict())
        {'versions': [2, 3], 'labels': {'previous': 2, 'stable': 3}}
        {'versions': [2, 3], 'labels': {'stable': 2}}
        {'versions': [2], 'labels': {'stable': 2}}
    """
    both = now.versions | wanted.versions
    return Placement(both, now.labels), Placement(both, wanted.labels), wanted


class Mover:
    """Takes servers from one placement to another.

    Args:
        file: The model config file; it says at every time what a server that starts should serve.
        now: Where the model is.
        wanted: Where it should be.
        settings: Waiting times.
    """

    def __init__(
        self, file: ModelConfigFile, now: Placement, wanted: Placement, settings: RolloutConfig
    ):
        self._file = file
        self._now = now
        self._wanted = wanted
        self._settings = settings

    def move_all(self, servers: Sequence[Server]) -> None:
        """Moves all servers, or none: if one fails before all labels are moved, all go back.

        Raises:
            ServingError: A server failed.
        """
        load, move, drop = steps(self._now, self._wanted)
        before = self._file.read()
        try:
            self._file.write(self._file.placed(load))
            for server in servers:
                self._load(server)
            self._file.write(self._file.placed(move))
            for server in servers:
                self._move(server)
        except BaseException as error:  # Ctrl-C, too
            self._file.write(before)
            left = []
            for server in servers:
                try:
                    server.reload(before)
                except ServingError as fault:
                    left.append(str(fault))
            if left and isinstance(error, ServingError):
                raise ServingError(f"{error}; and could not go back: {'; '.join(left)}") from error
            raise
        self._file.write(self._file.placed(drop))
        for server in servers:
            self._drop(server)

    def move_each(self, servers: Sequence[Server]) -> None:
        """Moves every server that can be moved, whatever becomes of the others: the way back.

        The file says what is wanted in any case, so that a server that is down comes back so.

        Raises:
            ServingError: Some servers were not moved; names them.
        """
        self._file.write(self._file.placed(self._wanted))
        failed = []
        for server in servers:
            try:
                self._load(server)
                self._move(server)
                self._drop(server)
            except ServingError as error:
                failed.append(str(error))
        if failed:
            raise ServingError(f"rolled back, but not everywhere: {'; '.join(failed)}")

    def _load(self, server: Server) -> None:
        """Loads what is wanted and waits for it; what serves already is left alone."""
        load, *_ = self._steps_of(server)
        if not self._wanted.versions <= set(server.available()):
            server.reload(self._file.placed(load))
            wait_until_available(server, self._wanted.versions, self._settings)

    def _move(self, server: Server) -> None:
        _, move, _ = self._steps_of(server)
        server.reload(self._file.placed(move))
        for label, version in move.labels.items():
            found = server.labelled(label)
            if found != version:
                raise ServingError(
                    f"{server.target} answers {label!r} with version {found} and not {version}; "
                    "does it poll another config file?"
                )

    def _drop(self, server: Server) -> None:
        _, move, drop = self._steps_of(server)
        if drop != move:
            server.reload(self._file.placed(drop))

    def _steps_of(self, server: Server) -> tuple[Placement, Placement, Placement]:
        """Returns the steps of a server, which may serve versions that the file does not name."""
        loaded = self._now.versions.union(server.available())
        return steps(Placement(loaded, self._now.labels), self._wanted)


def wait_until_available(server: Server, versions: frozenset[int], settings: RolloutConfig) -> None:
    """Waits until a server has loaded and warmed up all versions.

    Raises:
        ServingError: One cannot be loaded, with the server's reason, or takes too long.
    """
    deadline = time.monotonic() + settings.load_timeout_seconds
    failed = 0
    while True:
        states = server.statuses()
        missing = [
            v for v in sorted(versions) if v not in states or states[v].state != State.AVAILABLE
        ]
        if not missing:
            return
        faults = [states[v] for v in missing if v in states and states[v].state == State.END]
        faults = [status for status in faults if status.message]
        failed = failed + 1 if faults else 0
        if failed == _FAILED_LOOKS:
            fault = faults[0]
            raise ServingError(
                f"{server.target} cannot load version {fault.version}: {fault.code.name}: "
                f"{fault.message}"
            )
        if time.monotonic() > deadline:
            raise ServingError(
                f"{server.target} does not serve version {missing[0]} after "
                f"{settings.load_timeout_seconds:g} s (rollout.load_timeout_seconds); it is "
                f"{states[missing[0]].state.name if missing[0] in states else 'not found there'}"
            )
        time.sleep(settings.poll_seconds)
