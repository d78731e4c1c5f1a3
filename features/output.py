"""The files that describe the shards of a data set; the same for every runner."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmdcm.core.errors import DataError
from cmdcm.core.files import write_manifest
from cmdcm.datasets.calendar import DAY_MS
from cmdcm.datasets.log import EventLog
from cmdcm.features.buckets import choose_rows
from cmdcm.features.columns import ITEM_PROMOTIONS
from cmdcm.features.plan import EXAMPLES, STATISTICS, Plan
from cmdcm.features.schema import write_schema
from cmdcm.features.shards import Shards
from cmdcm.features.statistics import StatisticsBuilder


def finish(
    directory: Path,
    plan: Plan,
    shards: Shards,
    pairs: Mapping[str, list[int]],
    log: EventLog,
) -> None:
    """Writes what describes the shards of a data set; the manifest comes last.

    Args:
        directory: Holds the shards and nothing else.
        plan: What was to be made.
        shards: What was made.
        pairs: By number of the promotion, the sums of `ITEM_PROMOTIONS` over all items.
        log: The events.

    Raises:
        DataError: There are no examples.
    """
    settings = plan.settings
    if not shards.days:
        raise DataError(_no_examples(plan))
    plan.config.save(directory / "config.json")
    write_schema(directory / "schema.pbtxt", settings.spec)
    Shards(statistics=shards.statistics).save(directory / STATISTICS)
    statistics = StatisticsBuilder(settings.spec)
    for _, builder in sorted(shards.statistics.items()):
        statistics.merge(builder)
    statistics.write(directory / "statistics.pbtxt")
    choose_rows(settings.spec, statistics, plan.config.features.max_collision_rate).save(
        directory / "spec.json"
    )
    names = [p.name for p in settings.calendar.promotions]
    days = dict(sorted(shards.days.items()))
    write_manifest(
        directory,
        {
            "kind": EXAMPLES,
            "rows": sum(day["rows"] for day in days.values()),
            "days": days,
            "promotions": by_promotion(days),
            "pairs": {
                names[int(number)]: dict(zip(ITEM_PROMOTIONS, sums, strict=True))
                for number, sums in pairs.items()
            },
            "timezone": settings.calendar.timezone,
            "observed_until_ms": settings.observed_until_ms,
            "partitions": plan.partitions,
            "inputs": dict(plan.inputs),
            "events": {k: v for k, v in log.manifest.items() if k != "files"},
        },
        shards.files,
    )


def by_promotion(days: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns first and last day of each promotion, and the sums of rows and labels."""
    promotions: dict[str, dict[str, Any]] = {}
    for day, summary in sorted(days.items()):
        entry = promotions.setdefault(summary["promotion"], {"first_day": day})
        entry["last_day"] = day
        for name in sorted(summary.keys() - {"promotion"}):
            entry[name] = entry.get(name, 0) + summary[name]
    return promotions


def _no_examples(plan: Plan) -> str:
    calendar = plan.settings.calendar
    filled = [entry for entry in plan.inputs.values() if entry["rows"]]
    first, last = min(e["first_ms"] for e in filled), max(e["last_ms"] for e in filled)

    def day(instant: int) -> str:
        return calendar.local_day(instant)

    windows = [
        f"{p.name} {day(p.pre_promotion_start_ms)}..{day(p.promotion_end_ms - DAY_MS)}"
        for p in calendar.promotions
        if p.promotion_end_ms > first and p.pre_promotion_start_ms <= last
    ]
    return (
        "no click lies in a pre-promotion window whose promotion is over: the log covers "
        f"{day(first)}..{day(last)} (observed until {day(plan.settings.observed_until_ms)}), the "
        f"calendar's windows near it are {windows or 'none'}. Set [calendar] for this log, or "
        "import more days."
    )
