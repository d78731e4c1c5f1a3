"""How clicks enter a stream: which observation of a click is known when.

A conversion d after a click is not known before. A stream may wait for it, up to the waiting window
w, and then has to say something of every click; what it says wrongly of a *late* positive (d > w)
it can only put right by letting the click enter once more. The published streams differ in two
choices, a `Policy`:

    first    waits: at w, with what was observed by then; or at the click itself, as a negative
    again    `none`; `late`: a positive that entered as a negative, when it converts;
             `all`: every click, late positives when they convert, all others when they are final
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cmdcm.core.errors import DataError
from cmdcm.features.windows import Int64s


@dataclass(frozen=True)
class Policy:
    """How a method wants its clicks.

    Attributes:
        waits: Whether the first entry is at the end of the waiting window, else at the click.
        again: Which clicks enter a second time.
        final: Whether the first entry carries the final label, which nobody knows then: the oracle.
    """

    waits: bool = True
    again: Literal["none", "late", "all"] = "none"
    final: bool = False


@dataclass(frozen=True)
class Entries:
    """The entries of a stream, in the order of their time; arrays are [entries].

    Attributes:
        row: Which click.
        time_ms: When it enters, UTC ms.
        observed: The label that is known then, 0 or 1.
        repeat: 1 if the click has entered before.
    """

    row: Int64s
    time_ms: Int64s
    observed: npt.NDArray[np.int8]
    repeat: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.row)

    def between(self, start_ms: int, end_ms: int) -> "Entries":
        """Returns the entries of [start, end)."""
        first, last = np.searchsorted(self.time_ms, (start_ms, end_ms)).tolist()
        part = slice(first, last)
        return Entries(self.row[part], self.time_ms[part], self.observed[part], self.repeat[part])


def entries(
    clicks_ms: Int64s, delay_ms: Int64s, known_ms: Int64s, waiting_ms: int, policy: Policy
) -> Entries:
    """Makes the entries of some clicks.

    Args:
        clicks_ms: [clicks], UTC ms.
        delay_ms: [clicks], from the click to the moment in which its conversion is known; -1 for
            none.
        known_ms: [clicks], when the label is final.
        waiting_ms: The waiting window.
        policy: Which entries a click has.

    Returns:
        For each click one entry or two. Of two at the same time the first one comes first.

    Raises:
        DataError: A conversion that is known after its label is final.

    Example:
        >>> hour = 3_600_000
        >>> made = entries(
        ...     np.array([0, 0]), np.array([3 * hour, -1]), np.array([9 * hour] * 2), hour,
        ...     Policy(again="late"),
        ... )
        >>> (made.time_ms // hour).tolist(), made.row.tolist(), made.observed.tolist()
        ([1, 1, 3], [0, 1, 0], [0, 0, 1])
    """
    converts = delay_ms >= 0
    conversion_ms = clicks_ms + delay_ms
    late_known = converts & (conversion_ms > known_ms)
    if late_known.any():
        row = int(np.flatnonzero(late_known)[0])
        raise DataError(
            f"click {row} converts at {conversion_ms[row]}, after its label is final at "
            f"{known_ms[row]} (UTC ms): the examples contradict themselves, make them again"
        )
    waits = waiting_ms if policy.waits or policy.final else 0
    first_ms = np.minimum(clicks_ms + waits, np.maximum(known_ms, clicks_ms))
    # Without waiting even a conversion at the click's own timestamp comes later.
    seen = converts & (conversion_ms <= first_ms) & policy.waits
    observed = converts if policy.final else seen
    late = converts & ~observed
    again = {"none": np.zeros(len(late), np.bool_), "late": late, "all": np.ones_like(late)}
    rows = np.flatnonzero(again[policy.again])
    again_ms = np.where(late, conversion_ms, np.maximum(known_ms, first_ms))[rows]
    time_ms = np.concatenate([first_ms, again_ms])
    order = np.argsort(time_ms, kind="stable")
    return Entries(
        np.concatenate([np.arange(len(clicks_ms)), rows])[order],
        time_ms[order],
        np.concatenate([observed, converts[rows]]).astype(np.int8)[order],
        np.repeat(np.array([0, 1], np.int8), [len(clicks_ms), len(rows)])[order],
    )
