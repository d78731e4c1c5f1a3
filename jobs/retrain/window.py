"""What is known at an instant: the promotion to prepare for, and the ones with known labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import Promotion, PromotionCalendar, calendar_of, to_ms
from cmdcm.features.labels import Periods

NEXT = "next"
"""Stands for the first promotion that is not over."""

MIN_KNOWN = 3
"""Promotions with known labels that a job needs: to train, validate and test."""


@dataclass(frozen=True)
class Window:
    """The data of one job.

    Attributes:
        calendar: The promotion calendar.
        promotion: The promotion to prepare for.
        as_of_ms: Nothing dated at or after this instant is used, UTC ms.
        mature: Earlier promotions all of whose labels are known by then.
        pending: Earlier promotions some of whose labels are not known yet.
    """

    calendar: PromotionCalendar
    promotion: Promotion
    as_of_ms: int
    mature: tuple[str, ...]
    pending: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, promotion: str, as_of: str) -> "Window":
        """Finds the window of a job.

        Args:
            config: Calendar and labels.
            promotion: Name of the promotion.
            as_of: ISO date (its first instant) or date-time, in the calendar's zone.

        Raises:
            ConfigError: No such promotion, or it is over.
        """
        calendar = calendar_of(config.calendar)
        coming, instant = calendar.get(promotion), to_ms(as_of, calendar.timezone)
        if instant >= coming.promotion_end_ms:
            raise ConfigError(f"{promotion} is over at {as_of}; name the promotion to prepare for")
        refund = Periods.of(config.labels).refund
        earlier = [p for p in calendar.promotions if p.promotion_end_ms <= instant]
        mature = [p.name for p in earlier if p.promotion_end_ms + refund <= instant]
        pending = [p.name for p in earlier if p.name not in mature]
        return cls(calendar, coming, instant, tuple(mature), tuple(pending))

    @property
    def last_day(self) -> str:
        """The last local day of which something is known (ISO)."""
        return self.calendar.local_day(self.as_of_ms - 1)

    @property
    def phase(self) -> str:
        """Where the as-of instant lies: before the window, in it, or on the promotion days."""
        if self.as_of_ms < self.promotion.pre_promotion_start_ms:
            return "before the pre-promotion window"
        if self.as_of_ms < self.promotion.promotion_start_ms:
            return "in the pre-promotion window"
        return "on the promotion days"

    def observed_until(self) -> str:
        """The as-of instant as `labels.observed_until` takes it."""
        return datetime.fromtimestamp(self.as_of_ms / 1000, UTC).isoformat()

    def settings(self, config: Config) -> Config:
        """Returns the configuration of the job's features and split.

        Labels are observed until the as-of instant, and whole promotions train, validate and test:
        a model that validates on days of a window which another one trains on cannot go on from it.
        """
        labels = config.labels.model_copy(update={"observed_until": self.observed_until()})
        by = "promotion" if config.split.by == "auto" else config.split.by
        split = config.split.model_copy(update={"by": by})
        return config.model_copy(update={"labels": labels, "split": split})

    def to_json(self) -> dict[str, Any]:
        """Returns the window as the decision shows it."""
        return {
            "promotion": self.promotion.name,
            "kind": self.promotion.kind,
            "as_of": self.observed_until(),
            "timezone": self.calendar.timezone,
            "last_day": self.last_day,
            "phase": self.phase,
            "labels_known": _last(self.mature),
            "labels_pending": _last(self.pending),
        }


def _last(promotions: tuple[str, ...]) -> str:
    """Names the last of some promotions: a calendar begins long before most logs."""
    others = f" and {len(promotions) - 1} before" if len(promotions) > 1 else ""
    return f"{promotions[-1]}{others}" if promotions else "none"


def check_nothing_later(manifest: Mapping[str, Any], as_of_ms: int, where: str) -> None:
    """Refuses a log with an event at or after the as-of instant.

    Raises:
        DataError: There is one: a defect of the snapshot, which no later step may use.
    """
    last = to_ms(str(manifest["last_timestamp"]), "UTC")
    if last >= as_of_ms:
        raise DataError(f"{where} holds an event of {manifest['last_timestamp']}, after the as-of")


def promotion_name(config: Config, promotion: str, as_of: str) -> str:
    """Returns the name of a promotion; `next` stands for the first one that is not over.

    Raises:
        ConfigError: All promotions of the calendar are over at the as-of instant.
    """
    if promotion != NEXT:
        return promotion
    calendar = calendar_of(config.calendar)
    instant = to_ms(as_of, calendar.timezone)
    coming = [p for p in calendar.promotions if p.promotion_end_ms > instant]
    if not coming:
        raise ConfigError(
            f"no promotion of the calendar is to come at {as_of}; add the next one to [calendar]"
        )
    return min(coming, key=lambda p: p.promotion_end_ms).name
