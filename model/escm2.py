"""ESCM2: the entire-space model with a debiased risk of the last step (Wang et al., SIGIR 2022).

The paper's chain is impression -> click (o) -> purchase; q = sg(pCTR) is the propensity, delta the
BCE of pCVR and dh its imputed error, a head's output (unbounded: it is no probability). Over all
impressions:

    R_IPS = mean of o delta / q
    R_DR  = mean of dh + o (delta - dh) / q     and the imputation's mean of o (delta - dh)^2 / q

beside the BCE of pCTR and the global BCE of pCTCVR. Here the selecting event is the cart among
clicks without a direct purchase: o = A, q = e, and delta is the BCE of r1 against L. Unlike an
impression without a click, a click without a cart may lead to a purchase, so r0 has the same risk
with 1 - A and 1 - e, and the global term is BCE(L, p_delayed), p_delayed = (1 - d) (e r1 + (1 - e)
r0).

Both are right if q is; R_DR also has the right value if dh is. No gradient reaches q, nor dh from
R_DR, which is linear in it and would have no minimum, nor delta from the imputation. So the
gradient of R_DR for r1 is that of R_IPS: what the imputation changes is the value, and the shared
layers.
The pseudo-outcome of CM-DCM's `dr` (`model/transition.py`) is what makes the minimiser robust.
"""

from collections.abc import Sequence
from typing import ClassVar

from cmdcm.model.about import About
from cmdcm.model.cart_graph import CartGraph
from cmdcm.model.heads import Head
from cmdcm.model.transition import transition_heads


class ESCM2IPS(CartGraph):
    """Arms by inverse propensity scores."""

    about = About(
        family="causal",
        source="Wang et al., SIGIR 2022, arXiv 2204.05125",
        equation="r1, r0 by the mean of o delta / q, o the cart, q = sg(e)",
        assumes="for the effect: as `cmdcm`, and that e is right",
        use="as the causal reference; it is CM-DCM without gates, with `ipw`",
    )
    estimator: ClassVar[str] = "ipw"

    def arm_heads(self) -> Sequence[Head]:
        """The outcome heads and, for the doubly robust risk, the imputed errors."""
        return transition_heads(self.estimator, self.config.transition_weight)


class ESCM2DR(ESCM2IPS):
    """Arms by the doubly robust risk with an imputed error."""

    about = About(
        family="causal",
        source="Wang et al., SIGIR 2022, arXiv 2204.05125",
        equation="r1, r0 by the mean of dh + o (delta - dh) / q; dh by o (delta - dh)^2 / q",
        assumes="as `escm2_ips`; the risk's value is also right if dh is",
        use="as `escm2_ips`: their gradients for r1 and r0 agree",
    )
    estimator = "dr_error"
