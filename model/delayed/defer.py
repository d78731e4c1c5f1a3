"""DEFER, real-negative delayed feedback (Gu et al., KDD 2021, section 4).

Every click enters twice, real negatives too: when the waiting window ends, with what was observed,
and with its label when that is known. Half of the entries are right, of the others dp too few are
positive, so an entry of x is positive with probability p - dp / 2:

    positive   p / (p - dp / 2)
    negative   (1 - p) / (1 - p + dp / 2)

The paper takes dp from a model of its own and p from the network. To keep dp <= p by construction,
dp = f (1 - s) here, with s(x) = P(d <= w | conversion) learnt on history, and f without a gradient:

    positive   2 / (1 + s)
    negative   (1 - f) / (1 - f + f (1 - s) / 2)

No denominator can be negative, and that of the positives lies in [1/2, 1]. The fixed point is
f = p.

Assumes that s of the history holds for the stream, and that of the entries it trains on half are
second ones: labels that become final keep coming.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import SEEN, DelayedModel, Observation, Sides


def defer_weights(observed: tf.Tensor, f: tf.Tensor, s: tf.Tensor) -> Sides:
    """The weights of entries, [N] each.

    Args:
        observed: [N], 0 or 1.
        f: [N], the model's probability.
        s: [N], P(d <= w | conversion).
    """
    negatives = tf.math.divide_no_nan(1.0 - f, 1.0 - f + f * (1.0 - s) / 2.0)
    return Sides(observed * 2.0 / (1.0 + s), (1.0 - observed) * negatives)


class DEFER(DelayedModel):
    """Real negatives enter twice, too."""

    about = About(
        family="delayed feedback",
        source="Gu et al., KDD 2021",
        equation="a = 2 / (1 + s), b = (1 - sg f) / (1 - sg f + sg f (1 - s) / 2)",
        assumes="s of the history holds; final labels keep coming",
        use="in a steady stream with short horizons",
    )
    policy = Policy(again="all")
    auxiliary = (SEEN,)

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """See the module."""
        return defer_weights(seen.observed, f, auxiliary["seen"])
