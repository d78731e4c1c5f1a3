"""FNW, fake negative weighted (Ktena et al., RecSys 2019, section 4.3).

Every click enters at once as a negative, and once more as a positive when it converts. Entries of x
are then positive with probability p / (1 + p); importance weights bring them back to the clicks:

    positive   1 + f              = p (x) / b(y = 1 | x)
    negative   (1 - f) (1 + f)    = (1 - p) / b(y = 0 | x)        at f = p

with f the model's own probability, without a gradient; the one fixed point is f = p.

Assumes that late positives keep coming while it trains, as many as they will be in the end.
"""

from collections.abc import Mapping

import tensorflow as tf

from cmdcm.features.arrivals import Policy
from cmdcm.model.about import About
from cmdcm.model.delayed.base import DelayedModel, Observation, Sides


def fnw_weights(observed: tf.Tensor, f: tf.Tensor) -> Sides:
    """The weights of entries, [N] each.

    Args:
        observed: [N], 0 or 1.
        f: [N], the model's probability.

    Example:
        >>> fnw_weights(tf.constant([1.0, 0.0]), tf.constant([0.5, 0.5])).negative.numpy().tolist()
        [0.0, 0.75]
    """
    return Sides(observed * (1.0 + f), (1.0 - observed) * (1.0 - f) * (1.0 + f))


class FNW(DelayedModel):
    """Fake negative weighted loss."""

    about = About(
        family="delayed feedback",
        source="Ktena et al., RecSys 2019",
        equation="a = 1 + sg f on positives, b = (1 - sg f)(1 + sg f) on negatives",
        assumes="late positives keep coming",
        use="where no click may wait, and no auxiliary head is wanted",
    )
    policy = Policy(waits=False, again="late")

    def observation_weights(
        self, f: tf.Tensor, auxiliary: Mapping[str, tf.Tensor], seen: Observation
    ) -> Sides:
        """See the module."""
        return fnw_weights(seen.observed, f)
