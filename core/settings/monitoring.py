"""Settings of the monitoring."""

from pydantic import Field, model_validator

from cmdcm.core.settings.base import Section


class MonitorConfig(Section):
    """What `cmdcm monitor` measures, and when its alerts fire (docs/monitoring.md).

    Attributes:
        match_minutes: A click belongs to the last score of its user and item that is at most so
            old.
        slices: Scalar inputs by whose values calibration is measured, besides hour and version.
        exclude: Inputs whose drift is not measured; those by default follow the calendar.
        min_rows: A slice with fewer labelled scores is left out.
        confidence: Of the intervals of PCOC.
        min_pcoc: Least PCOC of a head on the whole; an alert needs the whole interval below it.
        max_pcoc: Largest PCOC, likewise.
        slice_min_pcoc: Least PCOC of a head in a slice, likewise.
        slice_max_pcoc: Largest PCOC of a head in a slice, likewise.
        max_input_psi: Largest PSI of an input against the training data, above what chance gives.
        max_score_psi: Largest PSI of a score against the reference requests, likewise.
        max_null_rate_rise: Largest rise of an input's null rate over that of the training data.
        max_oov_rate: Largest share of an input's values that are not in its vocabulary.
        max_model_age_hours: Hours since a version that answers traffic was published.
        max_decision_age_hours: Hours since the retraining job last decided.
        max_event_age_hours: Hours from the log's last event to now.
        max_request_age_hours: Hours from the last logged request to now.
        max_unlabelled_share: Largest share of traffic that versions without a label answer.
        max_silence_hours: Hours without a run of the monitoring.
        max_failed_share: Largest share of the servers' answers that are errors.
        max_latency_ms: Largest 99th percentile of the servers' request latency.
    """

    match_minutes: float = Field(30.0, gt=0)
    slices: tuple[str, ...] = ("promotion_kind",)
    exclude: tuple[str, ...] = (
        "hours_to_promotion",
        "hour_of_day",
        "weekday",
        "promotion_kind",
    )
    min_rows: int = Field(200, ge=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    min_pcoc: float = Field(0.95, gt=0)
    max_pcoc: float = Field(1.05, gt=0)
    slice_min_pcoc: float = Field(0.8, gt=0)
    slice_max_pcoc: float = Field(1.25, gt=0)
    max_input_psi: float = Field(0.25, ge=0)
    max_score_psi: float = Field(0.2, ge=0)
    max_null_rate_rise: float = Field(0.05, ge=0, le=1)
    max_oov_rate: float = Field(0.05, ge=0, le=1)
    max_model_age_hours: float = Field(720.0, gt=0)
    max_decision_age_hours: float = Field(30.0, gt=0)
    max_event_age_hours: float = Field(6.0, gt=0)
    max_request_age_hours: float = Field(2.0, gt=0)
    max_unlabelled_share: float = Field(0.01, ge=0, le=1)
    max_silence_hours: float = Field(3.0, gt=0)
    max_failed_share: float = Field(0.001, ge=0, le=1)
    max_latency_ms: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "MonitorConfig":
        if self.min_pcoc > self.max_pcoc or self.slice_min_pcoc > self.slice_max_pcoc:
            raise ValueError("the least PCOC should not be above the largest")
        return self
