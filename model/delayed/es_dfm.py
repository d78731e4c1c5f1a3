"""ES-DFM, elapsed-time sampling delayed feedback model (Yang et al., AAAI 2021, equations 14-17).

A click enters when the waiting window ends, with what was observed; a late positive enters once
more when it converts. Of 1 + dp entries of x, p are positive; importance weights bring them back:

    positive   1 + dp(x)
    negative   (1 + dp(x)) (1 - z(x))        1 - z: P(real negative | observed negative)

dp and z are learnt on history and get no gradient. Without late positives (dp = z = 0) it is the
cross-entropy; without a waiting window (dp = z = p) it is FNW.

Assumes that dp and z of the history hold for the stream, and that late positives keep coming.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import DP, DelayedModel, Observation, Sides, Z


def es_dfm_weights(observed: tf.Tensor, dp: tf.Tensor, z: tf.Tensor) -> Sides:
    """The weights of entries, [N] each.

    Args:
        observed: [N], 0 or 1.
        dp: [N], P(conversion, d > w).
        z: [N], P(conversion | none by w).
    """
    return Sides(observed * (1.0 + dp), (1.0 - observed) * (1.0 + dp) * (1.0 - z))


class ESDFM(DelayedModel):
    """Elapsed-time sampling with importance weights."""

    about = About(
        family="delayed feedback",
        source="Yang et al., AAAI 2021, eq. 14-17",
        equation="a = 1 + dp on positives, b = (1 + dp)(1 - z) on negatives",
        assumes="dp and z of the history hold; late positives keep coming",
        use="in a steady stream",
    )
    policy = Policy(again="late")
    auxiliary = (DP, Z)

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """See the module."""
        return es_dfm_weights(seen.observed, auxiliary["dp"], auxiliary["z"])
