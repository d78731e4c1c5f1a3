"""Settings of the network."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from cmdcm.core.settings.base import Section

DelayedFeedback = Literal[
    "as_observed",
    "dfm",
    "fnw",
    "fnc",
    "fsiw",
    "es_dfm",
    "defer",
    "defuse",
    "ulc",
]
"""The models that train on a stream (`cmdcm.model.delayed`), known without loading TensorFlow."""


class ModelConfig(Section):
    """The network.

    Attributes:
        name: The model, one of the map in docs/models.md.
        embedding_dim: Columns of every embedding table.
        sequence_encoder: How behaviour sequences meet the candidate: `target_attention`, `din`,
            `mean_pooling`, `lrea` (low-rank, for long ones) or `srn` (soft retargeting).
        attention_units: Hidden units of the sequence encoder.
        sequence_rank: Rank to which `lrea` compresses a sequence's length.
        attention_penalty: Weight of `lrea`'s penalty on negative attention.
        cross_layers: DCN-v2 cross layers of the trunk.
        cross_rank: Rank of the cross layers' weight matrix.
        trunk_units: Hidden units of the trunk's MLP, or of its experts.
        bottom: What lies between the inputs and the towers: one MLP that all heads share, `mmoe`
            or `ple`.
        experts: Experts that all heads see; of `ple`, in each level.
        head_experts: Of `ple`, experts of each head in each level.
        tower_units: Hidden units of each head's tower.
        gate: Personalised gating of the towers (CM-DCM's second module).
        gate_units: Hidden units of each gate.
        transition: Counterfactual transition (CM-DCM's third module); without it one head
            predicts delayed conversion directly.
        estimator: Risk of the potential-outcome heads.
        cross_fit_folds: With K > 1, `dr` takes the nuisances of each user from towers that were
            trained on the other K - 1 folds of users; 1 trains one set of them on all.
        propensity_clip: Lower bound of P(arm | x) in the weights; `overlap` needs none.
        transition_weight: Weight of the potential-outcome risks in the loss.
        counterfactual_weight: Of DCMT: weight of its counterfactual prior.
        effect_modifiers: Numeric inputs that the potential-outcome heads are linear in, a marginal
            structural model; the delayed purchase then has a head of its own. Empty for heads over
            all inputs.
        horizon: Whether the logit of a direct purchase has an offset for the time that is left
            until the promotion (`model/horizon.py`).
        l2_embeddings: L2 penalty on the embedding rows that a batch looks up.
        waiting_hours: Of delayed-feedback models: how long a stream waits for the conversion of a
            click before the click is trained on (docs/streaming.md).
        delayed_label: Of delayed-feedback models: the label whose delay counts.
        weight_cap: Of delayed-feedback models: the largest weight of an entry of a stream.
    """

    name: Literal[
        "cmdcm",
        "vanilla",
        "single_task",
        "shared_bottom",
        "mmoe",
        "ple",
        "pepnet",
        "esmm",
        "esm2",
        "hm3",
        "escm2_ips",
        "escm2_dr",
        "dcmt",
        "hdr",
        DelayedFeedback,
        "ecad",
    ] = "cmdcm"
    embedding_dim: int = Field(8, ge=1)
    sequence_encoder: Literal["target_attention", "din", "mean_pooling", "lrea", "srn"] = (
        "target_attention"
    )
    attention_units: int = Field(16, ge=1)
    sequence_rank: int = Field(8, ge=1)
    attention_penalty: float = Field(0.1, ge=0)
    cross_layers: int = Field(2, ge=0)
    cross_rank: int = Field(32, ge=1)
    trunk_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1)
    bottom: Literal["shared", "mmoe", "ple"] = "shared"
    experts: int = Field(4, ge=1)
    head_experts: int = Field(1, ge=1)
    tower_units: tuple[PositiveInt, ...] = (32,)
    gate: bool = True
    gate_units: int = Field(32, ge=1)
    transition: bool = True
    estimator: Literal["naive", "ipw", "snipw", "overlap", "dr"] = "snipw"
    cross_fit_folds: int = Field(1, ge=1, le=10)
    propensity_clip: float = Field(0.03, gt=0, lt=0.5)
    transition_weight: float = Field(0.2, ge=0)
    counterfactual_weight: float = Field(0.001, ge=0)
    effect_modifiers: tuple[str, ...] = ()
    horizon: bool = True
    l2_embeddings: float = Field(1e-4, ge=0)
    waiting_hours: float = Field(24.0, ge=0)
    delayed_label: Literal["conversion", "direct"] = "conversion"
    weight_cap: float = Field(10.0, ge=1)

    before: ClassVar[Mapping[str, Any]] = {"horizon": False}

    @property
    def delayed_feedback(self) -> bool:
        """Whether the model can train on a stream of clicks whose labels are not final."""
        return self.name in get_args(DelayedFeedback)

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.name in ("mmoe", "ple", "hdr") and self.bottom not in ("shared", self.name):
            raise ValueError(
                f"name = {self.name!r} has a bottom of its own and no bottom = {self.bottom!r}; "
                "take name = 'shared_bottom' to choose one"
            )
        if self.cross_fit_folds > 1 and self.estimator != "dr":
            raise ValueError(
                f"cross_fit_folds = {self.cross_fit_folds} needs estimator = 'dr', not "
                f"{self.estimator!r}: no other estimator has nuisances to cross-fit"
            )
        if self.effect_modifiers and not self.transition:
            raise ValueError(
                "effect_modifiers need transition = true: without it no head is of an arm"
            )
        if len(set(self.effect_modifiers)) < len(self.effect_modifiers):
            raise ValueError(f"effect_modifiers {list(self.effect_modifiers)} name an input twice")
        return self
