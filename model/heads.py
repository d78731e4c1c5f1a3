"""Contract 4, heads: what a head predicts, on which rows, and how much it counts.

A head is one logit: the log-odds of its label among the clicks of its task space. It declares its
label, that space, and the weight and the estimator of its loss, and its loss, its first bias
(`RankingModel.adapt`) and the check of the labels read this declaration; a model is shared layers
plus heads. The base model (`model/base.py`) does the reduction, in one place:

    total = sum over losses of weight * sum(row * weights * losses) / sum(row * base)

By default `base` is the weights, so that a loss is a mean over its rows. The BCE of a head is
divided by the number of all clicks instead, whatever its space: then the heads' BCEs add up to the
behaviour graph's log likelihood per click, log P(D) + log P(A given D), and no click counts more
than another because few share its space. Tracking always shows the mean over the rows.

`row` is the examples' own weights (`features/sampling.py`), 1 where a batch has none: a row of
weight 2 counts as two equal rows do, in the sum and in what it is divided by.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from cmdcm.model.losses import binary_cross_entropy, event_cross_entropy
from cmdcm.model.probability import Event

Labels = Mapping[str, tf.Tensor]
"""Label columns as float32 [N]; with cross-fitting also `FOLD`."""

FOLD = "fold"
"""Name of the rows' folds of users, [N]."""

SPACES: dict[str, Callable[[Labels], tf.Tensor]] = {
    "clicks": lambda labels: tf.ones_like(labels["direct"]),
    "direct": lambda labels: labels["direct"],
    "not_direct": lambda labels: 1.0 - labels["direct"],
    "carted": lambda labels: (1.0 - labels["direct"]) * labels["cart"],
    "uncarted": lambda labels: (1.0 - labels["direct"]) * (1.0 - labels["cart"]),
    "micro": lambda labels: (1.0 - labels["direct"]) * labels["micro"],
    "no_micro": lambda labels: (1.0 - labels["direct"]) * (1.0 - labels["micro"]),
    "bought": lambda labels: labels["conversion"],
    "converted": lambda labels: labels["final"],
    "unseen": lambda labels: 1.0 - labels["early"],
}
"""Task spaces over clicks: name -> the rows' mask [N], 0 or 1. `carted` and `uncarted` part
`not_direct`, and so do `micro` and `no_micro`, where the examples have that label; `converted` and
`unseen`, by the waiting window, are of delayed-feedback models."""

ARM_ESTIMATORS = ("naive", "ipw", "snipw", "overlap", "dr", "dr_error")
"""Estimators of the risk of a potential outcome; see `model/transition.py`."""

ESTIMATORS = ("bce", "entire_space", "imputed_error", *ARM_ESTIMATORS)
"""`bce`: the cross-entropy on the head's space. `entire_space`: no loss of its own; an event over
all clicks that the head makes with others has one (`entire_space_loss`). `imputed_error`: the head
is no probability but the error of another one (`model/transition.py`)."""


@dataclass(frozen=True)
class HeadLoss:
    """A loss before the reduction.

    Attributes:
        losses: [N], one an example.
        weights: [N], of the examples: task space times importance.
        weight: Weight of the loss in the total.
        labels: [N], for tracking the label's mean; None where it is no prediction.
        predictions: [N], probabilities, for tracking calibration; None where there is none.
        base: [N], whose sum the weighted sum is divided by; None for the weights.
    """

    losses: tf.Tensor
    weights: tf.Tensor
    weight: float = 1.0
    labels: tf.Tensor | None = None
    predictions: tf.Tensor | None = None
    base: tf.Tensor | None = None

    def times(self, row_weights: tf.Tensor) -> "HeadLoss":
        """Returns the loss with each example weighted, [N]."""
        base = None if self.base is None else self.base * row_weights
        return dataclasses.replace(self, weights=self.weights * row_weights, base=base)


@dataclass(frozen=True)
class Head:
    """One task of a model.

    Attributes:
        name: Name of the logit and of the tower.
        label: Label column that it predicts.
        space: Task space, a key of `SPACES`: the rows where its logit is the label's.
        weight: Weight of its loss.
        estimator: How its loss is estimated, one of `ESTIMATORS`.
        left_out: A fold of users whose rows its loss leaves out, for cross-fitting; None for none.
        linear: Whether its logit is linear in the effect modifiers (`model/modifiers.py`), instead
            of a tower over the shared features.
    """

    name: str
    label: str
    space: str = "clicks"
    weight: float = 1.0
    estimator: str = "bce"
    left_out: int | None = None
    linear: bool = False

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"`space` should be one of {sorted(SPACES)}. Received: {self.space}")
        if self.weight < 0:
            raise ValueError(f"`weight` should not be negative. Received: {self.weight}")
        if self.estimator not in ESTIMATORS:
            raise ValueError(
                f"`estimator` should be one of {ESTIMATORS}. Received: {self.estimator}"
            )

    def mask(self, labels: Labels) -> tf.Tensor:
        """The mask of the rows that the head learns from: of its space and not left out, [N]."""
        mask = SPACES[self.space](labels)
        if self.left_out is None:
            return mask
        return mask * tf.cast(labels[FOLD] != float(self.left_out), tf.float32)

    def cross_entropy(self, labels: Labels, logits: tf.Tensor) -> HeadLoss:
        """The loss of a `bce` head: its label's cross-entropy in its space, per click."""
        label, mask = labels[self.label], self.mask(labels)
        return HeadLoss(
            binary_cross_entropy(label, logits),
            mask,
            self.weight,
            label,
            tf.sigmoid(logits),
            tf.ones_like(mask),
        )

    def first_bias(self, labels: Labels) -> tf.Tensor:
        """The output bias of a fresh head: the log-odds; of an imputed error, what to expect.

        A head at the log-odds z of the rate p has the mean BCE softplus(z) - p z, its entropy.
        """
        z = self.log_odds(labels)
        if self.estimator != "imputed_error":
            return z
        return tf.nn.softplus(z) - tf.sigmoid(z) * z

    def log_odds(self, labels: Labels) -> tf.Tensor:
        """Log-odds of the label's smoothed rate in the space, (positives + 1) / (rows + 2).

        Example:
            >>> labels = {"direct": tf.constant([0.0, 0.0, 1.0]), "cart": tf.constant([1.0, 1, 0])}
            >>> float(tf.sigmoid(Head("propensity", "cart", "not_direct").log_odds(labels)))
            0.75
        """
        mask = self.mask(labels)
        positives = tf.reduce_sum(mask * labels[self.label])
        return tf.math.log((positives + 1.0) / (tf.reduce_sum(mask) - positives + 1.0))


def entire_space_loss(label: tf.Tensor, event: Event) -> HeadLoss:
    """Cross-entropy, over all clicks, of an event that several heads make together.

    Args:
        label: [N], whether the event happened.
        event: Its log probabilities.
    """
    return HeadLoss(
        event_cross_entropy(label, event),
        tf.ones_like(label),
        labels=label,
        predictions=tf.exp(event.yes),
    )
