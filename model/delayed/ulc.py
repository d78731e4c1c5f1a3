"""ULC, unbiased label correction (Wang et al., KDD 2023, section 4).

Each click enters once, when the waiting window ends. A conversion counts as it is; a click without
one takes the soft label z(x) = P(conversion | none by w):

    observed positive    -log f
    observed negative    z (-log f) + (1 - z) (-log(1 - f))

z is learnt on history by a *counterfactual deadline*: among clicks that had no conversion by w,
those that got one later. It gets no gradient from the stream. The positive weights sum to
(p - dp) + (1 - p + dp) z = p.

Assumes that z of the history holds for the stream. Needs no late positives at all.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import DelayedModel, Observation, Sides, Z


def ulc_weights(observed: tf.Tensor, z: tf.Tensor) -> Sides:
    """The weights of entries, [N] each: a soft label and its complement.

    Args:
        observed: [N], 0 or 1.
        z: [N], P(conversion | none by w).
    """
    negative = 1.0 - observed
    return Sides(observed + negative * z, negative * (1.0 - z))


class ULC(DelayedModel):
    """Corrected labels."""

    about = About(
        family="delayed feedback",
        source="Wang et al., KDD 2023",
        equation="a = z, b = 1 - z on negatives",
        assumes="z of the history holds",
        use="in a window whose conversions all come later",
    )
    policy = Policy()
    auxiliary = (Z,)

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """See the module."""
        return ulc_weights(seen.observed, auxiliary["z"])
