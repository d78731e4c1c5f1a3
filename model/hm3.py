"""HM3-style model of micro and macro behaviours between click and purchase.

Wen et al., SIGIR 2021. Micro behaviours are what one does on the page of the item (reviews, images,
size chart), macro ones lead on from it (cart). Over all impressions, with six probabilities:

    y1 click     y2 micro given click     y3, y4 macro given micro, given none
    y5, y6 purchase given macro, given none     a = y2 y3 + (1 - y2) y4

    BCE on each of y1, y1 y2, y1 a and y1 (a y5 + (1 - a) y6)

Carried over to the promotion as in `model/esm2.py`: the first step is *not bought directly*,
y1 = 1 - d; M is the label `micro`, which `labels.micro` adds to the examples; the macro behaviour
is the cart, so that a is the propensity e; and y5, y6 are r1, r0, of the delayed purchase. y3 = y4
is the model `esm2`.
"""

from collections.abc import Sequence

from cmdcm.model.about import About
from cmdcm.model.esm2 import ESM2
from cmdcm.model.heads import Head, HeadLoss, entire_space_loss
from cmdcm.model.inputs import Tensors
from cmdcm.model.probability import Event, both, complement, from_logit, mixture, to_logit


class HM3(ESM2):
    """ESM2 with a micro behaviour before the cart."""

    about = About(
        family="multi-task",
        source="Wen et al., SIGIR 2021, arXiv 2104.09713",
        equation="as `esm2`, with e = m y3 + (1 - m) y4 and a BCE on (1 - d) m",
        assumes="as `esm2`; a log with micro behaviours, and `labels.micro = true`",
        use="where carts are rare and page behaviour is logged",
    )

    def cart_heads(self) -> Sequence[Head]:
        """y2, y3 and y4."""
        return [
            Head("micro", "micro", "not_direct", estimator="entire_space"),
            Head("cart_micro", "cart", "micro", estimator="entire_space"),
            Head("cart_no_micro", "cart", "no_micro", estimator="entire_space"),
        ]

    def cart(self, logits: Tensors) -> Event:
        """The paper's a, or its logit where a calibration has mapped it."""
        if "propensity" in logits:
            return from_logit(logits["propensity"])
        with_micro, without = (from_logit(logits[n]) for n in ("cart_micro", "cart_no_micro"))
        return mixture(from_logit(logits["micro"]), with_micro, without)

    def tasks(self, logits: Tensors) -> Tensors:
        """Adds the logits of the cart and of the transition."""
        return {**super().tasks(logits), "propensity": to_logit(self.cart(logits))}

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """ESM2's, and the BCE of the micro behaviour without a direct purchase, on all clicks."""
        not_direct = complement(from_logit(logits["direct"]))
        losses = super().head_losses(logits, labels)
        losses["micro"] = entire_space_loss(
            labels["micro"] * (1.0 - labels["direct"]),
            both(not_direct, from_logit(logits["micro"])),
        )
        return losses
