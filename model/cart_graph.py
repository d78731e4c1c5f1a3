"""Models whose delayed purchase passes through the cart, on the behaviour graph of a click.

    click -> direct purchase or not -> cart or not -> delayed purchase or not

With d = P(D = 1), c = P(A = 1 given D = 1), e = P(A = 1 given D = 0) and, among clicks without a
direct purchase, r1 and r0 of the delayed one with and without a cart:

    p_direct     = d
    p_cart       = d c + (1 - d) e
    p_delayed    = (1 - d) (e r1 + (1 - e) r0)
    p_conversion = p_direct + p_delayed <= 1, by construction

all in log space. How e, r1 and r0 are learned is up to the models: CM-DCM, ESM2, HM3, ESCM2, DCMT.
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head, HeadLoss, entire_space_loss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import Event, both, complement, from_logit, mixture, to_logit
from cmdcm.model.promotion_events import promotion_events
from cmdcm.model.transition import transition_event, transition_losses

DIRECT = Head("direct", "direct")
CART_DIRECT = Head("cart_direct", "cart", "direct")
PROPENSITY = Head("propensity", "cart", "not_direct")
TRANSITION = Head("transition", "delayed", "not_direct", estimator="entire_space")
"""The delayed purchase among clicks without a direct one: a head, or the mixture of the arms."""


class CartGraph(RankingModel):
    """The graph's outputs; sub-classes give `cart_heads` and `arm_heads`, and losses beyond."""

    def make_heads(self) -> Sequence[Head]:
        """Direct, the cart among buyers and among all others, and the delayed purchase."""
        return [DIRECT, *self.cart_heads(), CART_DIRECT, *self.arm_heads()]

    def cart_heads(self) -> Sequence[Head]:
        """The heads that `cart` needs."""
        return [PROPENSITY]

    def arm_heads(self) -> Sequence[Head]:
        """The heads that `transition` needs, and those that train them."""
        raise NotImplementedError

    def calibrated_heads(self) -> Sequence[Head]:
        """Direct, cart, and the delayed purchase among clicks without a direct one.

        Not r1 and r0: the labels of an arm's own clicks are no measure of what carting would do to
        all clicks. Their averages are corrected by targeting (`model/causal/targeting.py`).
        """
        return [DIRECT, PROPENSITY, CART_DIRECT, TRANSITION]

    def served_heads(self) -> Sequence[Head]:
        """All but those that train others: imputations and the nuisances of single folds."""
        served = {h.name for h in (DIRECT, CART_DIRECT, TRANSITION, *self.cart_heads())}
        return [head for head in self.heads if head.name in served | {"r1", "r0"}]

    def tasks(self, logits: Tensors) -> Tensors:
        """Adds the logit of the transition."""
        return {**logits, "transition": to_logit(self.transition(logits))}

    def cart(self, logits: Tensors) -> Event:
        """The cart among clicks without a direct purchase."""
        return from_logit(logits["propensity"])

    def transition(self, logits: Tensors) -> Event:
        """The delayed purchase among clicks without a direct one: the arms' mixture, or a logit."""
        if "transition" in logits:
            return from_logit(logits["transition"])
        return transition_event(self.cart(logits), logits["r1"], logits["r0"])

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """See the module; with r1 and r0 also these, their difference and the propensity."""
        direct, cart = from_logit(logits["direct"]), self.cart(logits)
        all_carts = mixture(direct, from_logit(logits["cart_direct"]), cart)
        events = promotion_events(direct, all_carts, self.transition(logits))
        outputs = {f"p_{name}": tf.exp(event.yes) for name, event in events.items()}
        if "r1" in logits:
            r1, r0 = tf.sigmoid(logits["r1"]), tf.sigmoid(logits["r0"])
            propensity = tf.exp(cart.yes)
            outputs |= {"cart_effect": r1 - r0, "propensity": propensity, "r1": r1, "r0": r0}
        return outputs

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """BCE of the heads that declare it, of delayed on all clicks, and the arms' risks.

        A cart's head in a part of the clicks is divided by all of them: the two together are the
        likelihood of A given D, in which the few buyers do not outweigh all others.
        """
        losses = super().head_losses(logits, labels)
        delayed = both(complement(from_logit(logits["direct"])), self.transition(logits))
        losses["delayed"] = entire_space_loss(labels["delayed"], delayed)
        return losses | transition_losses(self.heads, logits, labels, self.config.propensity_clip)
