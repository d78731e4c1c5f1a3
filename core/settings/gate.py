"""Settings of the gate between a trained model and its publication."""

from typing import Literal

from pydantic import Field, model_validator

from cmdcm.core.settings.base import Section


class GateBounds(Section):
    """Bounds of a head's metrics; 0 for no bound.

    Attributes:
        max_log_loss: Largest log loss.
        max_normalised_entropy: Largest log loss as a share of the best constant's.
        min_auc: Smallest AUC.
        min_pcoc: Smallest ratio of predicted to observed positives.
        max_pcoc: Largest ratio of them.
        max_log_loss_rise: Largest rise of the log loss over the serving model's, as a share of it.
        max_auc_drop: Largest drop of the AUC below the serving model's.
    """

    max_log_loss: float = Field(0.0, ge=0)
    max_normalised_entropy: float = Field(1.0, ge=0)
    min_auc: float = Field(0.5, ge=0, le=1)
    min_pcoc: float = Field(0.95, ge=0)
    max_pcoc: float = Field(1.05, ge=0)
    max_log_loss_rise: float = Field(0.01, ge=0)
    max_auc_drop: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "GateBounds":
        if self.max_pcoc and self.min_pcoc > self.max_pcoc:
            raise ValueError("min_pcoc should be at most max_pcoc")
        return self


class SliceBounds(GateBounds):
    """Bounds of a head's metrics in a slice: the same, with defaults for fewer clicks."""

    max_normalised_entropy: float = Field(0.0, ge=0)
    min_pcoc: float = Field(0.8, ge=0)
    max_pcoc: float = Field(1.25, ge=0)
    max_log_loss_rise: float = Field(0.05, ge=0)
    max_auc_drop: float = Field(0.05, ge=0, le=1)


Unclear = Literal["estimate", "pass", "fail"]


class GateConfig(Section):
    """What a model has to keep to be published (docs/gate.md).

    Attributes:
        heads: Heads that are judged, where the model has them.
        overall: Bounds of every head on all test clicks.
        by_head: Head -> its bounds on all test clicks, in place of `overall`.
        slices: Bounds of every head in every slice.
        slice_columns: Columns whose values make the slices, where the examples have them:
            `day`, `promotion`, `new_users` (with and without earlier events), or any scalar input.
        max_slices: Values of a column that are judged, those with the most clicks.
        min_positives: A head with fewer positives or negatives on all test clicks is refused; a
            slice with fewer is not judged.
        unclear: Decides on all test clicks where an interval reaches over a bound: the `estimate`,
            or `pass`, or `fail`.
        unclear_slices: Decides so in slices; what is not refused is a warning.
        max_psi: Largest population stability index of a head's scores against the serving model's,
            on the same clicks; 0 for no bound.
        max_size_mb: Largest SavedModel; 0 for no bound.
        max_latency_ms: Longest median time of the largest warm-up request; 0 for no bound.
        latency_requests: Requests that are timed.
        min_effective_rows: Smallest effective sample size of either arm under inverse weights.
        max_clipped_share: Largest share of an arm's clicks with a clipped weight.
    """

    heads: tuple[str, ...] = ("conversion", "direct", "delayed", "cart")
    overall: GateBounds = GateBounds()
    by_head: dict[str, GateBounds] = Field({})
    slices: SliceBounds = SliceBounds()
    slice_columns: tuple[str, ...] = (
        "day",
        "promotion",
        "promotion_kind",
        "category_id",
        "campaign_id",
        "new_users",
    )
    max_slices: int = Field(20, ge=1)
    min_positives: int = Field(50, ge=1)
    unclear: Unclear = "estimate"
    unclear_slices: Unclear = "pass"
    max_psi: float = Field(0.25, ge=0)
    max_size_mb: float = Field(4096.0, ge=0)
    max_latency_ms: float = Field(200.0, ge=0)
    latency_requests: int = Field(30, ge=5)
    min_effective_rows: float = Field(50.0, ge=0)
    max_clipped_share: float = Field(0.5, ge=0, le=1)
