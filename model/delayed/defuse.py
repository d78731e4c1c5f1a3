"""DEFUSE, delayed feedback with unbiased estimation (Chen et al., WWW 2022, equation 8).

The stream is that of ES-DFM. Observed negatives are weighed by what they will turn out to be, and
immediate positives (IP) and delayed positives (DP) have weights of their own:

    IP, at the end of the waiting window    (1 + dp) (-log f)
    DP, entering again                      1 (-log f)
    observed negative                       z dp (-log f) + (1 - z) (1 + dp) (-log(1 - f))

The weights of -log f sum to (p - dp) (1 + dp) + dp + dp dp = p (1 + dp), those of -log(1 - f) to
(1 - p) (1 + dp). The released code gives both weights to every positive, which is badly calibrated.

Assumes that dp and z of the history hold for the stream, and that late positives keep coming.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import DP, DelayedModel, Observation, Sides, Z


def defuse_weights(observed: tf.Tensor, repeat: tf.Tensor, dp: tf.Tensor, z: tf.Tensor) -> Sides:
    """The weights of entries, [N] each.

    Args:
        observed: [N], 0 or 1.
        repeat: [N], 1 for late positives that enter again.
        dp: [N], P(conversion, d > w).
        z: [N], P(conversion | none by w).
    """
    negative = 1.0 - observed
    positives = observed * (repeat + (1.0 - repeat) * (1.0 + dp))
    return Sides(positives + negative * z * dp, negative * (1.0 - z) * (1.0 + dp))


class DEFUSE(DelayedModel):
    """Four kinds of entries, each with its weight."""

    about = About(
        family="delayed feedback",
        source="Chen et al., WWW 2022, eq. 8",
        equation="a = 1 + dp in the window, 1 later, z dp on negatives; b = (1 - z)(1 + dp)",
        assumes="dp and z of the history hold; late positives keep coming",
        use="in a steady stream",
    )
    policy = Policy(again="late")
    auxiliary = (DP, Z)

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """See the module."""
        return defuse_weights(seen.observed, seen.repeat, auxiliary["dp"], auxiliary["z"])
