"""What all delayed-feedback models share: two kinds of batches, frozen auxiliaries, weights.

A conversion that comes d after its click is *late* when d exceeds the waiting window w
(`model.waiting_hours`). With x the features, p(x) = P(conversion), and

    dp(x) = P(conversion, d > w)                 head `dp`, over all clicks
    z(x)  = P(conversion | none by w)            head `z`, over the clicks unseen by w
    s(x)  = P(d <= w | conversion)               head `seen`, over the conversions

a model sees

- **history**, batches of clicks with final labels and delays: pre-training. The conversion head and
  the auxiliary heads learn their labels by cross-entropy;
- **entries** of a stream (`features/arrivals.py`), batches with the columns of `Observation`: the
  conversion head alone learns, by the method's estimator. The auxiliary probabilities are inputs
  `given_NAME`, the logits of the pre-trained model: as the trunk moves on, heads over it that learn
  nothing would go astray.

Most methods weigh the two sides of the cross-entropy of each entry,

    loss = a (-log f) + b (-log(1 - f)),

which is the weight a + b times the cross-entropy with the label a / (a + b). Neither gets a
gradient, the weight has a cap (`model.weight_cap`) and is tracked (mean, largest, effective share
of the entries); `observation_weights` is all that such a method has to say.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head, HeadLoss
from cmdcm.model.inputs import Tensors
from cmdcm.model.losses import binary_cross_entropy
from cmdcm.model.weights import Weights, capped_weights

HOUR_MS = 3_600_000.0

CONVERSION, FINAL, EARLY, LATE = "conversion", "final", "early", "late"
"""The main head; and the labels: conversion at all, within the waiting window, after it."""

GIVEN = "given_"
"""Prefix of the columns with the logits of auxiliary heads."""

DP = Head("dp", LATE)
Z = Head("z", LATE, "unseen")
SEEN = Head("seen", EARLY, "converted")


class Observation(NamedTuple):
    """What is known of clicks when they enter a stream; float32 [N].

    Attributes:
        observed: 1 if a conversion is known.
        repeat: 1 if the click has entered before.
        waited: Hours from the click to its first entry.
        delay: Hours from the click to the conversion that is known, else 0.
    """

    observed: tf.Tensor
    repeat: tf.Tensor
    waited: tf.Tensor
    delay: tf.Tensor


class Sides(NamedTuple):
    """The weights of -log f and of -log(1 - f), [N] each."""

    positive: tf.Tensor
    negative: tf.Tensor


class Largest(tf.keras.metrics.Metric):
    """The largest value so far."""

    def __init__(self, name: str):
        super().__init__(name=name)
        self.value = self.add_weight("value", initializer="zeros")

    def update_state(self, value: tf.Tensor) -> None:
        """Takes a value from 0 on."""
        self.value.assign(tf.maximum(self.value, value))

    def result(self) -> tf.Tensor:
        """Returns the largest value, 0 before any."""
        return tf.identity(self.value)


class DelayedModel(RankingModel):
    """The base of delayed-feedback models; see the module.

    Sub-classes give:
        policy: How their clicks enter a stream.
        auxiliary: The heads that their estimator needs, pre-trained on history.
        observation_weights: The estimator; or `entry_losses` for one of another form.
    """

    policy: ClassVar[Policy]
    auxiliary: ClassVar[tuple[Head, ...]] = ()
    extra_columns = ("conversion_delay_ms",)

    def make_heads(self) -> Sequence[Head]:
        """The conversion, and the auxiliary heads."""
        return [Head(CONVERSION, FINAL), *self.auxiliary]

    def served_heads(self) -> Sequence[Head]:
        """The conversion alone."""
        return [head for head in self.heads if head.name == CONVERSION]

    def labelled_heads(self) -> Sequence[Head]:
        """The conversion, on its final label."""
        return [Head(CONVERSION, self.config.delayed_label)]

    def calibrated_heads(self) -> Sequence[Head]:
        """The same."""
        return self.labelled_heads()

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """The conversion probability alone."""
        return {"p_conversion": tf.sigmoid(logits[CONVERSION])}

    def label_of(self, output: str) -> str | None:
        """The conversion's label is `model.delayed_label`."""
        return self.config.delayed_label if output == "p_conversion" else None

    def labels(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Of history: the labels, with early and late conversions; of entries: what is observed."""
        if "observed" in inputs:
            entries = {name: tf.cast(inputs[name], tf.float32) for name in ("observed", "repeat")}
            for name in ("waited", "delay"):
                entries[name] = tf.cast(inputs[f"{name}_ms"], tf.float32) / HOUR_MS
            given = [f"{GIVEN}{head.name}" for head in self.auxiliary]
            return entries | {name: inputs[name] for name in given if name in inputs}
        labels = super().labels(inputs)
        final = labels[self.config.delayed_label]
        delay = tf.cast(inputs["conversion_delay_ms"], tf.float32) / HOUR_MS
        early = final * tf.cast(delay <= self.config.waiting_hours, tf.float32)
        return labels | {FINAL: final, EARLY: early, LATE: final - early, "delay": final * delay}

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """Of history the heads' cross-entropies, of entries the estimator's loss."""
        if "observed" not in labels:
            return self.history_losses(logits, labels)
        seen = Observation(*(labels[name] for name in Observation._fields))
        auxiliary = {
            head.name: tf.stop_gradient(labels.get(f"{GIVEN}{head.name}", logits[head.name]))
            for head in self.auxiliary
        }
        losses = self.entry_losses(logits, auxiliary, seen)
        return {CONVERSION: HeadLoss(losses, tf.ones_like(losses))}

    def history_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """Losses an example on clicks with final labels."""
        return super().head_losses(logits, labels)

    def entry_losses(
        self, logits: Tensors, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> tf.Tensor:
        """Losses of entries of a stream, [N].

        Args:
            logits: Of the heads, [N] each.
            auxiliary: Logits of the auxiliary heads, [N] each; get no gradient.
            seen: What is known of the clicks.
        """
        probabilities = {name: tf.sigmoid(z) for name, z in auxiliary.items()}
        f = tf.stop_gradient(tf.sigmoid(logits[CONVERSION]))
        sides = self.observation_weights(f, probabilities, seen)
        weights = capped_weights(sides.positive + sides.negative, self.config.weight_cap)
        self._track(weights)
        target = tf.math.divide_no_nan(sides.positive, sides.positive + sides.negative)
        return weights.values * binary_cross_entropy(tf.stop_gradient(target), logits[CONVERSION])

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """Returns the weights of both sides of the cross-entropy.

        Args:
            f: [N], the model's own probability; has no gradient.
            auxiliary: Probabilities of the auxiliary heads, [N] each.
            seen: What is known of the clicks.
        """
        raise NotImplementedError

    def _track(self, weights: Weights) -> None:
        rows = tf.cast(tf.size(weights.values), tf.float32)
        self._tracker("weight_mean").update_state(tf.reduce_sum(weights.values), rows)
        self._tracker("weight_effective_share").update_state(weights.effective, rows)
        others = self._tracked.others
        if "weight_largest" not in others:
            others["weight_largest"] = Largest(name="weight_largest")
        others["weight_largest"].update_state(weights.largest)
