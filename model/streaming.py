"""Metrics with intervals of rows that come in chunks, in memory that does not grow with the rows.

Chunks may come in any order and on several machines: streams with equal settings add up, and the
draws of users (`cmdcm.model.draws`) are the same everywhere. Log loss, normalised entropy and PCOC
are sums and as exact as in one pass. AUC and PR-AUC need the order of all rows and get that of a
fixed grid of predictions, with a bound of the error. GAUC needs the rows of a user together.
"""

import numpy as np
import numpy.typing as npt

from cmdcm.core.errors import DataError
from cmdcm.model import metrics
from cmdcm.model.bootstrap import Bootstrap, Replicated, gauc_sums, replicated
from cmdcm.model.draws import user_keys
from cmdcm.model.replicate_sums import NEGATIVES, POSITIVES, add_cells, scan_cells

LARGEST_LOGIT = 16.0
"""The grid's ends: probabilities within 1.1e-7 of 0, or of 1, share a step."""


class MetricStream:
    """Sums of rows from which the metrics of one model and head, and their replicates, follow.

    A prediction is ordered by its step on a grid of `cells` equal steps of the logit. Rows of one
    step count as ties, in AUC, PR-AUC and the borders of the calibration bins; all else is exact.

    Args:
        boot: Replicates and seed. Streams with equal ones are paired: `boot.difference` and
            `boot.p_value` take their results.
        cells: Steps of the grid from -16 to 16; memory is 24 bytes for each step and replicate
            (20 MB with the default and 200 replicates).
        whole_users: A promise that no two chunks, of this stream or of one merged into it, share a
            user: GAUC is then exact. Without it GAUC is None, as a user's rows are not at hand.

    Example:
        >>> boot = Bootstrap(replicates=50, seed=1)
        >>> stream, other = MetricStream(boot), MetricStream(boot)
        >>> stream.add([1, 2], [0, 1], [0.25, 0.5])
        >>> other.add([3, 1], [0, 1], [0.125, 0.25])
        >>> stream.merge(other)
        >>> stream.result().estimates["auc"]
        0.875
    """

    def __init__(self, boot: Bootstrap, *, cells: int = 4096, whole_users: bool = False) -> None:
        if cells < 1:
            raise DataError(f"a grid should have at least one cell. Received: {cells}")
        self.boot = boot
        self.whole_users = whole_users
        logits = np.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, cells + 1)[1:-1]
        self._borders = 1 / (1 + np.exp(-logits))
        self._table = np.zeros((cells, 3, 1 + boot.replicates))
        self._loss = np.zeros(1 + boot.replicates)
        self._gauc = np.zeros((2, 1 + boot.replicates))

    def add(
        self,
        user_ids: npt.ArrayLike,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Adds a chunk of rows.

        Args:
            user_ids: [rows] int64 or strings, of one type in all chunks.
            labels: [rows] 0 or 1.
            probabilities: [rows] in [0, 1], of one type in all chunks (see
                `metrics.row_log_loss`).
            weights: [rows] >= 0, or None for 1 each.

        Raises:
            DataError: Lengths differ, or what `metrics.checked`, `metrics.row_log_loss` and
                `draws.user_keys` refuse. The stream is unchanged.
        """
        keys = user_keys(user_ids, self.boot.seed)
        y, p, w = metrics.checked(labels, probabilities, weights)
        if len(keys) != len(y):
            raise DataError(f"user ids should have {len(y)} rows. Received: {len(keys)}")
        losses = metrics.row_log_loss(labels, probabilities)
        # Cells run from the highest predictions to the lowest, as they are scanned.
        cells = len(self._borders) - np.searchsorted(self._borders, p, side="right")
        add_cells(keys, y > 0, p, w, losses, cells, self._table, self._loss)
        if self.whole_users:
            self._gauc += gauc_sums(y, p, keys, w, self.boot.replicates)

    def merge(self, other: "MetricStream") -> None:
        """Adds the rows of another stream.

        Raises:
            DataError: The streams differ in replicates, seed, cells or `whole_users`.
        """
        if self._settings() != other._settings():
            raise DataError(
                f"streams with other settings do not add up: {self._settings()} and "
                f"{other._settings()}"
            )
        self._table += other._table
        self._loss += other._loss
        self._gauc += other._gauc

    def result(self, bins: int = 10) -> Replicated:
        """Computes every metric of `metrics.METRICS` with its replicates.

        Args:
            bins: Bins of the calibration curve, of equal mass up to whole steps of the grid.
        """
        mass = self._table[:, NEGATIVES, 0] + self._table[:, POSITIVES, 0]
        index = metrics.equal_mass_bins(-np.arange(len(mass)), bins, mass)
        sums = scan_cells(self._table, self._loss, index, int(index.max()) + 1)
        return replicated(sums, self._gauc)

    def errors(self) -> dict[str, float | None]:
        """Bounds what the grid does to the estimates: |estimate - exact| of AUC and of PR-AUC.

        A pair of a positive and a negative within a step counts 1/2 in place of 0, 1/2 or 1. The
        precision at a positive lies between those with the step's rows in the worst order and in
        the best one. The true errors are much smaller, since rows of a step are in no such order.
        Bounds of two models add up to that of their difference. None where the metric is.
        """
        p, n = self._table[:, POSITIVES, 0], self._table[:, NEGATIVES, 0]
        positive, negative = float(p.sum()), float(n.sum())
        result: dict[str, float | None] = {"auc": None, "pr_auc": None}
        if positive > 0 and negative > 0:
            result["auc"] = float(np.sum((p / positive) * (n / negative))) / 2
        if positive > 0:
            held = p > 0
            above, below = (np.cumsum(p) - p)[held], (np.cumsum(n) - n)[held]
            p, n = p[held], n[held]
            value = p * (above + p) / (above + p + below + n)
            best = p * (above + p) / (above + p + below)
            # The k-th positive after all negatives: the integral of (above + x) / (above + x + b).
            b = below + n
            ratio = p / np.where(b > 0, above + b, 1)
            worst = p - b * np.log1p(ratio)
            error = max(np.sum(best - value), np.sum(value - worst))
            result["pr_auc"] = float(error) / positive
        return result

    def _settings(self) -> dict[str, int | bool]:
        return {
            "replicates": self.boot.replicates,
            "seed": self.boot.seed,
            "cells": len(self._table),
            "whole_users": self.whole_users,
        }
