"""PEPNet: embeddings gated by the domain, towers gated by the person (Chang et al., KDD 2023).

    EPNet   O = E * 2 sigmoid(V relu(W [domain; sg(E)]))
    PPNet   h <- h * 2 sigmoid(V' relu(W' [person; sg(s)]))     a gate a layer and task

E are all inputs of the network side by side. The domain is the moment of the request: kind of the
coming promotion, hours to it, hour and day of the week. The person is made of the embeddings of the
user, of the item and of its seller where the log has one, the paper's user, item and author.

Three things differ from the paper. The gates start at exactly 1 (`model/gating.py`). Between O and
the towers lies the bottom that all models here share, and PPNet's gates read its features s, not O.
And the numbers among the inputs are gated as the embeddings are.

CM-DCM's gates are PPNet's with another prior: what the user did, without ids.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from cmdcm.core.config import ModelConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.about import About
from cmdcm.model.gating import PersonalisedGate
from cmdcm.model.input_columns import input_columns
from cmdcm.model.inputs import Encoded, id_columns, number_columns
from cmdcm.model.network import Trunk, match_rows
from cmdcm.model.shared_bottom import SharedBottom

PERSON = ("user_id", "item_id", "seller_id")
"""The inputs whose embeddings are the person's prior."""


class GatedTrunk(Trunk):
    """The trunk over inputs that are gated by the domain; the prior of the towers' gates are ids.

    `domain_inputs` are the inputs of the request's moment, `prior_ids` those of the person.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: ModelConfig,
        heads: Sequence[str],
        bottom: str | None = None,
        **kwargs: object,
    ):
        super().__init__(spec, config, heads, bottom, **kwargs)
        self.domain_inputs = tuple(feature.name for feature in spec.of("context"))
        self.prior_ids = PERSON
        self.domain_gate = PersonalisedGate(len(input_columns(self).trunk), config.gate_units)

    def prior(self, user: Encoded, candidates: Encoded) -> tf.Tensor:
        """Returns the embeddings of user, item and seller, [N, p]."""
        rows = tf.shape(candidates.ids)[0]
        spec, dim = self.encoder.spec, self.encoder.dim
        of_user = _chosen(user.ids, id_columns(spec.user_inputs, dim), self.prior_ids)
        of_item = _chosen(candidates.ids, id_columns(spec.candidate_inputs, dim), self.prior_ids)
        return tf.concat([*(match_rows(part, rows) for part in of_user), *of_item], axis=-1)

    def scale_inputs(self, x: tf.Tensor, user: Encoded, candidates: Encoded) -> tf.Tensor:
        """EPNet: returns the inputs, [N, d], scaled by the gate of the domain."""
        inputs = self.encoder.spec.user_inputs
        ids = _chosen(user.ids, id_columns(inputs, self.encoder.dim), self.domain_inputs)
        numbers = _chosen(user.numbers, number_columns(inputs), self.domain_inputs)
        domain = match_rows(tf.concat([*ids, *numbers], axis=-1), tf.shape(x)[0])
        return x * self.domain_gate(domain, x)


class PEPNet(SharedBottom):
    """Four independent heads over gated inputs, in gated towers."""

    about = About(
        family="multi-task",
        source="Chang et al., KDD 2023, arXiv 2302.01115",
        equation="inputs and hidden units times 2 sigmoid(gate of the domain, of the person)",
        assumes="as `shared_bottom`; inputs weigh differently by promotion and person",
        use="where several kinds of promotions share one model",
        cost="a gate as wide as the inputs, a gate a layer and head; no short cut",
    )
    gated = True

    def make_trunk(self, heads: Sequence[str]) -> Trunk:
        """The trunk with EPNet's gate and the person as prior."""
        return GatedTrunk(self.spec, self.config, heads, name="trunk")


def _chosen(
    values: tf.Tensor, columns: Mapping[str, slice], names: Sequence[str]
) -> list[tf.Tensor]:
    """Returns the columns of the named inputs, in the order in which they stand."""
    return [values[:, at] for name, at in columns.items() if name in names]
