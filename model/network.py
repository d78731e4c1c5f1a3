"""The layers that all models share: inputs, behaviour sequences, trunk and towers.

    user side ------ encode ---- attention <---- encode ------ candidate side
                        |            |             |
                        +----- concatenation ------+
                                     |
                          DCN-v2 cross layers       (the trunk)
                                     |
                MLP, or a mixture of experts a head (its bottom)
                                     |
                      one tower a head, scaled by the gate

With effect modifiers (`model/modifiers.py`) two heads by-pass the trunk: they are linear in a few
of the encoded numbers.

Everything of the user is computed once a request: his batch is 1 or that of the candidates.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_recommenders as tfrs

from cmdcm.core.config import ModelConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.encoders.choose import make_encoder
from cmdcm.model.experts import Experts
from cmdcm.model.gating import PersonalisedGate
from cmdcm.model.inputs import Encoded, InputEncoder, Tensors
from cmdcm.model.modifiers import find_modifiers
from cmdcm.model.sequences import masked_mean


class Shared(NamedTuple):
    """What the heads read.

    Attributes:
        features: Shared features, [N, s]; of a bottom with experts, those of each head by name.
        prior: The user's behaviour prior, [N, p].
        modifiers: The effect modifiers, [N, m]; m is 0 without any.
        penalty: L2 penalty on the looked-up embeddings, [N]; None without one.
        attention: Penalty of the sequence encoders, [N]; None without one.
    """

    features: tf.Tensor | Mapping[str, tf.Tensor]
    prior: tf.Tensor
    modifiers: tf.Tensor
    penalty: tf.Tensor | None = None
    attention: tf.Tensor | None = None

    def of(self, head: str) -> "Shared":
        """Returns what a head reads, its own features in place of all heads', if it has any."""
        if isinstance(self.features, Mapping) and head in self.features:
            return self._replace(features=self.features[head])
        return self


class Trunk(tf.keras.layers.Layer):
    """Inputs -> shared features, by DCN-v2 (Wang et al., WWW 2021) followed by the bottom.

    The bottom is an MLP that all heads share or, with `bottom` of `mmoe` or `ple`, a mixture of
    experts for each head (`model/experts.py`).

    Args:
        spec: The features.
        config: The settings.
        heads: Names of the heads that read the shared features.
        bottom: Overrides `config.bottom` where the model is defined by its bottom.

    Attributes:
        prior_ids: The ids whose embeddings are the gates' prior; none for the user's behaviour.
        domain_inputs: The inputs that scale all others; none where nothing does.
    """

    prior_ids: tuple[str, ...] = ()
    domain_inputs: tuple[str, ...] = ()

    def __init__(
        self,
        spec: FeatureSpec,
        config: ModelConfig,
        heads: Sequence[str] = (),
        bottom: str | None = None,
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        self.encoder = InputEncoder(spec, config.embedding_dim, config.l2_embeddings)
        self.attention = {
            name: make_encoder(config, features[0].length, f"attention_{name}")
            for name, features in spec.sequences().items()
        }
        self.attention_penalty = config.attention_penalty
        self.cross = (
            tfrs.layers.feature_interaction.MultiLayerDCN(
                projection_dim=config.cross_rank, num_layers=config.cross_layers
            )
            if config.cross_layers
            else None
        )
        units = config.trunk_units
        self.mlp: Any = None
        self.experts: Experts | None = None
        match bottom or config.bottom:
            case "shared":
                self.mlp = tfrs.layers.blocks.MLP(list(units), final_activation="relu")
            case "mmoe":
                self.experts = Experts(heads, [units], config.experts, 0)
            case "ple":
                levels = [[n] for n in units]
                self.experts = Experts(heads, levels, config.experts, config.head_experts)
        self.modifiers = find_modifiers(spec, config.effect_modifiers)

    def call(self, user: Tensors, candidates: Tensors) -> Shared:
        """Computes the shared features of N candidates of one user or of N users."""
        of_user, of_candidate = self.encoder(user, candidates)
        rows = tf.shape(of_candidate.ids)[0]
        attended = [
            self.attention[name](of_candidate.target, keys, mask, ages)
            for name, (keys, mask, ages) in of_user.sequences.items()
        ]
        x = tf.concat(
            [
                match_rows(of_user.ids, rows),
                match_rows(of_user.numbers, rows),
                of_candidate.ids,
                of_candidate.numbers,
                *attended,
            ],
            axis=-1,
        )
        x = self.scale_inputs(x, of_user, of_candidate)
        if self.cross is not None:
            x = self.cross(x)
        modifiers = [match_rows(m.of(of_user, of_candidate), rows) for m in self.modifiers]
        penalties = [side.penalty for side in (of_user, of_candidate) if side.penalty is not None]
        return Shared(
            self.mlp(x) if self.experts is None else self.experts(x),
            match_rows(self.prior(of_user, of_candidate), rows),
            tf.concat([tf.zeros([rows, 0]), *modifiers], axis=-1),
            sum(penalties, start=tf.zeros([rows])) if penalties else None,
            self._attention_penalty(of_user, of_candidate),
        )

    def prior(self, user: Encoded, candidates: Encoded) -> tf.Tensor:
        """Returns the prior of the gates: the user's behaviour, [his batch, p].

        It is made of what only the user did - counters, rates, earlier promotions, the means of his
        sequences - and of the hours to the promotion; no id of his, so that it serves new users.
        """
        pooled = [masked_mean(keys, mask) for keys, mask, _ in user.sequences.values()]
        return tf.concat([user.numbers, *pooled], axis=-1)

    def scale_inputs(self, x: tf.Tensor, user: Encoded, candidates: Encoded) -> tf.Tensor:
        """Returns all inputs side by side, [N, d], as the network is to read them: as they are."""
        return x

    def _attention_penalty(self, user: Encoded, candidate: Encoded) -> tf.Tensor | None:
        if not self.attention_penalty:
            return None
        penalties = [
            self.attention[name].penalty(candidate.target, keys, mask, ages)
            for name, (keys, mask, ages) in user.sequences.items()
        ]
        there = [penalty for penalty in penalties if penalty is not None]
        return self.attention_penalty * tf.add_n(there) if there else None


class Tower(tf.keras.layers.Layer):
    """Shared features -> one logit, each hidden layer scaled by its gate if there is one."""

    def __init__(self, units: Sequence[int], gate_units: int | None, **kwargs: object):
        super().__init__(**kwargs)
        self.hidden = [tf.keras.layers.Dense(n, activation="relu") for n in units]
        self.gates = (
            [PersonalisedGate(n, gate_units) for n in units] if gate_units is not None else []
        )
        self.logit = tf.keras.layers.Dense(1)

    def call(self, shared: Shared) -> tf.Tensor:
        """Returns the logit, [N]."""
        x = shared.features
        for n, layer in enumerate(self.hidden):
            x = layer(x)
            if self.gates:
                x *= self.gates[n](shared.prior, shared.features)
        return tf.squeeze(self.logit(x), axis=-1)


class LinearTower(tf.keras.layers.Layer):
    """Effect modifiers -> one logit, linear; its risk is convex, so it may start at zero."""

    def __init__(self, **kwargs: object):
        super().__init__(**kwargs)
        self.logit = tf.keras.layers.Dense(1, kernel_initializer="zeros")

    def call(self, shared: Shared) -> tf.Tensor:
        """Returns the logit, [N]."""
        return tf.squeeze(self.logit(shared.modifiers), axis=-1)


def match_rows(user: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Repeats [1, d] to [rows, d]; [rows, d], also of rows that are not known yet, stays."""
    return tf.broadcast_to(user, [rows, user.shape[-1]]) if user.shape[0] == 1 else user
