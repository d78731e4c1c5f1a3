"""The job: steps in order under a lock, and one decision that says what came of it and why.

`retrain` is the library's entry: configuration and request in, decision out. Its clock and its
as-of instant are arguments, so that a back-test or a simulated year runs the very job.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, ConfigError, PreemptedError, RetrainError
from cmdcm.core.files import read_json, staged_file, write_json
from cmdcm.core.locations import location
from cmdcm.jobs.retrain.decision import EXIT_CODES, Decision, decide, decided, decision_folder
from cmdcm.jobs.retrain.lock import JobLock, LostLockError, job_lock
from cmdcm.jobs.retrain.plan import REFRESH, extra, module_files, request_logs, until
from cmdcm.jobs.retrain.served import serving_model, stable_version, taken_back
from cmdcm.jobs.retrain.snapshot import source_fingerprint
from cmdcm.jobs.retrain.steps import (
    Context,
    Done,
    FrozenError,
    Step,
    digest_of,
    find,
    run_step,
    step_key,
)
from cmdcm.jobs.retrain.window import Window
from cmdcm.jobs.rollout.audit import audit
from cmdcm.jobs.rollout.freeze import frozen

SEEN = ("export", "canary")
"""Steps from which on others see something new; `promote` looks at the freeze by itself."""

ROLLED_OUT = ("canary", "promote")
"""Steps that count as done while their model serves."""


@dataclass(frozen=True)
class Request:
    """What is asked of a job.

    Attributes:
        promotion: Name of the promotion to prepare for.
        as_of: ISO date (its first instant) or date-time, in the calendar's zone.
        until: Last step to run; empty for all.
        by: Who asks.
        override: Why the gate's refusal is overridden; empty for no override.
    """

    promotion: str
    as_of: str
    until: str = ""
    by: str = "cmdcm retrain"
    override: str = ""


def retrain(config: Config, request: Request, clock: Callable[[], float] = time.time) -> Decision:
    """Runs the job, or what is missing of it.

    Args:
        config: The configuration; its section `retrain` says where things are.
        request: What is asked.
        clock: Seconds since the epoch: the lock, the deadline and the freeze go by it.

    Returns:
        The decision. A step that failed is a decision, too; the serving model stays.

    Raises:
        ConfigError: An unknown promotion or step, or one that is over.
        RetrainError: Another run holds the promotion's lock.
        PreemptedError: The process got SIGTERM; the same request goes on.
    """
    _check(config, request)
    window = Window.of(config, request.promotion, request.as_of)
    config = window.settings(config)
    folder = decision_folder(config, window)
    work = Path(config.retrain.work).resolve()
    lock = work / "locks" / f"{request.promotion}.json"
    with job_lock(lock, config.retrain.lock_hours, clock) as held:
        serving = serving_model(config, work)
        key = _job_key(config, request, window)
        known = decided(folder, key, serving)
        if known is not None:
            logging.info("decided before: %s", known.reason)
            return known
        return _Job(config, request, window, folder, key, serving, clock, held).run()


def _check(config: Config, request: Request) -> None:
    until(request.until, config.model)
    if config.retrain.targets and not config.serving.model_config_file:
        raise ConfigError("retrain.targets needs serving.model_config_file, which the servers read")
    if config.model.name == "hdr":
        raise ConfigError(
            "model.name = hdr adapts a base that stands still, and the job would start each model "
            "from the one before. Train it with cmdcm train --set training.warm_start=BASE"
        )
    if request.override and not request.by:
        raise ConfigError("to override the gate say who does it: --by NAME")


def _job_key(config: Config, request: Request, window: Window) -> str:
    settings = config.model_dump(mode="json", exclude={"retrain", "simulate", "abtest"})
    source = source_fingerprint(location(config.retrain.events), window.last_day)
    job = config.retrain.model_dump(mode="json", exclude={"work", "lock_hours", "deadline_hours"})
    outside = [module_files(config.features.modules), request_logs(config.retrain.replay)]
    asked = [request.promotion, window.as_of_ms, request.until, request.override]
    return digest_of([settings, job, source, outside, asked])


class _Job:
    """One run of the steps."""

    def __init__(
        self,
        config: Config,
        request: Request,
        window: Window,
        folder: Path,
        key: str,
        serving: Mapping[str, Any] | None,
        clock: Callable[[], float],
        lock: JobLock,
    ) -> None:
        self.config, self.request, self.window = config, request, window
        self.folder, self.key, self.clock, self.lock = folder, key, clock, lock
        self.started = clock()
        self.serves = serving and serving["identity"]
        self.stranger = None if serving else stable_version(config)
        self.context = Context(
            config,
            window,
            serving=self._pinned(serving),
            by=request.by,
            check=self.check,
            check_freeze=self.check_freeze,
            clock=clock,
        )
        self.step = ""

    def _pinned(self, serving: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The serving model of a run that was killed after it had promoted its own.

        Judged against itself, the candidate would be another one.
        """
        path = self.folder / "serving.json"
        if path.exists():
            pinned = read_json(path, "serving model at the job's start")
            promoted = serving is not None and serving["as_of"] == self.window.observed_until()
            if pinned["key"] == self.key and promoted:
                before: Mapping[str, Any] | None = pinned["serving"]
                return before
        with staged_file(path) as staging:
            write_json(staging, {"key": self.key, "serving": serving})
        return serving

    def check(self) -> None:
        """Raises when the job should go no further.

        Raises:
            RetrainError: The deadline has passed, or the lock is somebody else's.
        """
        self.lock.check()
        hours = self.config.retrain.deadline_hours
        if hours and self.clock() - self.started > hours * 3600:
            raise RetrainError(
                f"the job is not done after {hours:g} hours (retrain.deadline_hours): the serving "
                "model stays"
            )

    def check_freeze(self) -> None:
        """Raises when labels may not move forward.

        Raises:
            FrozenError: A promotion is about to start, or has just started.
        """
        now_ms = round(self.clock() * 1000)
        if reason := frozen(self.window.calendar, self.config.rollout, now_ms):
            raise FrozenError(f"{reason}. The model is accepted and does not serve")

    def run(self) -> Decision:
        """Runs the steps and decides."""
        try:
            outcome, reason = self._steps()
            return self._decide(outcome, reason, EXIT_CODES[outcome])
        except PreemptedError as error:
            if late := self._late():
                return self._stopped(late)
            raise error
        except RetrainError as error:
            return self._stopped(error)
        except CmdcmError as error:
            reason = f"step {self.step} failed: {str(error).rstrip('.')}. The serving model stays"
            return self._decide("failed", reason, error.exit_code)

    def _stopped(self, error: RetrainError) -> Decision:
        if self.config.retrain.targets and not isinstance(error, LostLockError):
            # Loads gRPC, which a job without servers does not need.
            from cmdcm.jobs.retrain.step_canary import end_trial

            with contextlib.suppress(CmdcmError):  # the servers are not what the decision is about
                end_trial(self.context)
        outcome = "frozen" if isinstance(error, FrozenError) else "late"
        return self._decide(outcome, str(error), error.exit_code)

    def _late(self) -> RetrainError | None:
        try:
            self.check()
        except RetrainError as error:
            return error
        return None

    def _steps(self) -> tuple[str, str]:
        context = self.context
        steps = until(self.request.until, self.config.model)
        trained = REFRESH if self.config.model.delayed_feedback else "train"
        for step in steps:
            self.step = step.name
            if step.name != "promote":  # it looks by itself, and takes the canary away
                self.check()
            if step.name == "train":
                context.base = self._base()
            if step.name in SEEN and self.serves != context.candidate.digest:
                self.check_freeze()
                back = taken_back(self.config, context.work, context.candidate.digest)
                if back:
                    return "held", back
            self._do(step)
            if step.name == trained and self._is_serving():
                return "unchanged", (
                    "nothing new is known as of this instant: the serving model is this very model"
                )
            if step.name == "gate" and not self._accepted():
                reasons = context.done["gate"].summary["reasons"]
                return "refused", f"the gate refused: {'; '.join(reasons[:5])}"
        if self.request.until and self.request.until != "promote":
            return "stopped", f"stopped after step {self.request.until}, as asked"
        version = context.done["promote"].summary["version"]
        if not self.config.retrain.targets:
            return "published", f"version {version} is published and registered"
        count = len(self.config.retrain.targets)
        servers = "1 server" if count == 1 else f"{count} servers"
        return "promoted", f"version {version} is stable on {servers}"

    def _do(self, step: Step) -> None:
        key = step_key(step, self.context, extra(step, self.context))
        done = find(step, key, self.context.work)
        if step.name in ROLLED_OUT and self.serves != self.context.candidate.digest:
            done = None  # rolled back, or taken away as a canary, since then
        self.context.done[step.name] = done or run_step(step, self.context, key)

    def _base(self) -> Mapping[str, Any] | None:
        """The model to start from: the serving one, or what that one started from.

        With the examples that the serving model was trained on, going on from it would train on
        them once more at every run. Of a refreshed one it is the model before the refresh: what is
        refreshed has seen clicks of a window that later jobs test on.
        """
        serving = self.context.serving
        if serving is None or not self.config.retrain.warm_start:
            return None
        if serving["features"] == self.context.done["features"].digest:
            before: Mapping[str, Any] | None = serving["base"]
            return before
        trained: Mapping[str, Any] = serving.get("trained", serving)
        return {"model": trained["model"], "identity": trained["identity"]}

    def _is_serving(self) -> bool:
        serving = self.context.serving
        return serving is not None and serving["identity"] == self.context.candidate.digest

    def _accepted(self) -> bool:
        context, request = self.context, self.request
        summary = context.done["gate"].summary
        if summary["accepted"]:
            return True
        entry = {
            "action": "gate",
            "promotion": request.promotion,
            "as_of": self.window.observed_until(),
            "model": context.candidate.digest,
            "reasons": summary["reasons"],
        }
        if not request.override:
            audit(context.work / "retrain", {**entry, "result": "refused"})
            return False
        context.override = {"by": request.by, "reason": request.override}
        audit(context.work / "retrain", {**entry, "result": "overridden", **context.override})
        return True

    def _decide(self, outcome: str, reason: str, exit_code: int) -> Decision:
        done, serving = self.context.done, self.context.serving
        registered = done.get("register") or done.get("export")
        record = {
            "kind": "decision",
            "outcome": outcome,
            "reason": reason,
            "exit_code": exit_code,
            "key": self.key,
            "window": self.window.to_json(),
            "serving": serving and serving["identity"],
            "serving_version": serving["version"] if serving else self.stranger,
            "candidate": self.context.candidate.digest if "train" in done else None,
            "version": registered.summary["version"] if registered else None,
            "override": self.context.override,
            "by": self.request.by,
            "decided": datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="seconds"),
            "failed_step": self.step if outcome == "failed" else None,
            "steps": {name: _described(d) for name, d in done.items()},
        }
        decision = decide(self.folder, record)
        audit(
            self.context.work / "retrain",
            {
                "action": "decide",
                "promotion": self.request.promotion,
                "as_of": self.window.observed_until(),
                **{k: record[k] for k in ("outcome", "reason", "by", "version")},
            },
        )
        return decision


def _described(done: Done) -> dict[str, Any]:
    return {
        "path": str(done.path),
        "summary": dict(done.summary),
        "seconds": done.seconds,
        "peak_mib": done.peak_mib,
        "reused": done.reused,
    }
