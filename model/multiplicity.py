"""p-values corrected for the number of comparisons that a table holds."""

from collections.abc import Sequence

import numpy as np

from cmdcm.core.errors import ConfigError

CORRECTIONS = {
    "holm": "Holm",
    "benjamini_hochberg": "Benjamini-Hochberg",
    "none": "no correction",
}
"""Corrections and their names in a report."""


def adjusted(p_values: Sequence[float | None], correction: str) -> list[float | None]:
    """Returns adjusted p-values: below alpha where the corrected test rejects at level alpha.

    `holm` (1979) bounds the probability of any false rejection, whatever the dependence between
    the comparisons: in rising order, the k-th of m is max over j <= k of (m - j + 1) p_j.
    `benjamini_hochberg` (1995) bounds the expected share of false ones among the rejections:
    min over j >= k of m p_j / j. It holds for independent or positively dependent comparisons.

    Args:
        p_values: Of one family of comparisons; None where a comparison is not defined, which
            does not count.
        correction: A key of `CORRECTIONS`.

    Example:
        >>> adjusted([0.25, 0.125, None], "holm")
        [0.25, 0.25, None]
    """
    if correction not in CORRECTIONS:
        raise ConfigError(f"unknown correction {correction!r}; there are {list(CORRECTIONS)}")
    held = [p for p in p_values if p is not None]
    p, count = np.sort(held), len(held)
    ranks = np.arange(1, count + 1)
    if correction == "holm":
        p = np.maximum.accumulate((count - ranks + 1) * p)
    elif correction == "benjamini_hochberg":
        p = np.minimum.accumulate((count * p / ranks)[::-1])[::-1]
    result = np.empty(count)
    result[np.argsort(held, kind="stable")] = np.minimum(p, 1)
    values = iter(result.tolist())
    return [None if p_value is None else next(values) for p_value in p_values]
