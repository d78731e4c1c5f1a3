"""Labels over time: which are known yet, and how often they are positive."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cmdcm.core.config import ValidationConfig
from cmdcm.features.anomalies import Anomalies, exceeds
from cmdcm.features.columns import LABELS, OPTIONAL_LABELS

OBSERVED = "observation_time_ms"
"""The column that says until when events decided the row."""

KNOWN_AT = {"direct": "direct_known_ms", "delayed": "delayed_known_ms"}
"""When labels are known: `_EARLY` ones by the first column, `refunded` by one of its own, all
others by the second."""

_EARLY = ("direct", "cart", "micro")


def known(rows: pa.Table, label: str) -> npt.NDArray[np.bool_]:
    """Returns of each row whether a label is known: all of them without the columns of times."""
    column = KNOWN_AT["direct" if label in _EARLY else "delayed"]
    if label == "refunded":
        column = "refunded_known_ms"
    if column not in rows.column_names or OBSERVED not in rows.column_names:
        return np.ones(len(rows), np.bool_)
    return rows[OBSERVED].fill_null(0).to_numpy() >= rows[column].fill_null(0).to_numpy()


def check_maturity(
    rows: pa.Table, config: ValidationConfig, anomalies: Anomalies
) -> dict[str, float]:
    """Checks how many rows have a label that is not known yet.

    Args:
        rows: Rows of a data set.
        config: The bounds.
        anomalies: Takes what is found.

    Returns:
        The share of rows by the keys of `KNOWN_AT`; 0 without rows.
    """
    shares = {}
    for label in KNOWN_AT:
        shares[label] = share = float(np.mean(~known(rows, label))) if len(rows) else 0.0
        bound = float(getattr(config, f"max_immature_{label}"))
        if exceeds(share, bound):
            anomalies.add(
                f"immature_{label}", "data", label, share, bound,
                f"{share:.2%} of the rows have no known label {label} yet: leave out the last "
                "days, or wait until their labels are known",
            )  # fmt: skip
    return shares


def prevalences(days: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Returns positives and rows of each label, summed over a manifest's days."""
    rows = sum(day["rows"] for day in days.values())
    return {
        label: (sum(day[label] for day in days.values()), rows)
        for label in (*LABELS, *OPTIONAL_LABELS)
        if rows and all(label in day for day in days.values())
    }


def check_prevalences(
    parts: Sequence[tuple[str, dict[str, tuple[int, int]]]],
    code: str,
    config: ValidationConfig,
    anomalies: Anomalies,
) -> None:
    """Compares the prevalence of each label in the first part with that in every other one."""
    (base_name, base), *others = parts
    for name, other in others:
        for label, ratio, shares in _ratios(base, other, config.min_positives):
            if ratio is None or exceeds(ratio, config.max_prevalence_ratio):
                anomalies.add(
                    code, "against" if code == "prevalence_change" else "data", label,
                    ratio, config.max_prevalence_ratio,
                    f"the prevalence of label {label} is {shares[0]:.4f} in {base_name} and "
                    f"{shares[1]:.4f} in {name}: check the labels, and expect predictions that are "
                    "off by as much",
                )  # fmt: skip


def _ratios(
    base: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]], least: int
) -> Iterator[tuple[str, float | None, tuple[float, float]]]:
    """Yields label, ratio folded to 1 or more (None: infinite), and the two prevalences.

    Left out are labels with fewer than `least` positives in one part where the other's prevalence
    does not let us expect so many either.
    """
    for label in base.keys() & other.keys():
        (p, n), (q, m) = base[label], other[label]
        if not n or not m or min(max(p, q * n / m), max(q, p * m / n)) < least:
            continue
        shares = p / n, q / m
        ratio = max(shares) / min(shares) if min(shares) else None
        yield label, ratio, shares
