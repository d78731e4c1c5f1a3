"""Whether a job did what the handbook says, and the invariants of the whole year."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cmdcm.jobs.retrain.decision import FRESH
from cmdcm.jobs.year.faults import KILLED, LEAD, NIGHT


@dataclass(frozen=True)
class Attempt:
    """One run of the job, and what served around it.

    Attributes:
        promotion: The promotion it prepared for.
        job: `lead` or `night`.
        as_of: Its as-of day.
        fault: Name of the fault that it met; empty for none.
        injected: What was done; empty for nothing.
        outcome: What it decided, `killed` if it could not.
        reason: Why.
        before: Version that was stable before; None for none.
        after: Version that is stable after.
        version: The version that it published; None for none.
        expected: Outcome that the handbook tells.
        cause: What the reason has to name.
        handbook: Where the handbook tells it.
        page: The decision's page below the output; empty for none.
    """

    promotion: str
    job: str
    as_of: str
    fault: str
    injected: str
    outcome: str
    reason: str
    before: int | None
    after: int | None
    version: int | None
    expected: str
    cause: str
    handbook: str
    page: str

    def faults(self) -> list[str]:
        """Returns in what the job did not do what the handbook says; none is good."""
        found = []
        if self.outcome != self.expected:
            found.append(f"{self.outcome} in place of {self.expected}")
        if self.cause and self.cause not in self.reason:
            found.append(f"the reason does not name {self.cause!r}")
        serves = self.version if self.outcome in FRESH else self.before
        if self.after != serves:
            found.append(f"version {self.after} serves in place of {serves}")
        return found


@dataclass(frozen=True)
class Invariant:
    """What has to hold at all times.

    Attributes:
        name: The claim.
        held: Whether it held.
        evidence: What was seen.
    """

    name: str
    held: bool
    evidence: str


def healthy(job: str, before: int | None) -> str:
    """Returns the outcome of a job that meets no fault."""
    if before is None:
        return "published"
    return "promoted" if job == LEAD else "unchanged"


def after_mending(job: str) -> str:
    """Returns the outcome of the run after a fault was mended."""
    return "unchanged" if job == NIGHT else "promoted"


def invariants(
    attempts: Sequence[Attempt],
    opens: Mapping[str, str],
    answered: Mapping[int, int],
    failures: Sequence[str],
    served: Collection[int],
) -> list[Invariant]:
    """Judges the year.

    Args:
        attempts: All runs in order.
        opens: Promotion -> first day of its window (ISO).
        answered: Version -> answers to requests for `stable`.
        failures: Requests for `stable` that were not answered.
        served: Versions whose bytes are whole in the base path at the end.
    """
    blessed = {a.version for a in attempts if a.outcome in FRESH and a.version is not None}
    stray = sorted(set(answered) - blessed)
    lost = [a for a in attempts[1:] if a.after is None or a.after not in served]
    fresh = {a.promotion for a in attempts if a.outcome in FRESH and a.as_of <= opens[a.promotion]}
    stale = sorted(set(opens) - fresh)
    killed = sum(a.outcome == KILLED for a in attempts)
    calls = sum(answered.values())
    return [
        Invariant(
            "Serving never loses a version",
            calls > 0 and not failures and not lost,
            f"{calls:,} requests for stable answered, {len(failures)} not; after each of "
            f"{len(attempts)} runs ({killed} killed) the stable version was whole"
            + (f" but for {[a.as_of for a in lost]}" if lost else "")
            + (f". First failure: {failures[0]}" if failures else ""),
        ),
        Invariant(
            "No unblessed model answers",
            not stray,
            f"versions that answered: {sorted(answered)}; accepted and promoted: {sorted(blessed)}"
            + (f"; not accepted: {stray}" if stray else ""),
        ),
        Invariant(
            "Every promotion gets a fresh model before its window opens",
            not stale,
            f"{len(fresh)} of {len(opens)} promotions" + (f"; not {stale}" if stale else ""),
        ),
    ]
