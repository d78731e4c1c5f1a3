"""ECAD, effective conversion with refunds (CIKM 2023): conversion, then refund or not.

What counts for a shop is the conversion that is not taken back:

    p_effective = p_conversion (1 - r),    r = P(refunded | conversion)

Refunds are seen after purchases alone, which are few and no random sample. The paper therefore
learns both steps over the entire space of clicks, and so does this model:

    BCE(C, p_conversion) + BCE(C and refunded, p_conversion r)

The examples need the label `refunded` (`labels.refunded`), which is final only `labels.refund_days`
after the promotion: history has it. The paper's auxiliary tasks for a stream, in which conversion
and refund are both late, are not built here; this model trains on history.
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.about import About
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head, HeadLoss, entire_space_loss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import Event, both, complement, from_logit


class ECAD(RankingModel):
    """Conversion, and refund of a conversion, over all clicks."""

    about = About(
        family="delayed feedback",
        source="ECAD, CIKM 2023; without its auxiliary tasks for streams",
        equation="p_effective = p_conversion (1 - r), BCE of C and of C with refund on all clicks",
        assumes="refunds are final in the history; needs `labels.refunded`",
        use="where what is sent back should not count",
    )

    def make_heads(self) -> Sequence[Head]:
        """The conversion, and the refund of one."""
        return [
            Head("conversion", "conversion"),
            Head("refund", "refunded", "bought", estimator="entire_space"),
        ]

    def refunded(self, logits: Tensors) -> Event:
        """A conversion that is refunded, among all clicks."""
        return both(from_logit(logits["conversion"]), from_logit(logits["refund"]))

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """The conversion, the refunded one, and the one that stays."""
        conversion, refund = (from_logit(logits[name]) for name in ("conversion", "refund"))
        return {
            "p_conversion": tf.exp(conversion.yes),
            "p_refunded": tf.exp(self.refunded(logits).yes),
            "p_effective": tf.exp(both(conversion, complement(refund)).yes),
        }

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """BCE of the conversion and of the refunded conversion, each on all clicks."""
        refund = entire_space_loss(labels["refunded"], self.refunded(logits))
        return super().head_losses(logits, labels) | {"refund": refund}
