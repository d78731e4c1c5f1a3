"""DFM, delayed feedback model (Chapelle, KDD 2014, equations 9-12).

The delay of a conversion is exponential with rate lam(x). A click whose conversion after d hours is
known, and one without a conversion after e hours, have the negative log likelihoods

    positive   -log f - log lam + lam d
    negative   -log(1 - f + f exp(-lam e))

e is the time from the click to the look at it and d the delay; both in hours. A final negative has
e = infinity. Every click enters twice: when the waiting window ends, and when its label is known.
The second entry counts what the first did not: its likelihood given the first one. A click that
converted in the window has said all by then. The two add up to the likelihood of the final label,
so nothing counts twice, and before any second entry the first ones alone are the likelihood of
censored data.

lam = exp(head) is bounded, so that an early epoch cannot run off: no rate below one in ten years
or above one a second.

Assumes exponential delays: with a waiting window far below the typical delay, f rests on that
alone.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import CONVERSION, FINAL, DelayedModel, Observation
from cmdcm.model.heads import Head, HeadLoss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import log_add

RATE = Head("rate", FINAL, estimator="entire_space")
"""Log of the rate; its label has no part in it."""

_BOUNDS = (-11.4, 8.2)  # log of the rate an hour: one in ten years, one a second


def log_rate(rate: tf.Tensor) -> tf.Tensor:
    """Returns log lam from the head's output, [N]; the gradient ends at the bounds."""
    return tf.clip_by_value(rate, *_BOUNDS)


def positive_loss(logit: tf.Tensor, rate: tf.Tensor, delay: tf.Tensor) -> tf.Tensor:
    """-log f - log lam + lam d, [N].

    Args:
        logit: [N], of the conversion.
        rate: [N], log lam in 1 / h.
        delay: [N], hours.
    """
    return tf.nn.softplus(-logit) - rate + tf.exp(rate) * delay


def negative_loss(logit: tf.Tensor, rate: tf.Tensor, elapsed: tf.Tensor) -> tf.Tensor:
    """-log(1 - f + f exp(-lam e)), [N].

    Zero at e = 0, with a gradient of zero; -log(1 - f) at infinity.

    Args:
        logit: [N], of the conversion.
        rate: [N], log lam in 1 / h.
        elapsed: [N], hours from the click.

    Example:
        >>> at = [tf.constant([value]) for value in (0.0, 0.0, 0.0)]  # f = 1/2, lam = 1, e = 0
        >>> abs(float(negative_loss(*at)[0]))
        0.0
    """
    survives = -tf.exp(rate) * elapsed
    return -log_add(-tf.nn.softplus(logit), -tf.nn.softplus(-logit) + survives)


def dfm_loss(logit: tf.Tensor, rate: tf.Tensor, seen: Observation) -> tf.Tensor:
    """The loss of entries, [N].

    Args:
        logit: [N], of the conversion.
        rate: [N], log lam in 1 / h.
        seen: What is known of the clicks.
    """
    positive = positive_loss(logit, rate, seen.delay)
    waited = negative_loss(logit, rate, seen.waited)
    first = seen.observed * positive + (1.0 - seen.observed) * waited
    final = seen.observed * positive + (1.0 - seen.observed) * tf.nn.softplus(logit)
    said = seen.observed * tf.cast(seen.delay <= seen.waited, tf.float32)
    return (1.0 - seen.repeat) * first + seen.repeat * (1.0 - said) * (final - waited)


class DFM(DelayedModel):
    """Conversion and the rate of its exponential delay."""

    about = About(
        family="delayed feedback",
        source="Chapelle, KDD 2014, eq. 9-12",
        equation="-log f - log lam + lam d, or -log(1 - f + f exp(-lam e))",
        assumes="exponential delays",
        use="where delays are short beside the history, or there is no history",
    )
    policy = Policy(again="all")

    def make_heads(self) -> list[Head]:
        """The conversion, whose loss is no plain BCE, and the rate."""
        return [Head(CONVERSION, FINAL, estimator="entire_space"), RATE]

    def adapt(self, features: Tensors) -> None:
        """Sets also the rate's first bias: that of the mean delay."""
        super().adapt(features)
        if "conversion_delay_ms" in features:
            labels = self.labels(features)
            mean = (tf.reduce_sum(labels[FINAL] * labels["delay"]) + 1.0) / (
                tf.reduce_sum(labels[FINAL]) + 1.0
            )
            self.towers[RATE.name].logit.bias.assign([-tf.math.log(mean)])

    def history_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """The likelihood of final labels and delays."""
        logit, final = logits[CONVERSION], labels[FINAL]
        positive = positive_loss(logit, log_rate(logits[RATE.name]), labels["delay"])
        losses = final * positive + (1.0 - final) * tf.nn.softplus(logit)
        ones = tf.ones_like(final)
        return {CONVERSION: HeadLoss(losses, ones, labels=final, predictions=tf.sigmoid(logit))}

    def entry_losses(
        self, logits: Tensors, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> tf.Tensor:
        """See the module."""
        return dfm_loss(logits[CONVERSION], log_rate(logits[RATE.name]), seen)
