"""CM-DCM: multi-task heads, personalised gating and the counterfactual transition together.

Its predictions are those of the behaviour graph with the cart in it (`model/cart_graph.py`):

    p_delayed    = (1 - d) (e r1 + (1 - e) r0)
    p_conversion = p_direct + p_delayed <= 1, by construction

The paper is arXiv 2604.21675, of which only the abstract and the captions are public; each module's
construction is ours and a setting (`gate`, `transition`, `estimator`). Without `transition` one
head predicts the delayed purchase among clicks without a direct one. So it does with
`effect_modifiers`, where r1 and r0 are linear in a few inputs and answer the causal question alone
(`model/modifiers.py`).
"""

from collections.abc import Sequence

from cmdcm.model.about import About
from cmdcm.model.cart_graph import TRANSITION, CartGraph
from cmdcm.model.heads import Head
from cmdcm.model.transition import transition_heads


class CMDCM(CartGraph):
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

    def arm_heads(self) -> Sequence[Head]:
        """The outcome heads of both arms, with what their estimator needs; or the transition."""
        config = self.config
        if not config.transition:
            return [TRANSITION]
        linear = bool(config.effect_modifiers)
        arms = transition_heads(
            config.estimator, config.transition_weight, config.cross_fit_folds, linear
        )
        return [TRANSITION, *arms] if linear else arms
