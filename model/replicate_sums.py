"""The sums from which every metric follows, in all bootstrap replicates at the same time.

Rows are tallied by cell, a cell being a set of rows whose order among themselves does not count:
those of one prediction, or of one step of a grid of predictions. A scan of the cells from the
highest prediction to the lowest then gives what depends on the order.

Everywhere the last axis is [1 + replicates], the sample first (`cmdcm.model.draws`). Plain loops
over it become vector instructions, and compile fast.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cmdcm.features.hashing import UInt64s
from cmdcm.model.draws import draw, words_for
from cmdcm.model.metrics import Array

NEGATIVES, POSITIVES, PREDICTED = 0, 1, 2
"""Places of a cell's or a bin's three weighted sums: of negatives, positives and predictions."""


class ReplicateSums(NamedTuple):
    """Weighted sums of rows.

    Attributes:
        pairs: [1 + replicates] pairs with the negative ranked above the positive; ties are half.
        precision: [1 + replicates] precision at its threshold, summed over positives.
        loss: [1 + replicates] log loss.
        bins: [bins, 3, 1 + replicates] sums of each calibration bin, see `NEGATIVES`.
    """

    pairs: Array
    precision: Array
    loss: Array
    bins: Array


@numba.njit(nogil=True, cache=True)
def exact_sums(
    keys: UInt64s,
    positive: npt.NDArray[np.bool_],
    probabilities: Array,
    weights: Array,
    losses: Array,
    bins: npt.NDArray[np.int64],
    bin_count: int,
    replicates: int,
) -> ReplicateSums:  # pragma: no cover - compiled
    """Sums of rows in the order of falling predictions; each distinct prediction is a cell.

    Args:
        keys: [rows] key of each row's user.
        positive: [rows].
        probabilities: [rows], falling.
        weights: [rows].
        losses: [rows].
        bins: [rows] calibration bin; equal predictions share one.
        bin_count: Bins.
        replicates: Bootstrap replicates.
    """
    words, times = words_for(replicates), np.empty(1 + replicates)
    sums = empty_sums(bin_count, replicates)
    before, cell = np.zeros((2, 1 + replicates)), np.zeros((3, 1 + replicates))
    for row in range(len(keys)):
        draw(keys[row], words, times)
        add_row(
            times, positive[row], probabilities[row], weights[row], losses[row], cell, sums.loss
        )
        if row + 1 == len(keys) or probabilities[row + 1] != probabilities[row]:
            scan_cell(cell, bins[row], before, sums)
            cell[:] = 0
    return sums


@numba.njit(nogil=True, cache=True)
def add_cells(
    keys: UInt64s,
    positive: npt.NDArray[np.bool_],
    probabilities: Array,
    weights: Array,
    losses: Array,
    cells: npt.NDArray[np.int64],
    table: Array,
    loss: Array,
) -> None:  # pragma: no cover - compiled
    """Adds rows to the sums of their cells, table [cells, 3, 1 + replicates], and to the loss."""
    replicates = len(loss) - 1
    words, times = words_for(replicates), np.empty(1 + replicates)
    for row in range(len(keys)):
        draw(keys[row], words, times)
        cell = table[cells[row]]
        add_row(times, positive[row], probabilities[row], weights[row], losses[row], cell, loss)


@numba.njit(nogil=True, cache=True)
def scan_cells(
    table: Array, loss: Array, bins: npt.NDArray[np.int64], bin_count: int
) -> ReplicateSums:  # pragma: no cover - compiled
    """Sums of cells in the order of falling predictions.

    Args:
        table: [cells, 3, 1 + replicates] from `add_cells`.
        loss: [1 + replicates] from `add_cells`.
        bins: [cells] calibration bin.
        bin_count: Bins.
    """
    sums = empty_sums(bin_count, len(loss) - 1)
    sums.loss[:] = loss
    before = np.zeros((2, len(loss)))
    for cell in range(len(table)):
        scan_cell(table[cell], bins[cell], before, sums)
    return sums


@numba.njit(nogil=True, cache=True)
def user_sums(
    keys: UInt64s,
    values: Array,
    groups: npt.NDArray[np.int64],
    group_count: int,
    replicates: int,
) -> Array:  # pragma: no cover - compiled
    """[groups, columns, 1 + replicates] sums of the columns of values, by group of rows."""
    words, times = words_for(replicates), np.empty(1 + replicates)
    sums = np.zeros((group_count, values.shape[1], 1 + replicates))
    drawn = -1
    for row in range(len(keys)):
        if not values[row].any():
            continue
        if drawn < 0 or keys[row] != keys[drawn]:
            draw(keys[row], words, times)
            drawn = row
        for column in range(values.shape[1]):
            value, total = values[row, column], sums[groups[row], column]
            if value != 0:
                for r in range(len(times)):
                    total[r] += value * times[r]
    return sums


@numba.njit(nogil=True, cache=True)
def empty_sums(bin_count: int, replicates: int) -> ReplicateSums:  # pragma: no cover - compiled
    """Sums of no rows."""
    return ReplicateSums(
        np.zeros(1 + replicates),
        np.zeros(1 + replicates),
        np.zeros(1 + replicates),
        np.zeros((bin_count, 3, 1 + replicates)),
    )


@numba.njit(nogil=True, cache=True)
def add_row(
    times: Array,
    positive: bool,
    probability: float,
    weight: float,
    row_loss: float,
    cell: Array,
    loss: Array,
) -> None:  # pragma: no cover - compiled
    """Adds a row to its cell's sums and to the loss, `times` [1 + replicates] as often."""
    counted, predicted = cell[POSITIVES if positive else NEGATIVES], cell[PREDICTED]
    for r in range(len(times)):
        mass = weight * times[r]
        counted[r] += mass
        predicted[r] += mass * probability
        loss[r] += mass * row_loss


@numba.njit(nogil=True, cache=True)
def scan_cell(
    cell: Array, bin_: int, before: Array, sums: ReplicateSums
) -> None:  # pragma: no cover - compiled
    """Adds a cell to sums of the cells above it, whose classes' masses `before` [2, ...] holds."""
    totals = sums.bins[bin_]
    for place in range(3):
        for r in range(cell.shape[1]):
            totals[place, r] += cell[place, r]
    if cell[POSITIVES, 0] > 0:  # else no replicate has a positive either
        for r in range(cell.shape[1]):
            positives, negatives = cell[POSITIVES, r], cell[NEGATIVES, r]
            above = before[POSITIVES, r] + positives
            if positives > 0:
                sums.pairs[r] += positives * (before[NEGATIVES, r] + negatives / 2)
                sums.precision[r] += positives * above / (above + before[NEGATIVES, r] + negatives)
    for place in range(2):
        for r in range(cell.shape[1]):
            before[place, r] += cell[place, r]
