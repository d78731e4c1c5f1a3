"""FSIW, feedback-shift importance weighting (Yasui et al., WWW 2020, section 4).

Each click enters once, when the waiting window ends. A conversion has been seen by then with
probability s(x) = P(d <= w | conversion), and a click without one is a negative in the end with
probability 1 - z(x):

    positive   1 / s(x)
    negative   1 - z(x)

s and z are learnt on history by a *counterfactual deadline*: final labels, and what had been known
of them at w. They get no gradient from the stream.

Assumes that s and z of the history hold for the stream. Needs no late positives at all.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import SEEN, DelayedModel, Observation, Sides, Z


def fsiw_weights(observed: tf.Tensor, s: tf.Tensor, z: tf.Tensor) -> Sides:
    """The weights of entries, [N] each.

    Args:
        observed: [N], 0 or 1.
        s: [N], P(d <= w | conversion).
        z: [N], P(conversion | none by w).
    """
    # Where s underflows the weight is huge, not zero; the cap comes later.
    return Sides(observed / tf.maximum(s, 1e-6), (1.0 - observed) * (1.0 - z))


class FSIW(DelayedModel):
    """Feedback-shift importance weighting."""

    about = About(
        family="delayed feedback",
        source="Yasui et al., WWW 2020",
        equation="a = 1 / s on positives, b = 1 - z on negatives",
        assumes="s and z of the history hold",
        use="in a window whose conversions all come later",
    )
    policy = Policy()
    auxiliary = (SEEN, Z)

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """See the module."""
        return fsiw_weights(seen.observed, auxiliary["seen"], auxiliary["z"])
