"""The freeze around a promotion's start: hours in which only a roll-back moves labels."""

from datetime import UTC, datetime

from cmdcm.core.config import RolloutConfig
from cmdcm.datasets.calendar import HOUR_MS, PromotionCalendar


def frozen(calendar: PromotionCalendar, settings: RolloutConfig, now_ms: int) -> str:
    """Returns why labels may not move forward at an instant; empty if they may.

    Example:
        >>> from cmdcm.datasets.calendar import to_ms, yearly
        >>> calendar = yearly(["double11"], [2026], "Asia/Shanghai")
        >>> now = to_ms("2026-11-11T03:00", "Asia/Shanghai")
        >>> frozen(calendar, RolloutConfig(), now)[:42]
        'frozen for double11-2026 until 2026-11-10T'
        >>> frozen(calendar, RolloutConfig(), now + 24 * HOUR_MS)
        ''
    """
    for promotion in calendar.promotions:
        first = promotion.promotion_start_ms - round(settings.freeze_before_hours * HOUR_MS)
        last = promotion.promotion_start_ms + round(settings.freeze_after_hours * HOUR_MS)
        if first <= now_ms < last:
            until = datetime.fromtimestamp(last / 1000, UTC).isoformat(timespec="minutes")
            return (
                f"frozen for {promotion.name} until {until} "
                "(rollout.freeze_before_hours, rollout.freeze_after_hours): only a roll-back moves "
                "labels"
            )
    return ""
