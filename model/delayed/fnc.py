"""FNC, fake negative calibration (Ktena et al., RecSys 2019, section 4.4).

The stream is that of FNW: every click enters as a negative, and its conversion as a positive. The
network learns the rate of positives among the entries, b = p / (1 + p), by plain cross-entropy, and
serves

    f = b / (1 - b) = exp(logit of b),  at most 1.

On history the two entries of each click are made of its final label: BCE(0, b) + y BCE(1, b).
Assumes the same as FNW. While b is far from its fixed point f may pass 1, where it is cut.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import CONVERSION, FINAL, DelayedModel, Observation
from cmdcm.model.heads import Head, HeadLoss
from cmdcm.model.inputs import Tensors
from cmdcm.model.losses import binary_cross_entropy

LARGEST = 1.0 - 2.0**-20
"""Of the served probability: one of 1 has no log-odds."""


SERVED = "served"
"""Name of the logit of b / (1 - b)."""


def unbiased_logit(logit: tf.Tensor) -> tf.Tensor:
    """The log-odds of b / (1 - b), from those of b; [N].

    Example:
        >>> biased = tf.math.log([0.2 / 0.8])  # b = 0.2
        >>> round(float(tf.sigmoid(unbiased_logit(biased))[0]), 6)
        0.25
    """
    log_p = tf.minimum(logit, tf.math.log(LARGEST))
    return log_p - tf.math.log(-tf.math.expm1(log_p))


class FNC(DelayedModel):
    """Cross-entropy of the biased rate, corrected when it is served."""

    about = About(
        family="delayed feedback",
        source="Ktena et al., RecSys 2019",
        equation="BCE of b, served b / (1 - b)",
        assumes="late positives keep coming",
        use="as `fnw`; the cheapest",
    )
    policy = Policy(waits=False, again="late")

    def make_heads(self) -> list[Head]:
        """The rate of positives among the entries, whose loss on history is no plain BCE."""
        return [Head(CONVERSION, FINAL, estimator="entire_space")]

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """Serves b / (1 - b), at most 1; the calibrated one of a calibrated model."""
        served = logits.get(SERVED, unbiased_logit(logits[CONVERSION]))
        return {"p_conversion": tf.sigmoid(served)}

    def calibrated_heads(self) -> list[Head]:
        """What is served, on its final label."""
        return [Head(SERVED, self.config.delayed_label)]

    def tasks(self, logits: Tensors) -> Tensors:
        """Adds the logit of what is served."""
        return {**logits, SERVED: unbiased_logit(logits[CONVERSION])}

    def history_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """The cross-entropies of both entries of each click."""
        b, ones = logits[CONVERSION], tf.ones_like(labels[FINAL])
        both = binary_cross_entropy(0.0 * ones, b) + labels[FINAL] * binary_cross_entropy(ones, b)
        return {
            CONVERSION: HeadLoss(
                both,
                ones,
                labels=labels[FINAL],
                predictions=tf.sigmoid(unbiased_logit(b)),
            )
        }

    def entry_losses(
        self, logits: Tensors, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> tf.Tensor:
        """The cross-entropy of the entry."""
        return binary_cross_entropy(seen.observed, logits[CONVERSION])
