"""Contract 5, the configuration: typed, frozen, validated at construction.

One TOML file configures a whole run; each table of it is one class below. A named preset
(`core/presets/NAME.toml`) gives the start, a file overrides it, `--set key=value` overrides both.
Every artefact carries the configuration that made it as `config.json`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from cmdcm.core.errors import ConfigError
from cmdcm.core.files import read_json, write_json

PRESETS = Path(__file__).parent / "presets"

IsoTime = Annotated[
    str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)
]
"""An ISO date or date-time, written as a string or as one of TOML's own dates."""


_IMAGE = r"^[a-z0-9][A-Za-z0-9._/:@-]*$"
_DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class Section(BaseModel):
    """Base of all tables: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    columns: dict[str, str] = {}
    kinds: dict[str, str] = {}
    require_time_order: bool = False


class SimulateConfig(Section):
    """The simulated world (docs/simulator.md).

    Rates are those of clicks in pre-promotion windows, if not said otherwise.

    Attributes:
        events: About how many events to draw.
        first_year: First of the simulated years.
        years: How many years.
        start: First instant of the period (ISO, calendar zone), in place of whole years.
        end: First instant after it.
        log_start: First instant that the log shows, where that is later than the start.
        promotions: Kinds of promotion in each year; none for the promotions of the section
            `calendar` that lie in the period.
        daily_traffic: Relative traffic of each day of the period, in place of ramps and spikes.
        items_per_user: Items in the world for each user.
        events_per_user: Mean number of events of a user in the whole period.
        activity_spread: Standard deviation of the logarithm of users' activity.
        new_user_share: Share of users who arrive after the start, evenly over the period.
        impressions: Items that a request shows; 0 for a log without impressions.
        click_rate: Share of all impressions that are clicked.
        micro_rate: Micro behaviours for each click.
        favourite_rate: Favourites for each click.
        direct_rate: Share of clicks that are bought before the promotion.
        direct_cart_share: Share of direct purchases that go through the cart.
        direct_delays: (seconds, share): share of direct purchases up to so long after the last
            click; log-linear in between, and cut at the end of the phase.
        cart_rate: Share of clicks that are carted before the promotion.
        carted_bought_rate: Share of open carts that are bought on the promotion days.
        uncarted_bought_rate: Share of the clicks neither carted nor bought directly that are
            bought on the promotion days.
        refund_rate: Share of direct purchases that are refunded; more of reduced ones.
        confounding: Gamma, the odds ratio by which a hidden trait of the visit shifts both carting
            and delayed purchase; 1 is none.
        hidden_selection: Scale of what carting owes to traits of users and items that no event
            shows; 0 makes it depend on price, category and time alone.
        propensity_spread: Scale of what carting depends on; the larger, the weaker the overlap.
        shift: Standard deviation of the steps in which log-odds and relative coefficients wander
            from promotion to promotion.
        promotion_effect: Scale of all that a promotion changes: traffic, prices, and who waits.
    """

    events: int = Field(1_000_000, ge=1_000)
    first_year: int = Field(2023, ge=1971, le=2200)
    years: int = Field(2, ge=1, le=10)
    start: IsoTime = ""
    end: IsoTime = ""
    log_start: IsoTime = ""
    promotions: tuple[str, ...] = ("618", "double11", "double12")
    daily_traffic: tuple[PositiveFloat, ...] = ()
    items_per_user: float = Field(0.5, gt=0)
    events_per_user: float = Field(120.0, gt=1)
    activity_spread: float = Field(1.0, ge=0, le=3)
    new_user_share: float = Field(0.4, ge=0, le=1)
    impressions: int = Field(0, ge=0, le=100)
    click_rate: float = Field(0.08, gt=0, lt=0.5)
    micro_rate: float = Field(0.13, ge=0, lt=0.5)
    favourite_rate: float = Field(0.025, ge=0, lt=0.3)
    direct_rate: float = Field(0.017, gt=0, lt=0.3)
    direct_cart_share: float = Field(0.55, ge=0, le=1)
    direct_delays: tuple[tuple[float, float], ...] = (
        (30, 0.0),
        (600, 0.35),
        (3_600, 0.55),
        (21_600, 0.68),
        (86_400, 0.87),
        (259_200, 0.96),
        (864_000, 1.0),
    )
    cart_rate: float = Field(0.07, gt=0, lt=0.5)
    carted_bought_rate: float = Field(0.08, gt=0, lt=1)
    uncarted_bought_rate: float = Field(0.003, gt=0, lt=1)
    refund_rate: float = Field(0.06, ge=0, lt=0.5)
    confounding: float = Field(1.0, ge=1)
    hidden_selection: float = Field(1.0, ge=0, le=3)
    propensity_spread: float = Field(1.0, ge=0, le=10)
    shift: float = Field(0.0, ge=0, le=2)
    promotion_effect: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "SimulateConfig":
        if self.cart_rate <= self.direct_rate:
            raise ValueError("cart_rate should exceed direct_rate")
        if bool(self.start) != bool(self.end):
            raise ValueError("start and end should be given together")
        seconds, shares = zip(*self.direct_delays, strict=True) if self.direct_delays else ((), ())
        if (
            len(seconds) < 2
            or seconds[0] < 1
            or (shares[0], shares[-1]) != (0, 1)
            or list(seconds) != sorted(set(seconds))
            or list(shares) != sorted(set(shares))
        ):
            raise ValueError(
                "direct_delays should be pairs (seconds, share), both increasing, with shares from "
                "0 to 1"
            )
        return self


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
    dedup_seconds: int = Field(0, ge=0)
    observed_until: IsoTime = ""


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
        user_buckets: Rows of the user embedding table.
        item_buckets: Rows of the item embedding table.
        category_buckets: Rows of the category embedding table.
        seller_buckets: Rows of the seller embedding table.
        brand_buckets: Rows of the brand embedding table.
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
    user_buckets: int = Field(100_000, ge=1)
    item_buckets: int = Field(100_000, ge=1)
    category_buckets: int = Field(10_000, ge=1)
    seller_buckets: int = Field(20_000, ge=1)
    brand_buckets: int = Field(20_000, ge=1)
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
    severity: dict[str, Literal["error", "warning", "off"]] = {}
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


class ModelConfig(Section):
    """The network.

    Attributes:
        name: `cmdcm`, or a baseline: `single_task`, `esmm`, `vanilla`.
        embedding_dim: Columns of every embedding table.
        attention_units: Hidden units of the sequence attention.
        cross_layers: DCN-v2 cross layers of the trunk.
        cross_rank: Rank of the cross layers' weight matrix.
        trunk_units: Hidden units of the trunk's MLP.
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
        effect_modifiers: Numeric inputs that the potential-outcome heads are linear in, a marginal
            structural model; the delayed purchase then has a head of its own. Empty for heads over
            all inputs.
        l2_embeddings: L2 penalty on the embedding rows that a batch looks up.
    """

    name: Literal["cmdcm", "single_task", "esmm", "vanilla"] = "cmdcm"
    embedding_dim: int = Field(8, ge=1)
    attention_units: int = Field(16, ge=1)
    cross_layers: int = Field(2, ge=0)
    cross_rank: int = Field(32, ge=1)
    trunk_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1)
    tower_units: tuple[PositiveInt, ...] = (32,)
    gate: bool = True
    gate_units: int = Field(32, ge=1)
    transition: bool = True
    estimator: Literal["naive", "ipw", "snipw", "overlap", "dr"] = "snipw"
    cross_fit_folds: int = Field(1, ge=1, le=10)
    propensity_clip: float = Field(0.03, gt=0, lt=0.5)
    transition_weight: float = Field(0.2, ge=0)
    effect_modifiers: tuple[str, ...] = ()
    l2_embeddings: float = Field(1e-4, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
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


class TrainingConfig(Section):
    """How a model is trained.

    Attributes:
        batch_size: Examples of a step.
        epochs: The most epochs; early stopping may end the run before.
        learning_rate: Of the dense weights (Adam).
        table_learning_rate: Of the embedding tables (Adagrad).
        patience: Epochs without a better validation log loss before the run stops.
        shuffle_buffer: Examples in the shuffle buffer.
        negative_rate: Probability with which a training example without a positive label is kept;
            those that are weigh 1 / rate.
        weight_column: Name of a column that weights the training examples; empty for none.
        recency_half_life_days: Days after which a promotion counts half (docs/warm_start.md); 0
            for no weights by time.
        similarity_scale: Distance from `similar_to` at which a promotion counts 1 / e; 0 for no
            weights by likeness.
        similar_to: Name of the promotion that others are compared with; empty for the last one
            that validates.
        on_corrupt: At a corrupted shard `fail`, or `skip` the rest of it and count it.
        checkpoint_steps: Steps between two checkpoints.
        keep_checkpoints: Checkpoints that are kept.
        strategy: Where the run's replicas are, which share every batch (docs/training.md).
        devices: Devices of `mirrored`, such as `GPU:0`; all GPUs if empty.
        warm_start: A trained model (`RUN/model`) or a run's checkpoint (`RUN/checkpoints/best`)
            whose weights the run starts with (docs/warm_start.md); empty for none.
        max_forgetting: After a warm start: largest relative rise of the log loss of conversion on
            the last promotion that the other model was trained on.
        on_forgetting: Beyond that `fail`, or `warn` and publish the model.
    """

    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    table_learning_rate: float = Field(0.05, gt=0)
    patience: int = Field(1, ge=1)
    shuffle_buffer: int = Field(50_000, ge=1)
    negative_rate: float = Field(1.0, gt=0, le=1)
    weight_column: str = ""
    recency_half_life_days: float = Field(0.0, ge=0)
    similarity_scale: float = Field(0.0, ge=0)
    similar_to: str = ""
    on_corrupt: Literal["fail", "skip"] = "fail"
    checkpoint_steps: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    strategy: Literal["single", "mirrored", "multiworker", "parameter_server"] = "single"
    devices: tuple[str, ...] = ()
    warm_start: str = ""
    max_forgetting: float = Field(0.1, ge=0)
    on_forgetting: Literal["fail", "warn"] = "fail"

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        if self.similar_to and not self.similarity_scale:
            raise ValueError("similar_to needs a similarity_scale above 0")
        return self


class TrackingConfig(Section):
    """What TensorBoard records of a training (docs/training.md); none of it changes the model.

    Attributes:
        profile_step: Step after which the parts of a step are measured, once; 0 for never.
        trace_steps: Steps after that one that TensorBoard's profiler traces; 0 for none.
    """

    profile_step: int = Field(1000, ge=0)
    trace_steps: int = Field(0, ge=0, le=1000)


class CalibrationConfig(Section):
    """How a trained model's probabilities are calibrated on later days (docs/calibration.md).

    Attributes:
        method: Map of each logit: `none`, `platt` (a z + b) or `isotonic` (monotone, piecewise
            linear).
        slices: Columns by whose values the maps are shifted: `hours_to_promotion` (in five ranges),
            or scalar inputs with a vocabulary or an index, such as `promotion_kind`.
        share: Share of the validation part's days, the last ones, that calibrate.
        min_positives: A logit with fewer positive or negative labels there is left as it is.
        slice_prior: Strength of the pull of a slice's shift towards zero, about in positives.
    """

    method: Literal["none", "platt", "isotonic"] = "platt"
    slices: tuple[str, ...] = ()
    share: float = Field(1.0, gt=0, le=1)
    min_positives: int = Field(50, ge=1)
    slice_prior: float = Field(50.0, gt=0)


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


class ExportConfig(Section):
    """What an export carries (docs/export.md).

    Attributes:
        name: Name of the served model.
        warmup_candidates: Candidate counts that are warmed up; clients pad to them.
        max_warmup_rows: Rows of the `serving_default` warm-up request.
        check_rows: Rows on which the export is compared with the model before it is published.
        constant_bytes: Weights up to this size become constants of the graph; larger ones stay
            variables. The default keeps tables of more than 131,072 rows of 8 columns variables.
        table_dtype: How the embedding table is held.
        max_table_loss: Largest absolute difference of p_conversion to the model's that a
            `table_dtype` other than float32 may make on the checked rows; beyond it nothing is
            published.
    """

    name: str = Field("cmdcm", pattern=r"^[A-Za-z0-9_.-]+$")
    warmup_candidates: tuple[PositiveInt, ...] = (1, 10, 100, 500)
    max_warmup_rows: int = Field(100, ge=1)
    check_rows: int = Field(1000, ge=1)
    constant_bytes: int = Field(4 << 20, ge=0)
    table_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    max_table_loss: float = Field(0.001, gt=0)


class ServingConfig(Section):
    """How a model is served and called.

    The names that tensorflow_model_server has, too, mean what they mean there.

    Attributes:
        host: Address to bind and to call; any but loopback needs `ssl_config_file`.
        port: gRPC port; 0 lets the system choose.
        rest_port: REST port; 0 lets the system choose, -1 serves no REST.
        deadline_ms: Deadline of every scoring call.
        poll_seconds: How often the server looks for a new version; 0 for once, at the start.
        max_message_mb: Largest request and response.
        grpc_socket_path: Unix socket that takes gRPC calls, too; empty for none.
        grpc_max_threads: Threads that run gRPC calls; 0 for four a CPU.
        grpc_channel_arguments: More arguments of gRPC: `key=value,key=value`.
        ssl_config_file: Text proto of SSLConfig for the gRPC port; empty for no TLS.
        rest_api_timeout_in_ms: Longest that a REST request may take once it has arrived.
        rest_api_num_threads: Threads that run REST requests; 0 for four a CPU.
        model_config_file: Text proto of ModelServerConfig, in place of one model.
        model_config_file_poll_wait_seconds: How often that file is read again; 0 for never.
        monitoring_config_file: Text proto of MonitoringConfig; empty for no metrics page.
        enable_batching: Run concurrent requests of a signature as one.
        batching_parameters_file: Text proto of BatchingParameters; empty for the defaults.
        enable_model_warmup: Run a version's warm-up requests before it serves.
        max_num_load_retries: How often a version that cannot be loaded is tried again.
        load_retry_interval_micros: How long after the attempt before.
        allow_version_labels_for_unavailable_models: Let new labels name versions that do not
            serve yet.
        allow_plaintext: Listen on other addresses than loopback without TLS.
        allow_remote_reload: Take HandleReloadConfigRequest on other addresses than loopback
            from clients without a certificate.
    """

    host: str = "127.0.0.1"
    port: int = Field(8500, ge=0, le=65535)
    rest_port: int = Field(8501, ge=-1, le=65535)
    deadline_ms: int = Field(1000, ge=1)
    poll_seconds: float = Field(2.0, ge=0)
    max_message_mb: int = Field(64, ge=1, le=2047)
    grpc_socket_path: str = ""
    grpc_max_threads: int = Field(0, ge=0)
    grpc_channel_arguments: str = ""
    ssl_config_file: str = ""
    rest_api_timeout_in_ms: int = Field(30_000, ge=1)
    rest_api_num_threads: int = Field(0, ge=0)
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: float = Field(0.0, ge=0)
    monitoring_config_file: str = ""
    enable_batching: bool = False
    batching_parameters_file: str = ""
    enable_model_warmup: bool = True
    max_num_load_retries: int = Field(5, ge=0)
    load_retry_interval_micros: int = Field(60_000_000, ge=0)
    allow_version_labels_for_unavailable_models: bool = False
    allow_plaintext: bool = False
    allow_remote_reload: bool = False

    @model_validator(mode="after")
    def _check(self) -> "ServingConfig":
        if self.batching_parameters_file and not self.enable_batching:
            raise ValueError("batching_parameters_file is set, but enable_batching is not")
        if self.rest_port > 0 and self.rest_port == self.port:
            raise ValueError(f"port and rest_port are both {self.port}")
        for argument in self.grpc_channel_arguments.split(","):
            if self.grpc_channel_arguments and not argument.partition("=")[2]:
                raise ValueError(f"grpc_channel_arguments: {argument!r} is not key=value")
        return self


class ServerGroupConfig(Section):
    """One group of equal servers (docs/deployment.md).

    Attributes:
        cpus: CPUs of a server.
        memory_mib: Memory of a server; it holds two versions, and three while a canary loads.
        min_replicas: Servers at least.
        max_replicas: Servers at most; the autoscaler chooses in between.
        peak_requests_per_second: Requests a second in the busiest minute; 0 if not known.
        cpu_ms_per_request: CPU time of a request, as a load test measured it; 0 if not known.
    """

    cpus: int = Field(2, ge=1)
    memory_mib: int = Field(4096, ge=256)
    min_replicas: int = Field(2, ge=1)
    max_replicas: int = Field(8, ge=1)
    peak_requests_per_second: float = Field(0.0, ge=0)
    cpu_ms_per_request: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "ServerGroupConfig":
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas should be at least min_replicas")
        return self


class DeployConfig(Section):
    """What `cmdcm deploy` writes (docs/deployment.md).

    Attributes:
        base_image: The tensorflow/serving image, best with its `@sha256:` digest.
        image: Name and tag of the image that is built from it.
        namespace: Kubernetes namespace.
        model_claim: PersistentVolumeClaim with the numbered version folders at its root.
        monitoring_namespace: Namespace whose pods may read the metrics.
        user_id: User and group under which the servers run.
        local_port: gRPC port of the candidates server under docker compose, on loopback; its REST
            port is the next one, those of the examples server are ten above.
        candidates: The servers of `score_candidates`, without batching.
        examples: The servers of `serving_default`, with batching.
        batch_timeout_micros: How long a lone request waits for others to batch with.
        max_enqueued_batches: Batches that may wait; more are answered UNAVAILABLE.
        grpc_max_threads: Threads that gRPC may use, well above the calls at once.
        max_connection_age_seconds: Age at which a server asks clients to connect anew, so that
            they learn of servers that came or go.
        drain_seconds: How long a server that is to stop goes on serving.
        startup_seconds: How long loading and warming up may take.
        target_utilisation: Share of a server's CPUs that is used at the peak.
        tls_key: PEM file of the servers' private key; empty for no TLS.
        tls_certificate: PEM file of their certificate.
        tls_client_ca: PEM file of the authority that signs clients; empty for no mutual TLS.
    """

    base_image: str = Field("tensorflow/serving:2.21.0", pattern=_IMAGE)
    image: str = Field("cmdcm-serving:latest", pattern=_IMAGE)
    namespace: str = Field("cmdcm", pattern=_DNS_LABEL)
    model_claim: str = Field("cmdcm-models", pattern=_DNS_LABEL)
    monitoring_namespace: str = Field("monitoring", pattern=_DNS_LABEL)
    user_id: int = Field(65532, ge=1)
    local_port: int = Field(8500, ge=1, le=65524)
    candidates: ServerGroupConfig = ServerGroupConfig()
    examples: ServerGroupConfig = ServerGroupConfig()
    batch_timeout_micros: int = Field(1000, ge=0)
    max_enqueued_batches: int = Field(20, ge=1)
    grpc_max_threads: int = Field(128, ge=1)
    max_connection_age_seconds: int = Field(30, ge=1)
    drain_seconds: int = Field(75, ge=0)
    startup_seconds: int = Field(600, ge=10)
    target_utilisation: float = Field(0.6, gt=0, le=1)
    tls_key: str = ""
    tls_certificate: str = ""
    tls_client_ca: str = ""

    @model_validator(mode="after")
    def _check(self) -> "DeployConfig":
        if bool(self.tls_key) != bool(self.tls_certificate):
            raise ValueError("tls_key and tls_certificate should be given together")
        if self.tls_client_ca and not self.tls_key:
            raise ValueError("tls_client_ca needs tls_key and tls_certificate")
        if self.drain_seconds < 2 * self.max_connection_age_seconds:
            raise ValueError(
                "drain_seconds should be at least twice max_connection_age_seconds, or clients "
                "still call a server when it stops"
            )
        return self


class RolloutConfig(Section):
    """When `cmdcm rollout` promotes a version (docs/rollout.md).

    Attributes:
        output: The score that is compared between stable and canary.
        max_psi: Largest population stability index.
        max_mean_shift: Largest change of the mean score, as a share of stable's mean.
        max_score_shift: Largest change of a single score.
        min_rows: Scores to compare at least.
        max_requests: Requests to replay at most.
        load_timeout_seconds: How long a version may take to load and warm up.
        poll_seconds: Seconds between two looks at the state of a version.
        deadline_ms: Deadline of every call.
    """

    output: str = "p_conversion"
    max_psi: float = Field(0.2, ge=0)
    max_mean_shift: float = Field(0.2, ge=0)
    max_score_shift: float = Field(0.5, ge=0, le=1)
    min_rows: int = Field(100, ge=1)
    max_requests: int = Field(1000, ge=1)
    load_timeout_seconds: float = Field(300.0, gt=0)
    poll_seconds: float = Field(0.5, gt=0)
    deadline_ms: int = Field(10_000, ge=1)


class Config(Section):
    """The whole configuration; `seed` is the one source of randomness."""

    seed: int = Field(1, ge=0)
    calendar: CalendarConfig = CalendarConfig()
    events: EventsConfig = EventsConfig()
    simulate: SimulateConfig = SimulateConfig()
    labels: LabelsConfig = LabelsConfig()
    features: FeaturesConfig = FeaturesConfig()
    validation: ValidationConfig = ValidationConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    abtest: AbtestConfig = AbtestConfig()
    export: ExportConfig = ExportConfig()
    serving: ServingConfig = ServingConfig()
    deploy: DeployConfig = DeployConfig()
    rollout: RolloutConfig = RolloutConfig()

    def save(self, path: Path) -> None:
        """Writes the configuration as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Reads a configuration that `save` wrote beside an artefact."""
        return _validate(read_json(path, "configuration"), {}, str(path))


def presets() -> list[str]:
    """Returns the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(
    path: Path | None = None, preset: str = "default", overrides: Iterable[str] = ()
) -> Config:
    """Builds the configuration: preset, then file, then `key=value` overrides.

    Args:
        path: A TOML file, or None.
        preset: Name of a preset.
        overrides: `section.key=value` strings; values in TOML syntax, a bare word is a string.

    Raises:
        ConfigError: Names the key, the place it came from and what was expected.

    Example:
        >>> load_config(overrides=["training.batch_size=64"]).training.batch_size
        64
    """
    if preset not in presets():
        raise ConfigError(f"unknown preset {preset!r}; there are {presets()}")
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    sources: list[tuple[dict[str, Any], str]] = [
        (_read_toml(PRESETS / f"{preset}.toml"), f"preset {preset!r}")
    ]
    if path is not None:
        sources.append((_read_toml(Path(path)), str(path)))
    for override in overrides:
        sources.append((_parse_override(override), f"--set {override}"))
    for source, place in sources:
        _merge(values, source, place, places)
    return _validate(values, places, "configuration")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not valid TOML: {error}") from error


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    nested: dict[str, Any] = {parts[-1]: value}
    for part in reversed(parts[:-1]):
        nested = {part: nested}
    return nested


def _merge(
    target: dict[str, Any],
    source: Mapping[str, Any],
    place: str,
    places: dict[str, str],
    prefix: str = "",
) -> None:
    for key, value in source.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict):
            _merge(target.setdefault(key, {}), value, place, places, f"{name}.")
        else:
            target[key] = value
        places[name] = place


def _validate(values: Mapping[str, Any], places: Mapping[str, str], default: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            location = [str(part) for part in fault["loc"]]
            key = ".".join(location)
            place = next(
                (
                    places[".".join(location[:n])]
                    for n in range(len(location), 0, -1)
                    if ".".join(location[:n]) in places
                ),
                default,
            )
            if fault["type"] == "extra_forbidden":
                faults.append(f"{place}: unknown key {key!r}{_suggest(location)}")
            else:
                faults.append(f"{place}: {key}: {fault['msg']}. Received: {fault['input']!r}")
        raise ConfigError("; ".join(faults)) from error


def _suggest(location: list[str]) -> str:
    section: Any = Config
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        # An index leads into a tuple of tables: its element's type.
        section = field.annotation if field else next(iter(get_args(section)), None)
    known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(location[-1], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {known}"
