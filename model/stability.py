"""The population stability index: how far one distribution of scores is from another."""

import numpy as np
import numpy.typing as npt

from cmdcm.model.metrics import Array

BINS = 10


def psi(reference: Array, other: Array) -> float:
    """Returns the population stability index of two samples.

    PSI = sum over bins of (q - p) ln(q / p), with the shares p of the reference and q of the other
    sample in bins between the reference's deciles; half an observation is added to every bin, so
    that an empty one gives no infinity. Below 0.1 counts as no change, above 0.25 as a change of
    the population (Siddiqi, Credit Risk Scorecards, 2006). It is blind to what stays within a bin:
    a constant reference has two bins, and no increase leaves the upper one.

    Args:
        reference: Scores, [N], N at least 1.
        other: Scores, [M], M at least 1.

    Example:
        >>> scores = np.linspace(0, 1, 1000)
        >>> psi(scores, scores)
        0.0
        >>> psi(scores, scores**2) > 0.25
        True
    """
    edges = decile_edges(reference)
    counts = (
        np.bincount(places(sample, edges), minlength=len(edges) + 1)
        for sample in (reference, other)
    )
    return float(psi_of_counts(*(c.astype(np.float64) for c in counts)))


def decile_edges(reference: Array) -> Array:
    """Returns the inner edges of the bins: the reference's deciles, each once."""
    return np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))


def places(sample: Array, edges: Array) -> npt.NDArray[np.int64]:
    """Returns the bin of each score, [N]."""
    return np.searchsorted(edges, sample, side="right").astype(np.int64)


def bin_counts(sample: Array, edges: Array) -> Array:
    """Returns the scores in each bin, [edges + 1]."""
    return np.bincount(places(sample, edges), minlength=len(edges) + 1).astype(np.float64)


def psi_of_counts(reference: Array, other: Array) -> Array:
    """Returns the index of counts by bin, [bins, ...] each, over the first axis."""
    p, q = ((c + 0.5) / (c + 0.5).sum(axis=0) for c in (reference, other))
    return np.asarray(np.sum((q - p) * np.log(q / p), axis=0))
