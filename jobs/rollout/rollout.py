"""A version's way: canary, promote, or back. Each action is locked and audited.

canary    stable = S                 ->  stable = S, canary = N
promote   stable = S, canary = N     ->  stable = N, previous = S     (both stay loaded)
rollback  stable = S, canary = N     ->  stable = S
          stable = N, previous = S   ->  stable = S                   (at once: S is loaded)
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import RolloutConfig
from cmdcm.core.errors import CmdcmError, ConfigError, ServingError
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.jobs.registry.aliases import Aliases
from cmdcm.jobs.rollout.audit import audit
from cmdcm.jobs.rollout.config_file import (
    CANARY,
    PREVIOUS,
    STABLE,
    ModelConfigFile,
    Placement,
    placement_of,
)
from cmdcm.jobs.rollout.lock import rollout_lock
from cmdcm.jobs.rollout.moves import Mover
from cmdcm.jobs.rollout.server import Server
from cmdcm.jobs.rollout.shift import Shift, ShiftError, read_requests, replay


@dataclass(frozen=True)
class Author:
    """Who acts, and why."""

    by: str
    reason: str = ""


class Rollout:
    """Moves the labels of one model on all of its servers.

    Args:
        file: The model config file of the servers.
        servers: All servers; requests are replayed on the first one.
        settings: Bounds and waiting times.
        author: Who acts, for the audit log.
        aliases: The registry's aliases, which follow the labels; None for no registry.
        base_path: Where the versions are on this machine; None for where the file says.

    Example:
        >>> rollout = Rollout(file, servers, RolloutConfig(), Author("ann"))  # doctest: +SKIP
        >>> rollout.canary(4)  # doctest: +SKIP
        >>> rollout.promote()  # doctest: +SKIP
        >>> rollout.rollback()  # doctest: +SKIP
    """

    def __init__(
        self,
        file: ModelConfigFile,
        servers: Sequence[Server],
        settings: RolloutConfig,
        author: Author,
        aliases: Aliases | None = None,
        base_path: Path | None = None,
    ):
        self.file = file
        self.servers = servers
        self.settings = settings
        self.author = author
        self.aliases = aliases
        self.base_path = base_path

    def folder(self, version: int) -> Path:
        """Returns where a version should be on this machine."""
        return Path(self.base_path or self.file.entry().base_path) / str(version)

    def now(self) -> Placement:
        """Returns where the model is; without a label `stable`, their newest version is it.

        Raises:
            ServingError: There is no such label, and the servers' newest versions differ.
        """
        placement = placement_of(self.file.entry())
        labels = dict(placement.labels)
        if STABLE not in labels:
            labels[STABLE] = self._newest()
        return Placement(placement.versions | frozenset(labels.values()), labels)

    def canary(self, version: int) -> Placement:
        """Loads a version beside the stable one and labels it `canary`.

        Raises:
            ServingError: It is the stable version, a server cannot load it, or another roll-out is
                under way; the servers are as before.
        """
        with rollout_lock(self.file.path):
            now = self.now()
            stable = now.labels[STABLE]
            wanted = Placement(frozenset({stable, version}), {STABLE: stable, CANARY: version})
            with self._audited("canary", now, wanted):
                if version == stable:
                    raise ServingError(f"version {version} is the stable one already")
                if self.aliases:
                    self.aliases.check(version)
                self._check_servers()
                if version > stable:
                    logging.warning(
                        "requests that ask for no version and no label go to the newest version, "
                        "which will be %d; clients should ask for the label %r",
                        version,
                        STABLE,
                    )
                self._mover(now, wanted).move_all(self.servers)
        return wanted

    def promote(
        self, files: Sequence[Path] = (), *, force: bool = False
    ) -> tuple[Placement, Shift]:
        """Makes the canary the stable version, if its scores are near enough to stable's.

        Args:
            files: TFRecords of PredictionLog to replay; none for the canary's warm-up requests.
            force: Promote whatever the scores are.

        Raises:
            ServingError: There is no canary, or a server failed; the servers are as before.
            ShiftError: Its scores are too far away; likewise.
            ConfigError: There is nothing to replay.
        """
        with rollout_lock(self.file.path):
            now = self.now()
            if CANARY not in now.labels:
                raise ServingError(
                    f"{self.file.path} has no canary of {self.file.model!r}; run cmdcm rollout "
                    "canary first"
                )
            stable, canary = now.labels[STABLE], now.labels[CANARY]
            wanted = Placement(frozenset({stable, canary}), {STABLE: canary, PREVIOUS: stable})
            with self._audited("promote", now, wanted) as entry:
                self._check_servers()
                shift = self._shift(files, stable, canary)
                entry["shift"] = shift.as_dict()
                excesses = shift.excesses(self.settings)
                if excesses and not force:
                    entry["result"] = "refused"
                    raise ShiftError(
                        f"version {canary} is not promoted: {'; '.join(excesses)}. Look into it, "
                        "or pass --force with --reason and --by"
                    )
                entry["forced"] = excesses
                self._mover(now, wanted).move_all(self.servers)
        return wanted, shift

    def rollback(self, version: int | None = None) -> Placement:
        """Takes the canary away; without one, returns to the version that was stable before.

        Args:
            version: Make this version the stable one, and no other.

        Raises:
            ServingError: There is nothing to go back to, or some servers failed; the others are
                moved.
        """
        with rollout_lock(self.file.path):
            now = self.now()
            if version is not None:
                labels = {STABLE: version}
            elif CANARY in now.labels:
                labels = {label: v for label, v in now.labels.items() if label != CANARY}
            elif PREVIOUS in now.labels:
                labels = {STABLE: now.labels[PREVIOUS]}
            else:
                raise ServingError(
                    f"{self.file.path} has neither a canary nor a previous version of "
                    f"{self.file.model!r}; pass --version"
                )
            wanted = Placement(frozenset(labels.values()), labels)
            with self._audited("rollback", now, wanted):
                self._mover(now, wanted).move_each(self.servers)
        return wanted

    def faults(self) -> list[str]:
        """Returns where servers or aliases differ from the model config file; none is good."""
        labels = placement_of(self.file.entry()).labels
        found = [self._fault(s, label, labels[label]) for s in self.servers for label in labels]
        if self.aliases:
            found += self.aliases.faults(labels)
        return list(dict.fromkeys(fault for fault in found if fault))

    def _fault(self, server: Server, label: str, version: int) -> str:
        try:
            found = server.labelled(label)
        except ServingError as error:
            return str(error)
        if found == version:
            return ""
        return (
            f"{server.target} answers {label!r} with version {found}, and {self.file.path} says "
            f"{version}"
        )

    def _mover(self, now: Placement, wanted: Placement) -> Mover:
        return Mover(self.file, now, wanted, self.settings)

    def _newest(self) -> int:
        newest = {server.target: max(server.available(), default=0) for server in self.servers}
        if len(set(newest.values())) > 1 or 0 in newest.values():
            raise ServingError(
                f"{self.file.path} has no label {STABLE!r} for {self.file.model!r}, and the "
                f"servers' newest versions are {newest}; write the label into the file"
            )
        return next(iter(newest.values()))

    def _check_servers(self) -> None:
        """Refuses servers whose stable version is not the file's: another file is in use there."""
        labels = self.file.entry().version_labels
        if STABLE in labels:
            found = [self._fault(server, STABLE, labels[STABLE]) for server in self.servers]
            if any(found):
                raise ServingError(
                    f"{'; '.join(filter(None, found))}. Restart what is behind: a server reads the "
                    "file at its start"
                )

    def _shift(self, files: Sequence[Path], stable: int, canary: int) -> Shift:
        if not files:
            warmup = self.folder(canary) / WARMUP_FILE
            if not warmup.exists():
                raise ConfigError(
                    f"there are no warm-up requests at {warmup}; pass logged requests with "
                    "--replay, or --model_base_path where the versions are here"
                )
            files = [warmup]
        requests = read_requests(files, self.settings.max_requests)
        return replay(self.servers[0], requests, stable, canary, self.settings.output)

    @contextlib.contextmanager
    def _audited(self, action: str, now: Placement, wanted: Placement) -> Iterator[dict[str, Any]]:
        """Logs the intent, and how it ended; the block may add to the entry."""
        entry: dict[str, Any] = {
            "action": action,
            "model": self.file.model,
            "by": self.author.by,
            "reason": self.author.reason,
            "targets": [server.target for server in self.servers],
            "from": now.as_dict(),
            "to": wanted.as_dict(),
        }
        audit(self.file.path, {**entry, "result": "started"})
        try:
            yield entry
        except BaseException as error:
            detail = str(error) if isinstance(error, CmdcmError) else type(error).__name__
            if isinstance(error, CmdcmError):  # a roll-back may have failed on some servers alone
                entry |= self._follow()
            audit(self.file.path, {"result": "failed", **entry, "detail": detail})
            raise
        audit(self.file.path, {**entry, **self._follow(), "result": "done"})

    def _follow(self) -> dict[str, object]:
        """Has the registry's aliases follow the labels that the file has now."""
        return self.aliases.follow(placement_of(self.file.entry()).labels) if self.aliases else {}
