"""Settings of the retraining job."""

from pydantic import Field

from cmdcm.core.settings.base import Section


class RetrainConfig(Section):
    """The retraining job before each promotion and during it (docs/retraining.md).

    Attributes:
        events: The event log: a directory, or a path with `{YYYY-MM-DD}`.
        work: Directory of the steps' results, the decisions and the lock.
        output: Base path of the served model.
        targets: gRPC addresses of all servers of the model, with `serving.model_config_file`; none
            for a job that publishes and leaves the roll-out to others.
        replay: TFRecords of PredictionLog, logged by servers: the canary is compared with stable on
            them (without any, on its warm-up requests), and their features with the examples'.
        warm_start: Start from the serving model's weights.
        max_missing_days: Days without an event, between the first one and the as-of instant, that
            are accepted.
        max_daily_ratio: Largest ratio, folded to 1 or more, of a day's rate of an event kind for
            each click to that kind's median rate over days of the same phase.
        min_daily_events: Days on which fewer events of a kind are expected are not compared, nor
            the prices of a day with fewer events.
        max_price_ratio: Largest ratio, folded, of a day's median price to the median over days.
        recent_days: The last days, which are checked so; older ones were, when they were recent.
        lock_hours: Hours after which another run may take a job's lock.
        deadline_hours: Hours that a job may take; then the serving model stays. 0 for no limit.
    """

    events: str = "out/events"
    work: str = "out/retrain"
    output: str = "out/serving/cmdcm"
    targets: tuple[str, ...] = ()
    replay: tuple[str, ...] = ()
    warm_start: bool = True
    max_missing_days: int = Field(0, ge=0)
    max_daily_ratio: float = Field(4.0, ge=1)
    min_daily_events: float = Field(30.0, gt=0)
    max_price_ratio: float = Field(2.0, ge=1)
    recent_days: int = Field(14, ge=1)
    lock_hours: float = Field(12.0, gt=0)
    deadline_hours: float = Field(0.0, ge=0)
