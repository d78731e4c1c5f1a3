"""Effect modifiers: the few numeric inputs that a marginal structural model of the effect reads.

With `model.effect_modifiers` the outcome heads r1 and r0 are no towers over the shared features but

    logit r_a(v) = b_a + c_a . v

with v the named inputs as the encoder gives them, standardised. It is a marginal structural model
(Robins, Hernan and Brumback, Epidemiology 2000): "marginal" over all that is not in V. Trained with
the weights 1[A = a] / P(A = a | x) of *all* inputs x, it estimates the best fit of this form to

    E[L(a) | D = 0, V = v]

although the confounders outside V are left out of it; `naive` fits E[L | A = a, D = 0, V = v],
which is another thing where what is left out moves both carting and buying. One coefficient an
input and arm says how the effect of carting changes with it.

The mixture e(x) r1(v) + (1 - e(x)) r0(v) is not P(L | D = 0, x), so the delayed purchase has a head
of its own, `transition`, and its likelihood does not train r1 and r0. Neither do they train any
shared layer: the inputs carry no gradient, and the scales are constants.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.inputs import Encoded, number_columns


class Modifier(NamedTuple):
    """Where an input stands: its side, and its columns among `Encoded.numbers` of that side."""

    side: Literal["user", "candidate"]
    columns: slice

    def of(self, user: Encoded, candidates: Encoded) -> tf.Tensor:
        """The input's standardised values, [batch of its side, columns]; no gradient flows back."""
        encoded = user if self.side == "user" else candidates
        return tf.stop_gradient(encoded.numbers[:, self.columns])


def find_modifiers(spec: FeatureSpec, names: Sequence[str]) -> tuple[Modifier, ...]:
    """Finds the named inputs among the encoded numbers, in the order of `names`.

    Args:
        spec: The features.
        names: Numeric inputs: scalars or vectors whose encoding is `log1p` or `raw`.

    Raises:
        ConfigError: A name that is no input, or one that is not numeric.
    """
    user, candidate = (number_columns(s) for s in (spec.user_inputs, spec.candidate_inputs))
    modifiers = []
    for name in names:
        if name in user:
            modifiers.append(Modifier("user", user[name]))
        elif name in candidate:
            modifiers.append(Modifier("candidate", candidate[name]))
        else:
            known = name in {feature.name for feature in spec.inputs}
            fault = f"is no number but {spec[name].encoding!r}" if known else "is no input"
            raise ConfigError(
                f"model.effect_modifiers: {name!r} {fault}; the numeric inputs are "
                f"{[*user, *candidate]}"
            )
    return tuple(modifiers)
