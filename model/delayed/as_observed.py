"""No correction at all: the cross-entropy of what is observed when the waiting window ends.

The reference that platforms run. Its fixed point is P(conversion, d <= w), below p by dp. With the
final labels it is the oracle, and without a stream the pre-trained model (`cmdcm stream`).
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import DelayedModel, Observation, Sides


class AsObserved(DelayedModel):
    """Cross-entropy of the observed label."""

    about = About(
        family="delayed feedback",
        source="common practice",
        equation="BCE of what is observed after the waiting window",
        assumes="what comes later does not come",
        use="as the anchor of streams: vanilla, and with final labels the oracle",
    )
    policy = Policy()

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """One each."""
        return Sides(seen.observed, 1.0 - seen.observed)
