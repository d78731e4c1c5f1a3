"""CM-DCM: multi-task heads, personalised gating and the counterfactual transition together.

Behaviour graph of a click: click -> direct purchase or not -> cart or not -> delayed purchase or
not. Its heads give, in log space,

    p_direct     = sigmoid(direct)
    p_cart       = p_direct P(A | D = 1) + (1 - p_direct) e
    p_delayed    = (1 - p_direct) (e r1 + (1 - e) r0)
    p_conversion = p_direct + p_delayed <= 1, by construction

The paper is arXiv 2604.21675, of which only the abstract and the captions are public; each module's
construction is ours and a setting (`gate`, `transition`, `estimator`). Without `transition` one
head predicts the delayed purchase among clicks without a direct one. So it does with
`effect_modifiers`, where r1 and r0 are linear in a few inputs and answer the causal question alone
(`model/modifiers.py`).
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.about import About
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head, HeadLoss, entire_space_loss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import (
    Event,
    both,
    complement,
    either,
    from_logit,
    mixture,
    to_logit,
)
from cmdcm.model.transition import transition_event, transition_heads, transition_losses

TRANSITION = Head("transition", "delayed", "not_direct", estimator="entire_space")
"""The delayed purchase among clicks without a direct one: a head, or the mixture of the arms."""


class CMDCM(RankingModel):
    """The counterfactual multi-task delayed conversion model."""

    about = About(
        family="CM-DCM",
        source="arXiv 2604.21675 (abstract); construction ours",
        equation="p_delayed = (1 - d) (e r1 + (1 - e) r0); r1, r0 by a debiased risk",
        assumes="for the effect: consistency, positivity, ignorability given x; for predictions "
        "nothing beyond the graph",
        use="to rank by conversion and to know what a cart changes",
        cost="a gate a tower",
    )
    gated = True

    def make_heads(self) -> Sequence[Head]:
        """Direct, cart (propensity and among buyers) and the outcome heads of both arms."""
        heads = [
            Head("direct", "direct"),
            Head("propensity", "cart", "not_direct"),
            Head("cart_direct", "cart", "direct"),
        ]
        config = self.config
        if not config.transition:
            return [*heads, TRANSITION]
        linear = bool(config.effect_modifiers)
        if linear:
            heads.append(TRANSITION)
        return heads + transition_heads(
            config.estimator, config.transition_weight, config.cross_fit_folds, linear
        )

    def calibrated_heads(self) -> Sequence[Head]:
        """Direct, cart, and the delayed purchase among clicks without a direct one.

        Not r1 and r0: the labels of an arm's own clicks are no measure of what carting would do to
        all clicks. Their averages are corrected by targeting (`model/causal/targeting.py`).
        """
        if not self.config.transition:
            return self.heads
        observed = [h for h in self.heads if h.name in ("direct", "propensity", "cart_direct")]
        return [*observed, TRANSITION]

    def served_heads(self) -> Sequence[Head]:
        """All but the imputed outcomes and the nuisances of single folds."""
        names = ("direct", "propensity", "cart_direct", "transition", "r1", "r0")
        return [head for head in self.heads if head.name in names]

    def tasks(self, logits: Tensors) -> Tensors:
        """Adds the logit of the transition."""
        return {**logits, "transition": to_logit(self.transition(logits))}

    def transition(self, logits: Tensors) -> Event:
        """The delayed purchase among clicks without a direct one: the arms' mixture, or a logit."""
        if "transition" in logits:
            return from_logit(logits["transition"])
        return transition_event(logits["propensity"], logits["r1"], logits["r0"])

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """See the module; with the transition also the diagnostics propensity, r1 and r0."""
        direct, transition = from_logit(logits["direct"]), self.transition(logits)
        cart = mixture(direct, from_logit(logits["cart_direct"]), from_logit(logits["propensity"]))
        outputs = {
            "p_direct": tf.exp(direct.yes),
            "p_cart": tf.exp(cart.yes),
            "p_delayed": tf.exp(both(complement(direct), transition).yes),
            "p_conversion": tf.exp(either(direct, transition).yes),
        }
        if self.config.transition:
            r1, r0 = tf.sigmoid(logits["r1"]), tf.sigmoid(logits["r0"])
            outputs |= {
                "cart_effect": r1 - r0,
                "propensity": tf.sigmoid(logits["propensity"]),
                "r1": r1,
                "r0": r0,
            }
        return outputs

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """BCE of direct and of cart, of delayed on all clicks, and the arms' risks.

        Cart's two heads are divided by all clicks: together they are the likelihood of A given D,
        in which the few buyers do not outweigh all others.
        """
        losses = super().head_losses(logits, labels)
        delayed = both(complement(from_logit(logits["direct"])), self.transition(logits))
        losses["delayed"] = entire_space_loss(labels["delayed"], delayed)
        return losses | transition_losses(self.heads, logits, labels, self.config.propensity_clip)
