"""What the auxiliary heads of a stream's models say of its clicks, beside what happened there.

A correction for delayed feedback is as right as its heads are: late conversions of all clicks (dp),
of those without an early one (z), and the early share of all conversions (seen).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cmdcm.features.input import parse_examples
from cmdcm.jobs.tables import Table, number
from cmdcm.model.delayed.base import EARLY, FINAL, LATE, DelayedModel
from cmdcm.model.online.click_store import ClickStore

_BATCH = 4096


class HeadMean(NamedTuple):
    """One head of one row of the table.

    Attributes:
        head: Its name.
        clicks: Tested clicks of its task space.
        predicted: Its mean probability there; NaN without clicks.
        happened: The rate of its label there; NaN without clicks.
    """

    head: str
    clicks: int
    predicted: float
    happened: float


def head_means(
    model: DelayedModel,
    store: ClickStore,
    rows: npt.NDArray[np.int64],
    delays_ms: npt.NDArray[np.int64],
    waiting_ms: int,
) -> list[HeadMean]:
    """Returns the auxiliary heads that are probabilities, on some clicks of the stream.

    Args:
        model: As it was pre-trained on history.
        store: The clicks.
        rows: [N] rows of the store.
        delays_ms: [clicks], -1 without a conversion.
        waiting_ms: The waiting window.
    """
    delays = delays_ms[rows]
    early = (delays >= 0) & (delays <= waiting_ms)
    labels = {FINAL: delays >= 0, EARLY: early, LATE: delays > waiting_ms}
    heads = [head for head in model.auxiliary if head.label in labels]
    if not heads:
        return []
    given: dict[str, list[npt.NDArray[np.float32]]] = {head.name: [] for head in heads}
    for first in range(0, len(rows), _BATCH):
        records = tf.constant(store.records(rows[first : first + _BATCH]))
        logits: Mapping[str, tf.Tensor] = model(parse_examples(records, model.spec.inputs))
        for name, values in given.items():
            values.append(tf.sigmoid(logits[name]).numpy())
    tensors = {name: tf.constant(value, tf.float32) for name, value in labels.items()}
    tensors["direct"] = tf.constant(store.labels("direct")[rows], tf.float32)
    means = []
    for head in heads:
        chosen = head.mask(tensors).numpy() == 1
        pair = (np.concatenate(given[head.name])[chosen], labels[head.label][chosen])
        predicted, happened = (float(v.mean()) if len(v) else float("nan") for v in pair)
        means.append(HeadMean(head.name, int(chosen.sum()), predicted, happened))
    return means


def heads_table(found: Mapping[str, list[HeadMean]]) -> Table:
    """Returns a row for each model and head."""
    rows = [
        (name, m.head, f"{m.clicks:,}", number(m.predicted, 4), number(m.happened, 4))
        for name, means in found.items()
        for m in means
    ]
    columns = ("model", "head", "tested clicks", "mean of the head", "happened")
    return Table("Auxiliary heads, as history taught them", columns, tuple(rows))
