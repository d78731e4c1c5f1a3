"""DCMT: factual and counterfactual conversion under a prior (Zhu et al., ICDE 2023).

In the paper o is the click of an impression, q = sg(pCTR), r the conversion were there a click and
r* the counterfactual head, of *no* conversion were there none. With BCE(y, f), self-normalised,

    sum of w BCE(y, r) / sum of w       w = o / q
    + sum of v BCE(1 - y, r*) / sum of v     v = (1 - o) / (1 - q)
    + lambda mean of |1 - (r + r*)|

where 1 - y is 1 for all without a click, since nothing is bought there. Here o is the cart among
clicks without a direct purchase, y = L and r = r1. A click without a cart may lead to a purchase,
so its label 1 - L is not always 1, and r* = 1 - r0: BCE(1 - L, 1 - r0) = BCE(L, r0). The first two
terms are then the arms' `snipw` risks, beside the BCE of e and that of p_delayed on all clicks.

The prior reads r1 = r0: carting changes nothing. It borrows strength where carts are rare, and
pulls `cart_effect` towards zero; with `counterfactual_weight` at 0 the arms are as CM-DCM's.
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.about import About
from cmdcm.model.cart_graph import CartGraph
from cmdcm.model.heads import SPACES, Head, HeadLoss
from cmdcm.model.inputs import Tensors
from cmdcm.model.transition import transition_heads


def counterfactual_prior(factual: tf.Tensor, counterfactual: tf.Tensor) -> tf.Tensor:
    """|1 - (r + r*)| from the logits of both, [N].

    Example:
        >>> counterfactual_prior(tf.constant([0.0, 2.0]), tf.constant([0.0, -2.0])).numpy()
        array([0., 0.], dtype=float32)
    """
    return tf.abs(1.0 - (tf.sigmoid(factual) + tf.sigmoid(counterfactual)))


class DCMT(CartGraph):
    """Both arms by self-normalised weights, tied by the counterfactual prior."""

    about = About(
        family="causal",
        source="Zhu et al., ICDE 2023, arXiv 2302.06141",
        equation="r1, r0 by `snipw`, + lambda mean of abs(1 - (r1 + r*)), r* = 1 - r0",
        assumes="as `escm2_ips`, and that carting changes little",
        use="where carts are too rare for two free arms; not to measure the effect",
    )

    def arm_heads(self) -> Sequence[Head]:
        """The outcome heads."""
        return transition_heads("snipw", self.config.transition_weight)

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """The graph's, and the prior on clicks without a direct purchase."""
        prior = HeadLoss(
            counterfactual_prior(logits["r1"], -logits["r0"]),
            SPACES["not_direct"](labels),
            self.config.counterfactual_weight,
        )
        return {**super().head_losses(logits, labels), "prior": prior}
