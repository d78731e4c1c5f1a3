"""Settings of the data: calendar, raw events, labels, features, checks, split."""

from typing import Literal

from pydantic import Field, model_validator

from cmdcm.core.settings.base import IsoTime, Section


class PromotionConfig(Section):
    """One promotion of one's own calendar; ISO dates or date-times in the calendar's zone."""

    name: str
    kind: str
    warmup_start: IsoTime
    pre_promotion_start: IsoTime
    promotion_start: IsoTime
    promotion_end: IsoTime


class CalendarConfig(Section):
    """Which promotions there are.

    Attributes:
        built_in: Name of a built-in calendar (`cmdcm.datasets.calendar.BUILT_IN`); ignored where
            `promotions` lists one's own.
        timezone: IANA time zone of one's own promotions.
        promotions: One's own promotions.
    """

    built_in: str = "china"
    timezone: str = "Asia/Shanghai"
    promotions: tuple[PromotionConfig, ...] = ()


class EventsConfig(Section):
    """How strictly raw logs are read.

    Attributes:
        max_rejected_share: Share of malformed rows above which an import fails.
        start: First instant that is kept (ISO, calendar zone); rows outside are dropped, counted.
        end: First instant that is no longer kept; empty for no bound.
        columns: For Parquet logs: contract column -> column of the file.
        kinds: For Parquet logs: value in the file -> event kind, or "" to leave such events out.
        require_time_order: Fail when a row is earlier than the one before it.
    """

    max_rejected_share: float = Field(0.01, ge=0, le=1)
    start: IsoTime = ""
    end: IsoTime = ""
    columns: dict[str, str] = Field({})
    kinds: dict[str, str] = Field({})
    require_time_order: bool = False


class LabelsConfig(Section):
    """How clicks are labelled.

    Attributes:
        intent: The event that opens the cart: `cart`, or `favourite` where carts are absent.
        attribute_to: What a click and the events that count for it share besides the user: the
            `item`, or its `seller` or `category`, which the log has to have.
        credit: Which clicks an event counts for: `every` earlier one, or the `last` alone.
        attribution_days: Direct purchases and intent events count up to so many days after the
            click.
        delayed_days: Purchases on the promotion days count up to so many days after the click; 0
            for no limit.
        refunds: Whether refunds `cancel` purchases or labels `ignore` them.
        refund_days: A refund cancels a purchase up to so many days after it.
        values: Add labels of how many pieces, and of what price, the purchases were.
        micro: Add the label `micro`: a micro behaviour after the click, as the intent event.
        refunded: Add the label `refunded`: all purchases of a conversion are taken back; needs
            `refunds` = `ignore`, and delays the examples by `refund_days`.
        dedup_seconds: A click less than so many seconds after another one of the same user and
            item makes no example; 0 keeps all clicks.
        observed_until: End of what the log shows (ISO, calendar zone, exclusive); empty for the
            end of the last event's day. Clicks whose labels are not known by then are left out.
    """

    intent: Literal["cart", "favourite"] = "cart"
    attribute_to: Literal["item", "seller", "category"] = "item"
    credit: Literal["every", "last"] = "every"
    attribution_days: float = Field(30.0, gt=0)
    delayed_days: float = Field(0.0, ge=0)
    refunds: Literal["ignore", "cancel"] = "ignore"
    refund_days: float = Field(30.0, gt=0)
    values: bool = False
    micro: bool = False
    refunded: bool = False
    dedup_seconds: int = Field(0, ge=0)
    observed_until: IsoTime = ""

    @model_validator(mode="after")
    def _check(self) -> "LabelsConfig":
        if self.refunded and self.refunds != "ignore":
            raise ValueError(
                f"refunded needs refunds = 'ignore', since of purchases that refunds "
                f"{self.refunds} none is left to be refunded"
            )
        return self


class FeaturesConfig(Section):
    """How raw events become examples.

    Attributes:
        windows_hours: Look-back windows of the counters, in hours; the time since the
            pre-promotion window opened is always added as the last window.
        count_kinds: Event kinds that are counted.
        max_events_per_hour: A user with more events than this in a clock hour (UTC) is taken for a
            bot from that hour on; 0 for no limit.
        clicked_length: Last clicked items that are kept.
        intent_length: Last favourites, carts and purchases that are kept, each.
        user_buckets: Rows of the user embedding table; 0 chooses by the number of ids.
        item_buckets: Rows of the item embedding table; 0 chooses by the number of ids.
        category_buckets: Rows of the category embedding table; 0 chooses by the number of ids.
        seller_buckets: Rows of the seller embedding table; 0 chooses by the number of ids.
        brand_buckets: Rows of the brand embedding table; 0 chooses by the number of ids.
        max_collision_rate: Where buckets are chosen: expected share of the distinct ids that find
            their row taken.
        partitions: User partitions of the run; 0 chooses by the log's size.
        modules: Python modules with features of one's own (docs/features.md).
        rows_per_partition: The most events of a partition, about, when `partitions` is 0.
        memory_gib: Memory that the local runner may use; it bounds the partitions that are built
            at a time, and does not change the result.
        workers: Partitions that are built at a time where memory allows; 0 for one a core.
        gzip: Compress the TFRecord shards.
    """

    windows_hours: tuple[int, ...] = (1, 24, 72, 168, 720)
    count_kinds: tuple[str, ...] = ("click", "favourite", "cart", "purchase")
    max_events_per_hour: int = Field(0, ge=0)
    clicked_length: int = Field(50, ge=1)
    intent_length: int = Field(20, ge=1)
    user_buckets: int = Field(100_000, ge=0)
    item_buckets: int = Field(100_000, ge=0)
    category_buckets: int = Field(10_000, ge=0)
    seller_buckets: int = Field(20_000, ge=0)
    brand_buckets: int = Field(20_000, ge=0)
    max_collision_rate: float = Field(0.2, gt=0, lt=1)
    partitions: int = Field(0, ge=0)
    modules: tuple[str, ...] = ()
    rows_per_partition: int = Field(500_000, ge=1)
    memory_gib: float = Field(4.0, gt=0)
    workers: int = Field(0, ge=0)
    gzip: bool = False

    @model_validator(mode="after")
    def _check(self) -> "FeaturesConfig":
        if list(self.windows_hours) != sorted(set(self.windows_hours)) or not self.windows_hours:
            raise ValueError("windows_hours should be increasing")
        if self.windows_hours[0] < 1:
            raise ValueError("windows_hours should be at least one hour each")
        return self


class ValidationConfig(Section):
    """What `cmdcm validate` accepts (docs/validation.md); a bound itself is still accepted.

    Attributes:
        sample_rows: Rows that are read for leakage and maturity; and of logged requests.
        min_count: Distributions with fewer values on either side are not compared.
        min_positives: A label with fewer positives or negatives has no AUC and no prevalence.
        max_null_rate: Share of rows without a value.
        max_null_rate_change: Change of that share against another data set.
        min_vocabulary_coverage: Share of values that are in the vocabulary.
        max_coverage_change: Change of that share against another data set.
        max_top_values_change: Change of the share of values that the other data set's most
            frequent values have.
        max_hash_collision_rate: Expected share of distinct ids lost to collisions.
        max_linf_drift: L-infinity distance of a categorical distribution to another data set's.
        max_js_drift: Jensen-Shannon divergence of a numeric distribution from another data set's.
        max_linf_skew: As `max_linf_drift`, of logged requests.
        max_js_skew: As `max_js_drift`, of logged requests.
        max_auc: AUC of a single feature against a label; 1 - AUC has the same bound.
        max_immature_direct: Share of rows whose direct label is not known yet.
        max_immature_delayed: Share of rows whose delayed label is not known yet.
        max_prevalence_ratio: Ratio, folded to 1 or more, of a label's prevalence to that of another
            data set, or of another part of the split.
        severity: Code of an anomaly -> its severity, where it is not the default one.
        exclude: Features that are not checked, as `feature`, or as `code:feature` for one check.
    """

    sample_rows: int = Field(100_000, ge=1)
    min_count: int = Field(1_000, ge=1)
    min_positives: int = Field(50, ge=1)
    max_null_rate: float = Field(0.5, ge=0, le=1)
    max_null_rate_change: float = Field(0.1, ge=0, le=1)
    min_vocabulary_coverage: float = Field(0.99, ge=0, le=1)
    max_coverage_change: float = Field(0.05, ge=0, le=1)
    max_top_values_change: float = Field(0.2, ge=0, le=1)
    max_hash_collision_rate: float = Field(0.3, ge=0, le=1)
    max_linf_drift: float = Field(0.1, ge=0, le=1)
    max_js_drift: float = Field(0.1, ge=0, le=1)
    max_linf_skew: float = Field(0.1, ge=0, le=1)
    max_js_skew: float = Field(0.1, ge=0, le=1)
    max_auc: float = Field(0.95, ge=0.5, le=1)
    max_immature_direct: float = Field(0.0, ge=0, le=1)
    max_immature_delayed: float = Field(0.0, ge=0, le=1)
    max_prevalence_ratio: float = Field(2.0, ge=1)
    severity: dict[str, Literal["error", "warning", "off"]] = Field({})
    exclude: tuple[str, ...] = ()


class SplitConfig(Section):
    """Which examples train, validate and test; always in the order of time.

    Attributes:
        by: `promotion` (whole promotions), `time` (days of one promotion's window), or `auto`:
            by promotion when there are at least three with examples, else by time.
        test: Names of the test promotions; empty for the last one.
        validation: Names of the validation promotions; empty for the last one before `test`.
        windows: By promotion: train on the last so many promotions before those that validate; 0
            for all.
        validation_share: By time: share of the window's days that validate.
        test_share: By time: share of the window's days that test, the last ones.
    """

    by: Literal["auto", "promotion", "time"] = "auto"
    test: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    windows: int = Field(0, ge=0)
    validation_share: float = Field(0.2, gt=0, lt=0.5)
    test_share: float = Field(0.3, gt=0, lt=0.5)
