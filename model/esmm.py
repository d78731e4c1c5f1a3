"""ESMM-style multi-task baseline: products of probabilities over the entire space of clicks.

After Ma et al., SIGIR 2018 (pCTCVR = pCTR * pCVR), carried to the pre-promotion window, where the
first step is "no direct purchase" and the second the delayed purchase:

    p_delayed = (1 - p_direct) * P(L | D = 0)

Each probability has a BCE on all clicks; towers share the trunk, without gate and without
transition.
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.about import About
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head, HeadLoss, entire_space_loss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import Event, from_logit
from cmdcm.model.promotion_events import promotion_events


class ESMM(RankingModel):
    """Entire-space multi-task model of direct, cart and delayed."""

    about = About(
        family="multi-task",
        source="Ma et al., SIGIR 2018, arXiv 1804.07931",
        equation="p_delayed = (1 - d) l, a BCE on all clicks",
        assumes="the first step is *not bought directly*, in place of the click of an impression",
        use="as the plain entire-space reference",
    )

    def make_heads(self) -> Sequence[Head]:
        """Direct, cart, and delayed among clicks without a direct purchase."""
        return [
            Head("direct", "direct"),
            Head("cart", "cart"),
            Head("delayed_given_not_direct", "delayed", "not_direct", estimator="entire_space"),
        ]

    def events(self, logits: Tensors) -> dict[str, Event]:
        """The entire-space events that the losses are taken on, by label."""
        return promotion_events(
            *(from_logit(logits[n]) for n in ("direct", "cart", "delayed_given_not_direct"))
        )

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """All four probabilities."""
        return {f"p_{name}": tf.exp(event.yes) for name, event in self.events(logits).items()}

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """BCE of direct, cart and delayed, each on all clicks."""
        delayed = self.events(logits)["delayed"]
        return super().head_losses(logits, labels) | {
            "delayed": entire_space_loss(labels["delayed"], delayed)
        }
