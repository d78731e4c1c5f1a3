"""Settings of the evaluation and of the simulated experiment."""

from typing import Literal

from pydantic import Field, model_validator

from cmdcm.core.settings.base import Section


class EvaluationConfig(Section):
    """How a model is evaluated.

    Attributes:
        bootstrap: Replicates of the user-clustered bootstrap.
        confidence: Level of the intervals.
        calibration_bins: Bins of the expected calibration error and the calibration curves.
        min_slice_rows: Slices with fewer rows are left out of the report.
        correction: How p-values are corrected for the number of comparisons in a table.
        propensity_clip: Lower bound of P(arm | x) in the causal summary's weights; 0 for the
            model's own.
        targeting_folds: With K > 1, targeting is cross-fitted over K folds of users.
        balance_covariates: Numeric inputs whose balance is shown; empty for all.
        sensitivity: Sensitivity bounds: `sharp`, which are doubly robust, or `hajek`, which need
            the propensity alone.
        lambdas: Odds ratios of the sensitivity bounds.
    """

    bootstrap: int = Field(200, ge=10)
    confidence: float = Field(0.95, gt=0, lt=1)
    calibration_bins: int = Field(10, ge=2)
    min_slice_rows: int = Field(100, ge=1)
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    propensity_clip: float = Field(0.0, ge=0, lt=0.5)
    targeting_folds: int = Field(1, ge=1)
    balance_covariates: tuple[str, ...] = ()
    sensitivity: Literal["sharp", "hajek"] = "sharp"
    lambdas: tuple[float, ...] = Field((1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0), min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "EvaluationConfig":
        if list(self.lambdas) != sorted(set(self.lambdas)) or self.lambdas[0] < 1:
            raise ValueError("lambdas should be increasing and at least 1")
        return self


class AbtestConfig(Section):
    """The simulated online experiment (docs/abtest.md).

    Attributes:
        requests: Requests to replay; users for whom too few items are left give fewer.
        candidates: Items that bid in each request.
        slots: Items that a request shows.
        bid_share: Mean bid for a conversion, as a share of the item's price.
        bid_spread: Standard deviation of the logarithm of the items' bids.
        promotion: Promotion in whose pre-promotion window to replay; empty for the last one.
        days: Days of the window to replay, the last ones; 0 for all that no model was trained on.
    """

    requests: int = Field(20_000, ge=1)
    candidates: int = Field(20, ge=2)
    slots: int = Field(4, ge=1)
    bid_share: float = Field(0.1, gt=0, le=1)
    bid_spread: float = Field(0.5, ge=0, le=3)
    promotion: str = ""
    days: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "AbtestConfig":
        if self.slots >= self.candidates:
            raise ValueError("slots should be fewer than candidates")
        return self
