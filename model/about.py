"""What is to be known of a model of the zoo; `docs/models.md` has a table made of it."""

from dataclasses import dataclass
from typing import Literal, get_args

Family = Literal["CM-DCM", "baselines", "multi-task", "causal", "delayed feedback", "promotions"]

FAMILIES: tuple[Family, ...] = get_args(Family)
"""The families in the order of the table."""


@dataclass(frozen=True)
class About:
    """One line of the map of the zoo, every text short and in Markdown.

    Attributes:
        family: Where it belongs.
        source: The paper: authors, venue, year.
        equation: What is new about it, in the letters of `docs/models.md`.
        assumes: What has to hold, or what it is built on.
        use: When to take it.
        cost: What it takes beside its heads, whose number is counted.
    """

    family: Family
    source: str
    equation: str
    assumes: str
    use: str
    cost: str = ""
