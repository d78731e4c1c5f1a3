"""Runs the year: the job at each planned night, under its fault, and again when that is mended."""

import shutil
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, DataError
from cmdcm.core.files import staged_file, verify_manifest
from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar, calendar_of, to_ms
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.simulator import EVENTS, simulate
from cmdcm.export.versions import versions
from cmdcm.jobs.retrain.decision import Decision
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.year.faults import KILLED, Fault
from cmdcm.jobs.year.log import EDITS, MonthlyLog
from cmdcm.jobs.year.machine import break_bytes, full_disk, run_killed
from cmdcm.jobs.year.plan import Night, plan
from cmdcm.jobs.year.site import Site
from cmdcm.jobs.year.verdicts import Attempt, Invariant, after_mending, healthy, invariants

BY = "cmdcm year"
_STARTED_HOURS = 2.5
"""Hours after the as-of instant at which the scheduler starts the job: 02:30."""

_DEADLINE_HOURS = 6.0


class Year:
    """A world, its log, its server, and the jobs.

    Args:
        output: Gets everything that the year makes.
        config: World, model, gate; the places of `retrain` are set here.
        faults: Faults to inject.
        lead_days: Days from the first job to the opening of a window.
        nights: Nights in each window.
        told: Called with each attempt when it is over.

    Attributes:
        attempts: What happened so far.
    """

    def __init__(
        self,
        output: Path,
        config: Config,
        faults: Sequence[Fault],
        lead_days: int,
        nights: int,
        told: Callable[[Attempt], None],
    ) -> None:
        self.output, self.told = output, told
        self.attempts: list[Attempt] = []
        retraining = config.retrain.model_copy(
            update={
                "events": str(output / "log"),
                "work": str(output / "work"),
                "output": str(output / "serving" / config.export.name),
                "targets": (),
                "deadline_hours": _DEADLINE_HOURS,
            }
        )
        self.config = config.model_copy(update={"retrain": retraining})
        self.calendar: PromotionCalendar = calendar_of(config.calendar)
        self.log = MonthlyLog(output / "log", self.calendar.timezone)
        described = simulate(output / "world", config, overwrite=True)
        self.log.write(open_event_log(output / "world" / EVENTS))
        self.nights = plan(self.calendar, described["promotions"], faults, lead_days, nights)
        self._site: Site | None = None

    def run(self) -> list[Invariant]:
        """Runs all nights; returns what held."""
        try:
            for night in self.nights:
                self._night(night)
        finally:
            if self._site is not None:
                self._site.close()
        site = self.site
        opens = {n.promotion: self._opens(n.promotion) for n in self.nights}
        return invariants(self.attempts, opens, site.answered, site.failures, self._whole())

    @property
    def site(self) -> Site:
        """The server; there is one when the first model is published."""
        if self._site is None:
            raise DataError("no model was published: nothing serves")
        return self._site

    def _night(self, night: Night) -> None:
        fault = night.fault
        if fault is None:
            self._attempt(night, healthy(night.job, self._stable()))
            if self._site is None:
                self._serve()
            return
        day = self._day(night)
        injected = fault.injected.format(day=day)
        if fault.name in EDITS:
            self.log.edit(day, EDITS[fault.name])
            self._attempt(night, fault.outcome, injected, day)
            self.log.mend()
        else:
            self._attempt(night, fault.outcome, injected, day)
        later = date.fromisoformat(night.as_of) + timedelta(fault.days_later)
        again = Night(night.promotion, night.job, later.isoformat())
        self._attempt(again, after_mending(night.job), f"mended: {fault.mended}")

    def _attempt(self, night: Night, expected: str, injected: str = "", day: str = "") -> None:
        before, fault = self._stable(), night.fault
        decision = self._run(night)
        if decision is None:
            outcome, reason, version, page = KILLED, self._ended, None, ""
        else:
            outcome, reason, version = decision.outcome, decision.reason, decision.version
            # The next run of the same instant replaces the decision's page.
            page = f"decisions/{len(self.attempts) + 1:02d}-{night.as_of}.html"
            with staged_file(self.output / page) as staging:
                shutil.copyfile(decision.folder / "decision.html", staging)
        after = version if before is None else self._stable()
        cause = fault.cause if fault else ""
        attempt = Attempt(
            night.promotion,
            night.job,
            night.as_of,
            fault.name if fault else "",
            injected,
            outcome,
            reason,
            before,
            after,
            version,
            expected,
            cause.format(day=day, month=day[:7], target=self._site.target if self._site else ""),
            fault.handbook if fault else "",
            page,
        )
        self.attempts.append(attempt)
        self.told(attempt)

    def _run(self, night: Night) -> Decision | None:
        """Runs the job under the fault of the machine, if it meets one; None if it was killed."""
        request = Request(night.promotion, night.as_of, by=BY)
        now = to_ms(night.as_of, self.calendar.timezone) / 1000 + _STARTED_HOURS * HOUR_MS / 1000
        match night.fault.name if night.fault else "":
            case "killed_worker":
                self._ended = run_killed(self.config, request, now, self.output)
                return None
            case "full_disk":
                with full_disk(Path(self.config.retrain.output)):
                    return retrain(self.config, request, lambda: now)
            case "broken_export":
                until = Request(night.promotion, night.as_of, "export", BY)
                exported = retrain(self.config, until, lambda: now)
                if exported.version is not None:
                    base = Path(self.config.retrain.output) / str(exported.version)
                    break_bytes(base / "saved_model.pb")
                return retrain(self.config, request, lambda: now)
            case "server_down":
                with self.site.down():
                    return retrain(self.config, request, lambda: now)
            case _:
                return retrain(self.config, request, lambda: now)

    def _serve(self) -> None:
        """Starts the server on the first published version; from then on jobs push to it."""
        version = self.attempts[-1].version
        if version is None:
            raise DataError(f"the first job published nothing: {self.attempts[-1].reason}")
        self._site = Site(self.output / "site", self.config, version)
        retraining = self.config.retrain.model_copy(update={"targets": (self._site.target,)})
        serving = self.config.serving.model_copy(update={"model_config_file": str(self._site.file)})
        self.config = self.config.model_copy(update={"retrain": retraining, "serving": serving})

    def _stable(self) -> int | None:
        return None if self._site is None else self._site.stable()

    def _day(self, night: Night) -> str:
        """The day whose events a fault changes: the last one, or the last promotion's first."""
        if night.fault is not None and night.fault.name == "late_data":
            as_of = to_ms(night.as_of, self.calendar.timezone)
            ended = [p for p in self.calendar.promotions if p.promotion_end_ms <= as_of]
            return self.calendar.local_day(ended[-1].promotion_start_ms)
        return (date.fromisoformat(night.as_of) - timedelta(1)).isoformat()

    def _opens(self, promotion: str) -> str:
        return self.calendar.local_day(self.calendar.get(promotion).pre_promotion_start_ms)

    def _whole(self) -> set[int]:
        base, whole = Path(self.config.retrain.output), set()
        for version in versions(base):
            try:
                verify_manifest(base / str(version))
            except CmdcmError as error:
                logging.warning("%s", error)
            else:
                whole.add(version)
        return whole
