"""ESM2-style entire-space model with the cart as a step between (Wen et al., SIGIR 2020).

The paper's chain is impression -> click -> cart or wish, or another action -> purchase:

    pCTR = y1     pCTAVR = y1 y2     pCTCVR = y1 (y2 y3 + (1 - y2) y4)

with a BCE on each over all impressions. Rows here are clicks, and the chain is carried over to the
promotion: the first step is *not bought directly*, y1 = 1 - d, then y2 = P(A given D = 0) is the
propensity e, and y3, y4 are r1, r0, the delayed purchase with and without a cart:

    BCE(D, d)     BCE(A and not D, (1 - d) e)     BCE(L, (1 - d) (e r1 + (1 - e) r0))

It is ESM2-style, not ESM2. The cart among direct buyers, which p_cart needs, has a head of its own.
y3 = y4 is the model `esmm`.

r1 - r0 contrasts clicks that were carted with clicks that were not: both are right for prediction
and neither is corrected for who carts, so take `cart_effect` of this model as a naive one.
"""

import dataclasses
from collections.abc import Sequence

from cmdcm.model.about import About
from cmdcm.model.cart_graph import PROPENSITY, CartGraph
from cmdcm.model.heads import Head, HeadLoss, entire_space_loss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import both, complement, from_logit
from cmdcm.model.transition import transition_heads


class ESM2(CartGraph):
    """Direct, cart and delayed as products over all clicks."""

    about = About(
        family="multi-task",
        source="Wen et al., SIGIR 2020, arXiv 1910.07099",
        equation="p_delayed = (1 - d) (e r1 + (1 - e) r0); a BCE on each product, over all clicks",
        assumes="as `esmm`; the graph alone: r1 and r0 are not corrected for who carts",
        use="as the entire-space model that knows the cart",
    )

    def cart_heads(self) -> Sequence[Head]:
        """The cart among clicks without a direct purchase; its loss is over all clicks."""
        return [dataclasses.replace(PROPENSITY, estimator="entire_space")]

    def arm_heads(self) -> Sequence[Head]:
        """r1 and r0, learned through p_delayed alone."""
        return transition_heads("entire_space", 1.0)

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """BCE of direct, of the cart without a direct purchase, and of delayed, on all clicks."""
        not_direct = complement(from_logit(logits["direct"]))
        losses = super().head_losses(logits, labels)
        losses["cart"] = entire_space_loss(
            labels["cart"] * (1.0 - labels["direct"]), both(not_direct, self.cart(logits))
        )
        return losses
