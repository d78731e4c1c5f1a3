"""When the jobs of the year run, and which of them meets which fault."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import DAY_MS, Promotion, PromotionCalendar
from cmdcm.jobs.retrain.window import MIN_KNOWN
from cmdcm.jobs.year.faults import LEAD, NIGHT, Fault


@dataclass(frozen=True)
class Night:
    """One run of the job.

    Attributes:
        promotion: The promotion to prepare for.
        job: `lead` or `night`.
        as_of: Local day (ISO) at whose first instant the log is looked at.
        fault: What it meets; None for nothing.
    """

    promotion: str
    job: str
    as_of: str
    fault: Fault | None = None


def plan(
    calendar: PromotionCalendar,
    promotions: Sequence[str],
    faults: Sequence[Fault],
    lead_days: int = 7,
    nights: int = 2,
) -> list[Night]:
    """Plans the jobs: one before each window opens, and some nights inside it.

    The first job of all meets no fault, because nothing serves yet. Faults of each kind of job
    are spread over the others in the order in which they are given.

    Args:
        calendar: The promotions' dates.
        promotions: Promotions in order; the first three are history.
        faults: Faults to inject, each once.
        lead_days: Days from the first job to the opening of the window.
        nights: Nights in each window.

    Raises:
        ConfigError: Fewer than four promotions, a window with too few nights, or more faults than
            jobs to meet them.
    """
    served = promotions[MIN_KNOWN:]
    if not served:
        raise ConfigError(
            f"the world has {len(promotions)} promotions; {MIN_KNOWN} are history, so simulate "
            "more than that (simulate.years, simulate.promotions)"
        )
    jobs = []
    for name in served:
        promotion = calendar.get(name)
        opens = promotion.pre_promotion_start_ms
        jobs.append(Night(name, LEAD, calendar.local_day(opens - lead_days * DAY_MS)))
        jobs += [Night(name, NIGHT, day) for day in _nights(calendar, promotion, nights)]
    return _with_faults(jobs, faults)


def _nights(calendar: PromotionCalendar, promotion: Promotion, nights: int) -> list[str]:
    """Days spread over a window, each after at least one of its days."""
    opens, starts = promotion.pre_promotion_start_ms, promotion.promotion_start_ms
    length = (starts - opens) // DAY_MS
    if nights >= length:
        raise ConfigError(f"the window of {promotion.name} has {length} days, too few for {nights}")
    steps = [round((n + 1) * length / (nights + 1)) for n in range(nights)]
    return [calendar.local_day(opens + step * DAY_MS) for step in steps]


def _with_faults(jobs: Sequence[Night], faults: Sequence[Fault]) -> list[Night]:
    met: dict[int, Fault] = {}
    for kind in (LEAD, NIGHT):
        places = [n for n, job in enumerate(jobs) if job.job == kind and n > 0]
        wanted = [fault for fault in faults if fault.job == kind]
        if len(wanted) > len(places):
            raise ConfigError(
                f"{len(wanted)} faults meet a {kind} job ({', '.join(f.name for f in wanted)}), "
                f"and there are {len(places)}: simulate more promotions or more nights"
            )
        for n, fault in enumerate(wanted):
            met[places[n * len(places) // len(wanted)]] = fault
    return [replace(job, fault=met.get(n)) for n, job in enumerate(jobs)]
