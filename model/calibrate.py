"""Fitting the calibration of a trained model on days that it was not trained on.

The rows are those of the validation part: later than all training rows, earlier than all test rows,
and with known labels. Each calibrated logit is fitted in its own task space, on its own label. The
levels of the kinds of promotions look at training rows too (`model/levels.py`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from cmdcm.core.config import CalibrationConfig
from cmdcm.core.errors import DataError
from cmdcm.datasets.calendar import Promotion
from cmdcm.features.columns import labels_of
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors
from cmdcm.model.base import RankingModel
from cmdcm.model.calibration import (
    IDENTITY,
    Calibration,
    HeadCalibration,
    Map,
    slice_count,
    slice_index,
)
from cmdcm.model.causal.targeting import expit, logit
from cmdcm.model.heads import Head
from cmdcm.model.inputs import Tensors
from cmdcm.model.levels import KIND, PROMOTION, ROWS, kind_levels
from cmdcm.model.metrics import Array

Ints = npt.NDArray[np.int64]

KNOT_POSITIVES = 25
"""Expected positives (or negatives, where they are fewer) for each knot of an isotonic map."""

MAX_KNOTS = 32
_STEPS = 100


@dataclass(frozen=True)
class _Rows:
    """What a calibration is fitted to: logits, labels and slices by name, [N] each.

    With levels, `promotion` is among the slices: the place of the row's promotion in time.
    """

    logits: Mapping[str, Array]
    labels: Mapping[str, Array]
    slices: Mapping[str, Ints]

    def of(self, head: Head) -> tuple[Array, Array, dict[str, Ints]]:
        """Returns the logits, labels and slices of the rows of a head's task space."""
        mask = head.mask({name: tf.constant(value) for name, value in self.labels.items()})
        rows = np.flatnonzero(mask.numpy())
        slices = {name: index[rows] for name, index in self.slices.items()}
        return self.logits[head.name][rows], self.labels[head.label][rows], slices


def fit_calibration(
    model: RankingModel,
    data: ExampleSet,
    config: CalibrationConfig,
    trained_on: Sequence[str],
    batch_size: int = 4096,
    on_corrupt: Literal["fail", "skip"] = "fail",
    seed: int = 0,
) -> Calibration:
    """Fits the calibration of a model on the last days of the validation part.

    Args:
        model: The trained model; its own calibration, if it has one, is not used.
        data: The examples.
        config: Method, slices, levels and share of the days.
        trained_on: The days that the model was trained on.
        batch_size: Examples of a batch.
        on_corrupt: As `features.input.examples` has it.
        seed: Seed of which training rows tell the levels, where there are many.

    Raises:
        ConfigError: A slice column that the model cannot be sliced by.
        DataError: Days that are not later than all training days and earlier than all test days.
    """
    counts = {column: slice_count(column, data.spec) for column in config.slices}
    days = data.split.validation[-max(1, round(len(data.split.validation) * config.share)) :]
    check_later(days, trained_on, data.split.test)
    inputs = [feature.name for feature in data.spec.inputs]
    promotions: tuple[Promotion, ...] = ()
    if config.levels and KIND in inputs and KIND not in config.slices:
        promotions = data.calendar.promotions
    names = [promotion.name for promotion in promotions]
    columns = [*inputs, *labels_of(data.spec), *([PROMOTION] if promotions else [])]
    held = dataclasses.replace(data, split=dataclasses.replace(data.split, validation=days))
    files = held.files("validation", on_corrupt)
    batches = examples(
        files, data.spec, batch_size=batch_size, columns=columns, on_corrupt=on_corrupt
    )
    read = functools.partial(_read, model, _forward(model), slices=config.slices, promotions=names)
    validation, training = read(batches), None
    if promotions:
        sample = examples(
            data.files("train", on_corrupt),
            data.spec,
            batch_size=batch_size,
            columns=columns,
            shuffle_seed=seed,
            shuffle_buffer=batch_size,
            on_corrupt=on_corrupt,
        )
        training = read(sample.take(-(-ROWS // batch_size)))
    fitted = {}
    for head in model.calibrated_heads():
        logits, labels, slices = rows = validation.of(head)
        head_slices = {name: (slices[name], count) for name, count in counts.items()}
        of_head = fit_head(logits, labels, head_slices, config)
        if training is not None:
            of_head = with_levels(
                of_head,
                rows,
                training.of(head),
                slice_index(KIND, tf.constant([p.kind for p in promotions]), data.spec).numpy(),
                slice_count(KIND, data.spec),
                config,
            )
        if of_head is None:
            logging.warning(
                "head %r is not calibrated: fewer than %d positive or negative labels %r in its "
                "%d rows of %s..%s",
                *(head.name, config.min_positives, head.label, len(labels), days[0], days[-1]),
            )
            continue
        logging.info("head %r: PCOC %.4f -> %.4f", head.name, of_head.before, of_head.after)
        fitted[head.name] = of_head
    return Calibration(config.method, (days[0], days[-1]), fitted)


def check_later(days: Sequence[str], trained_on: Sequence[str], test: Sequence[str]) -> None:
    """Refuses days that are not later than all training days and earlier than all test days.

    On rows that a model was trained on, its probabilities look calibrated whatever they are later;
    on test rows, an evaluation would see its own labels.

    Raises:
        DataError: Names the days.
    """
    if min(days) <= max(trained_on):
        raise DataError(
            f"calibration on {min(days)}..{max(days)} refused: the model was trained on days up to "
            f"{max(trained_on)}, and only later ones show its calibration; choose later [split]"
        )
    if max(days) >= min(test):
        raise DataError(
            f"calibration on {min(days)}..{max(days)} refused: test days start on {min(test)}; "
            "choose an earlier validation part in [split]"
        )


def fit_head(
    logits: Array, labels: Array, slices: dict[str, tuple[Ints, int]], config: CalibrationConfig
) -> HeadCalibration | None:
    """Fits the calibration of one logit; None with too few positive or negative labels.

    Args:
        logits: [N], on the head's rows.
        labels: [N], 0 or 1.
        slices: Column -> slice of each row and number of slices.
        config: Method, prior and least positives.
    """
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < config.min_positives:
        return None
    fits = {"none": lambda *_: IDENTITY, "platt": platt, "isotonic": isotonic}
    line: Map = fits[config.method](logits, labels)
    mapped = line(tf.constant(logits, tf.float32)).numpy().astype(np.float64)
    shifts = {}
    for column, (index, count) in slices.items():
        shift = shifts_by_slice(mapped, labels, index, count, config.slice_prior)
        mapped = mapped + shift[index]
        shifts[column] = tuple(shift.tolist())
    before, after = (float(expit(z).sum() / positives) for z in (logits, mapped))
    return HeadCalibration(line, shifts, len(labels), positives, before, after)


def with_levels(
    fitted: HeadCalibration | None,
    validation: tuple[Array, Array, dict[str, Ints]],
    training: tuple[Array, Array, dict[str, Ints]],
    kinds: Ints,
    count: int,
    config: CalibrationConfig,
) -> HeadCalibration | None:
    """Adds the levels of the kinds of promotions to the calibration of one logit.

    A logit without a calibration, for want of positive labels, gets one that has the levels alone,
    if there are enough with those of the training days.

    Args:
        fitted: Its calibration on the validation days.
        validation: Logits, labels and slices of its rows on these days; `promotion` is a row's
            promotion, by its place in the calendar.
        training: The same of training rows.
        kinds: [promotions], the kind of each promotion of the calendar.
        count: Number of kinds.
        config: The least positives.
    """
    (z, y, slices), (z_seen, y_seen, slices_seen) = validation, training
    labels = np.concatenate([y, y_seen])
    positives = labels.sum()
    if min(positives, len(labels) - positives) < config.min_positives:
        return fitted
    base = fitted or HeadCalibration(IDENTITY, {}, len(y), int(y.sum()), 1.0, 1.0)
    mapped = _mapped(base, z, slices)
    promotions = np.concatenate([slices[PROMOTION], slices_seen[PROMOTION]])
    there, place = np.unique(promotions, return_inverse=True)
    shift = kind_levels(
        np.concatenate([mapped, _mapped(base, z_seen, slices_seen)]),
        labels,
        place,
        np.arange(len(labels)) >= len(y),
        kinds[there],
        count,
    )
    observed = max(y.sum(), 1.0)
    return dataclasses.replace(
        base,
        shifts={**base.shifts, KIND: tuple(shift.tolist())},
        before=float(expit(z).sum() / observed),
        after=float(expit(mapped + shift[kinds[slices[PROMOTION]]]).sum() / observed),
    )


def _mapped(head: HeadCalibration, logits: Array, slices: Mapping[str, Ints]) -> Array:
    mapped = head.map(tf.constant(logits, tf.float32)).numpy().astype(np.float64)
    for column, shift in head.shifts.items():
        mapped += np.array(shift)[slices[column]]
    return mapped


def platt(logits: Array, labels: Array) -> Map:
    """The line a z + b of the largest likelihood (Platt, 1999), by damped Newton steps.

    A slope that is not positive would turn the order round: then the line is z + b.
    """
    design = np.stack([logits, np.ones(len(logits))], axis=1)
    beta = np.array([1.0, 0.0])
    loss = _loss(design @ beta, labels)
    for _ in range(_STEPS):
        p = expit(design @ beta)
        gradient = design.T @ (p - labels)
        curvature = (design * (p * (1 - p))[:, None]).T @ design
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        while _loss(design @ (beta - step), labels) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        beta = beta - step
        loss = _loss(design @ beta, labels)
        if np.abs(step).max() < 1e-10:
            break
    if beta[0] <= 0:
        logging.warning("a logit does not rise with its label (slope %.3g): shifted only", beta[0])
        return Map((0.0,), (_shift(logits, labels),))
    return Map((0.0,), (float(beta[1]),), float(beta[0]))


def isotonic(logits: Array, labels: Array) -> Map:
    """Centred isotonic regression (Oron and Flournoy, 2017) over bins of like information.

    Rows are binned by logit, so that each bin expects `KNOT_POSITIVES` positives; a bin's rate is
    pulled towards its mean prediction with the weight of one expected positive, so that none is 0
    or 1. The pool-adjacent-violators algorithm (PAVA) makes the rates increase; each block's mean
    logit and the log-odds of its rate are a knot. A last shift makes the predictions add up to the
    labels.
    """
    order = np.argsort(logits, kind="stable")
    z, y = logits[order], labels[order]
    p = expit(z)
    information = np.cumsum(p * (1 - p))
    rarer = min(labels.sum(), len(labels) - labels.sum())
    bins = int(np.clip(rarer // KNOT_POSITIVES, 1, MAX_KNOTS))
    cuts = np.searchsorted(information, information[-1] * np.arange(1, bins) / bins)
    # Cut between different logits, so that rows with equal ones share a bin.
    bin_of = np.unique(np.searchsorted(z[cuts], z, side="right"), return_inverse=True)[1]
    rows, positives, predicted, total = (
        np.bincount(bin_of, weights=w) for w in (np.ones(len(z)), y, p, z)
    )
    mean = predicted / rows
    pull = 1 / np.minimum(mean, 1 - mean)
    blocks = pava((positives + pull * mean) / (rows + pull), rows + pull)
    weight = np.bincount(blocks, weights=rows + pull)
    rate = np.bincount(blocks, weights=positives + pull * mean) / weight
    x = np.bincount(blocks, weights=total) / np.bincount(blocks, weights=rows)
    knots, values = x.astype(np.float32), logit(rate).astype(np.float32)
    # Knots that single precision cannot tell apart are one.
    kept = np.r_[True, (np.diff(knots) > 0) & (np.diff(values) > 0)]
    line = Map(tuple(knots[kept].tolist()), tuple(values[kept].tolist()))
    shift = _shift(line(tf.constant(logits, tf.float32)).numpy().astype(np.float64), labels)
    return dataclasses.replace(line, outputs=tuple(v + shift for v in line.outputs))


def pava(values: Array, weights: Array) -> Ints:
    """Pools adjacent violators (Ayer et al., 1955): the block of each value, block means increase.

    Example:
        >>> pava(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)).tolist()
        [0, 1, 1, 2]
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, values
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, u, m), (b, v, n) = blocks[-2:]
            blocks[-2:] = [((a * u + b * v) / (u + v), u + v, m + n)]
    return np.repeat(np.arange(len(blocks)), [n for _, _, n in blocks])


def shifts_by_slice(logits: Array, labels: Array, slices: Ints, count: int, prior: float) -> Array:
    """The shift of each slice that minimises the BCE plus prior / 2 times its square.

    A shift meets sum (sigmoid(z + shift) - y) + prior shift = 0: that of a slice with many
    positives makes its predictions add up to its labels, that of a slice with few is near zero,
    and that of an empty one is zero.

    Args:
        logits: [N].
        labels: [N].
        slices: [N], below `count`.
        count: Number of slices.
        prior: In units of sum p (1 - p), so about in positives.

    Returns:
        [count].
    """
    shift = np.zeros(count)
    for _ in range(_STEPS):
        p = expit(logits + shift[slices])
        gradient = np.bincount(slices, weights=p - labels, minlength=count) + prior * shift
        curvature = np.bincount(slices, weights=p * (1 - p), minlength=count) + prior
        step = np.divide(gradient, curvature, out=np.zeros(count), where=curvature > 0)
        shift -= np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return shift


def _shift(logits: Array, labels: Array) -> float:
    """The one shift after which predictions add up to labels."""
    return float(shifts_by_slice(logits, labels, np.zeros(len(logits), np.int64), 1, 0.0)[0])


def _loss(logits: Array, labels: Array) -> float:
    return float(np.sum(np.logaddexp(0, logits) - labels * logits))


def _forward(model: RankingModel) -> Callable[[Tensors], Tensors]:
    """Returns a compiled function from features to the logits that are calibrated."""
    names = {head.name for head in model.calibrated_heads()}
    compiled: Callable[[Tensors], Tensors] = tf.function(
        lambda features: {k: v for k, v in model.tasks(model(features)).items() if k in names},
        reduce_retracing=True,
        autograph=False,  # the network has no need of it, and it takes seconds
    )
    return compiled


def _read(
    model: RankingModel,
    forward: Callable[[Tensors], Tensors],
    batches: tf.data.Dataset,
    slices: Sequence[str],
    promotions: Sequence[str],
) -> _Rows:
    """Returns the logits, the labels and the slices of all rows, by name."""
    names = [head.name for head in model.calibrated_heads()]
    inputs = [feature.name for feature in model.spec.inputs]
    known = labels_of(model.spec)
    read: list[dict[str, npt.NDArray]] = []
    with input_errors():
        for batch in batches:
            columns = {f"z {k}": v for k, v in forward({n: batch[n] for n in inputs}).items()}
            columns |= {f"y {name}": batch[name] for name in known}
            columns |= {f"s {name}": slice_index(name, batch[name], model.spec) for name in slices}
            if promotions:
                at = tf.equal(batch[PROMOTION][:, tf.newaxis], promotions)
                columns[f"s {PROMOTION}"] = tf.argmax(at, axis=1)
            read.append({name: value.numpy() for name, value in columns.items()})

    def joined(kind: str, wanted: Sequence[str], dtype: npt.DTypeLike) -> dict[str, npt.NDArray]:
        return {n: np.concatenate([r[f"{kind} {n}"] for r in read]).astype(dtype) for n in wanted}

    return _Rows(
        joined("z", names, np.float64),
        joined("y", known, np.float32),
        joined("s", [*slices, *([PROMOTION] if promotions else [])], np.int64),
    )
