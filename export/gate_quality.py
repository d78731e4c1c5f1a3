"""The gate's checks of predictions: quality by head and slice, change against the serving model.

Intervals are those of the user-clustered bootstrap (`cmdcm.model.bootstrap`); both models share its
draws, so changes are paired.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from cmdcm.core.settings.gate import GateBounds, GateConfig, Unclear
from cmdcm.export.gate_verdicts import Place, Verdict, judge
from cmdcm.model.bootstrap import Interval, Replicated, UserBootstrap
from cmdcm.model.causal.overlap import overlap
from cmdcm.model.causal.rows import ARMS, causal_rows
from cmdcm.model.metrics import Array
from cmdcm.model.predictions import Mask
from cmdcm.model.stability import bin_counts, decile_edges, places, psi_of_counts

NEW_USERS = "new_users"


def slices_of(clicks: pl.DataFrame, config: GateConfig) -> Iterator[tuple[str, Mask]]:
    """Yields `column=value` and the mask of its rows, for the columns that there are.

    A column's most frequent values come first, `max_slices` of them. A column of one value is all
    clicks again and gives none.
    """
    for column in config.slice_columns:
        if column == NEW_USERS:
            values = (clicks["user_history"] == 0).cast(pl.String)
        elif column in clicks.columns:
            values = clicks[column].cast(pl.String)
        else:
            continue
        counts = values.value_counts().sort("count", values.name, descending=[True, False])
        if len(counts) > 1:
            for value in counts[values.name].head(config.max_slices):
                yield f"{column}={value}", (values == value).to_numpy()


class Quality:
    """The checks of one candidate.

    Args:
        candidate: Its predictions on the test clicks (`cmdcm.model.predictions`).
        serving: Those of the serving model on the same clicks, in the same order; None on the
            first run.
        config: Bounds.
        boot: Draws over the clicks' users.
        clip: Lower bound of P(arm | x) in the causal weights.
    """

    def __init__(
        self,
        candidate: pl.DataFrame,
        serving: pl.DataFrame | None,
        config: GateConfig,
        boot: UserBootstrap,
        clip: float,
    ) -> None:
        self.candidate, self.serving, self.config, self.boot = candidate, serving, config, boot
        self.clip = clip

    def verdicts(self) -> Iterator[Verdict]:
        """Yields the verdicts of all heads that the candidate has, then those of overlap."""
        slices = list(slices_of(self.candidate, self.config))
        for head in self.config.heads:
            if f"p_{head}" not in self.candidate.columns:
                continue
            bounds = self.config.by_head.get(head, self.config.overall)
            rarer = self._rarer(head, None)
            if rarer < self.config.min_positives:
                yield self._too_few(head, rarer)
                continue
            yield from self._head(head, "", None, bounds, self.config.unclear)
            if self.config.max_psi:
                yield from self._psi(head)
            for name, rows in slices:
                if self._rarer(head, rows) >= self.config.min_positives:
                    yield from self._head(
                        head, name, rows, self.config.slices, self.config.unclear_slices
                    )
        yield from self._overlap()

    def _labels(self, head: str) -> Array:
        return self.candidate[head].to_numpy().astype(np.float64)

    def _rarer(self, head: str, rows: Mask | None) -> int:
        labels = self._labels(head) if rows is None else self._labels(head)[rows]
        return int(min(labels.sum(), len(labels) - labels.sum()))

    def _too_few(self, head: str, rarer: int) -> Verdict:
        least = self.config.min_positives
        reason = (
            f"{head}: {rarer} positives or negatives on the test clicks are too few to judge a "
            f"model by (gate.min_positives = {least})"
        )
        return Verdict("evidence", "fail", reason, head, estimate=float(rarer), minimum=least)

    def _measured(self, frame: pl.DataFrame, head: str, rows: Mask | None) -> Replicated:
        scores = frame[f"p_{head}"].clip(upper_bound=1).to_numpy()
        return self.boot.metrics(self._labels(head), scores, rows=rows)

    def _head(
        self, head: str, slice_: str, rows: Mask | None, bounds: GateBounds, unclear: Unclear
    ) -> Iterator[Verdict]:
        labels = self._labels(head) if rows is None else self._labels(head)[rows]
        place = Place(head, slice_, len(labels), int(labels.sum()))
        own = self._measured(self.candidate, head, rows)
        found = self.boot.intervals(own)
        for check, low, high in (
            ("log_loss", 0.0, bounds.max_log_loss),
            ("normalised_entropy", 0.0, bounds.max_normalised_entropy),
            ("auc", bounds.min_auc, 0.0),
            ("pcoc", bounds.min_pcoc, bounds.max_pcoc),
        ):
            if low or high:
                yield judge(check, found[check], place, unclear, low or None, high or None)
        if self.serving is None or f"p_{head}" not in self.serving.columns:
            return
        other = self._measured(self.serving, head, rows)
        if bounds.max_log_loss_rise:
            rise = relative_rise(own, other, self.boot)
            yield judge("log_loss_rise", rise, place, unclear, None, bounds.max_log_loss_rise)
        if bounds.max_auc_drop:
            drop = self.boot.difference(other, own, "auc")
            yield judge("auc_drop", drop, place, unclear, None, bounds.max_auc_drop)

    def _psi(self, head: str) -> Iterator[Verdict]:
        if self.serving is None or f"p_{head}" not in self.serving.columns:
            return
        reference, other = (f[f"p_{head}"].to_numpy() for f in (self.serving, self.candidate))
        edges = decile_edges(reference)
        samples = (reference, other)
        estimate = float(psi_of_counts(*(bin_counts(sample, edges) for sample in samples)))
        counts = [_replicated(self.boot, places(s, edges), len(edges) + 1) for s in samples]
        interval = self.boot.interval(estimate, psi_of_counts(*counts))
        place = Place(head, rows=len(other))
        yield judge("psi", interval, place, self.config.unclear, None, self.config.max_psi)

    def _overlap(self) -> Iterator[Verdict]:
        if not {"propensity", "r1", "r0"} <= set(self.candidate.columns):
            return
        rows = causal_rows(self.candidate)
        summary = overlap(rows, self.clip)
        for name in ARMS.values():
            arm = summary[name]
            place = Place(name, rows=arm["rows"])
            effective = Interval(arm["effective"], None, None)
            least, most = self.config.min_effective_rows, self.config.max_clipped_share
            if least:
                yield judge("effective_rows", effective, place, "estimate", least)
            clipped = Interval(arm["clipped"], None, None)
            yield judge("clipped_share", clipped, place, "estimate", None, most)


def relative_rise(of: Replicated, to: Replicated, boot: UserBootstrap) -> Interval:
    """Returns the paired rise of the log loss from `to` to `of`, as a share of that of `to`."""
    a, b = of.estimates["log_loss"], to.estimates["log_loss"]
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = of.replicates["log_loss"] / to.replicates["log_loss"] - 1
    return boot.interval(None if a is None or not b else a / b - 1, replicates)


def _replicated(boot: UserBootstrap, bins: np.ndarray, count: int) -> Array:
    """[count, replicates] rows of each bin in every replicate."""
    sums = boot.sums(np.ones((len(bins), 1)), groups=bins)[:, 0]
    full = np.zeros((count, sums.shape[1]))
    full[: len(sums)] = sums
    return full
