"""A verdict: one figure against its bounds, with its interval and what follows from it.

Where an interval lies decides. All of it within the bounds: the check is passed. All of it beyond a
bound: failed. Where it reaches over a bound the data do not tell, and a setting decides: the
estimate, the model's favour (`pass`, with a warning), or its burden (`fail`).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cmdcm.core.settings.gate import Unclear
from cmdcm.model.bootstrap import Interval

Outcome = Literal["pass", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one figure.

    Attributes:
        check: Name of the check, such as `pcoc` or `log_loss_rise`.
        outcome: `fail` refuses the model; `skipped` was not judged.
        reason: One sentence for people.
        head: Head, empty where the check is of the whole model.
        slice: `column=value`, empty for all test clicks.
        estimate: The figure; None where it is not defined.
        lower: Lower bound of its interval, None without one.
        upper: Upper bound of its interval.
        minimum: The least that is accepted, None for no bound.
        maximum: The most that is accepted.
        clear: Whether the whole interval is on one side.
        rows: Rows that it is of.
        positives: Positive labels among them.
    """

    check: str
    outcome: Outcome
    reason: str
    head: str = ""
    slice: str = ""
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    clear: bool = True
    rows: int | None = None
    positives: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes by name."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """What a figure is of: the attributes of `Verdict` with the same names."""

    head: str = ""
    slice: str = ""
    rows: int | None = None
    positives: int | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.head, self.slice and f"in {self.slice}")))


def judge(
    check: str,
    interval: Interval,
    place: Place,
    unclear: Unclear,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Verdict:
    """Compares a figure with its bounds; a bound itself is still accepted.

    Args:
        check: Name of the check.
        interval: The figure; without lower and upper the estimate alone is taken for it.
        place: What it is of.
        unclear: What decides where the interval reaches over a bound.
        minimum: The least that is accepted, None for no bound.
        maximum: The most that is accepted.

    Example:
        >>> found = Interval(1.04, 0.98, 1.1), Interval(1.2, 1.1, 1.3)
        >>> [judge("pcoc", i, Place(), "estimate", 0.95, 1.05).outcome for i in found]
        ['pass', 'fail']
    """
    low, high = (b if b is not None else s * math.inf for b, s in ((minimum, -1), (maximum, 1)))
    wanted = _wanted(minimum, maximum)

    def verdict(outcome: Outcome, reason: str, clear: bool = True) -> Verdict:
        return Verdict(
            check, outcome, reason, place.head, place.slice, interval.estimate, interval.lower,
            interval.upper, minimum, maximum, clear, place.rows, place.positives,
        )  # fmt: skip

    what = f"{check} {place}".strip()
    if interval.estimate is None:
        return verdict("fail", f"{what} is not defined; it should be {wanted}")
    within = low <= interval.estimate <= high
    lower = interval.estimate if interval.lower is None else interval.lower
    upper = interval.estimate if interval.upper is None else interval.upper
    shown = f"{what} is {interval.estimate:.5g}"
    if interval.lower is not None:
        shown += f" [{lower:.5g}, {upper:.5g}]"
    if low <= lower and upper <= high:
        return verdict("pass", f"{shown}, {wanted}")
    if upper < low or lower > high:
        return verdict("fail", f"{shown}; it should be {wanted}")
    accepted = within if unclear == "estimate" else unclear == "pass"
    outcome: Outcome = ("pass" if within else "warn") if accepted else "fail"
    by = {
        "estimate": f"the estimate is {'within' if within else 'beyond'} the bound",
        "pass": "taken in the model's favour",
        "fail": "the model has to show that it is",
    }[unclear]
    return verdict(outcome, f"{shown}, which may or may not be {wanted}: {by}", clear=False)


def _wanted(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f"from {minimum:g} to {maximum:g}"
    return f"at least {minimum:g}" if maximum is None else f"at most {maximum:g}"
