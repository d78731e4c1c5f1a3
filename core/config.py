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

    Rates are those of clicks in pre-promotion windows.

    Attributes:
        events: About how many events to draw.
        first_year: First of the simulated years.
        years: How many years.
        promotions: Kinds of promotion in each year.
        items_per_user: Items in the world for each user.
        events_per_user: Mean number of events of a user over all years.
        new_user_share: Share of users who arrive after the start, evenly over the years.
        direct_rate: Share of clicks that are bought before the promotion.
        cart_rate: Share of clicks that are carted before the promotion.
        carted_bought_rate: Share of open carts that are bought on the promotion days.
        uncarted_bought_rate: Share of the clicks neither carted nor bought directly that are
            bought on the promotion days.
        confounding: Gamma, the odds ratio by which a hidden trait of the visit shifts both carting
            and delayed purchase; 1 is none.
    """

    events: int = Field(1_000_000, ge=1_000)
    first_year: int = Field(2023, ge=1971, le=2200)
    years: int = Field(2, ge=1, le=10)
    promotions: tuple[str, ...] = Field(("618", "double11", "double12"), min_length=1)
    items_per_user: float = Field(0.5, gt=0)
    events_per_user: float = Field(120.0, gt=1)
    new_user_share: float = Field(0.4, ge=0, le=1)
    direct_rate: float = Field(0.017, gt=0, lt=0.3)
    cart_rate: float = Field(0.07, gt=0, lt=0.5)
    carted_bought_rate: float = Field(0.08, gt=0, lt=1)
    uncarted_bought_rate: float = Field(0.003, gt=0, lt=1)
    confounding: float = Field(1.0, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "SimulateConfig":
        if self.cart_rate <= self.direct_rate:
            raise ValueError("cart_rate should exceed direct_rate")
        return self


class LabelsConfig(Section):
    """How clicks are labelled.

    Attributes:
        intent: The event that opens the cart: `cart`, or `favourite` where carts are absent.
        attribution_days: A direct purchase counts up to so many days after its click.
        observed_until: End of what the log shows (ISO, calendar zone, exclusive); empty for the
            end of the last event's day. Clicks whose labels are not known by then are left out.
    """

    intent: Literal["cart", "favourite"] = "cart"
    attribution_days: float = Field(30.0, gt=0)
    observed_until: IsoTime = ""


class FeaturesConfig(Section):
    """How raw events become examples.

    Attributes:
        windows_hours: Look-back windows of the counters, in hours; the time since the
            pre-promotion window opened is always added as the last window.
        count_kinds: Event kinds that are counted.
        clicked_length: Last clicked items that are kept.
        intent_length: Last favourites, carts and purchases that are kept, each.
        user_buckets: Rows of the user embedding table.
        item_buckets: Rows of the item embedding table.
        category_buckets: Rows of the category embedding table.
        seller_buckets: Rows of the seller embedding table.
        brand_buckets: Rows of the brand embedding table.
        partitions: User partitions of the run; 0 chooses by the log's size.
        rows_per_partition: Events of a partition when `partitions` is 0.
        gzip: Compress the TFRecord shards.
    """

    windows_hours: tuple[int, ...] = (1, 24, 72, 168, 720)
    count_kinds: tuple[str, ...] = ("click", "favourite", "cart", "purchase")
    clicked_length: int = Field(50, ge=1)
    intent_length: int = Field(20, ge=1)
    user_buckets: int = Field(100_000, ge=1)
    item_buckets: int = Field(100_000, ge=1)
    category_buckets: int = Field(10_000, ge=1)
    seller_buckets: int = Field(20_000, ge=1)
    brand_buckets: int = Field(20_000, ge=1)
    partitions: int = Field(0, ge=0)
    rows_per_partition: int = Field(500_000, ge=1)
    gzip: bool = False

    @model_validator(mode="after")
    def _check(self) -> "FeaturesConfig":
        if list(self.windows_hours) != sorted(set(self.windows_hours)) or not self.windows_hours:
            raise ValueError("windows_hours should be increasing")
        if self.windows_hours[0] < 1:
            raise ValueError("windows_hours should be at least one hour each")
        return self


class SplitConfig(Section):
    """Which examples train, validate and test; always in the order of time.

    Attributes:
        by: `promotion` (whole promotions), `time` (days of one promotion's window), or `auto`:
            by promotion when there are at least three with examples, else by time.
        test: Names of the test promotions; empty for the last one.
        validation: Names of the validation promotions; empty for the last one before `test`.
        validation_share: By time: share of the window's days that validate.
        test_share: By time: share of the window's days that test, the last ones.
    """

    by: Literal["auto", "promotion", "time"] = "auto"
    test: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
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
        propensity_clip: Propensities are clipped to [clip, 1 - clip] in the weights.
        transition_weight: Weight of the potential-outcome risks in the loss.
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
    estimator: Literal["naive", "ipw", "snipw", "dr"] = "snipw"
    propensity_clip: float = Field(0.03, gt=0, lt=0.5)
    transition_weight: float = Field(0.2, ge=0)
    l2_embeddings: float = Field(1e-4, ge=0)


class TrainingConfig(Section):
    """How a model is trained.

    Attributes:
        batch_size: Examples of a step.
        epochs: The most epochs; early stopping may end the run before.
        learning_rate: Of the dense weights (Adam).
        table_learning_rate: Of the embedding tables (Adagrad).
        patience: Epochs without a better validation log loss before the run stops.
        shuffle_buffer: Examples in the shuffle buffer.
        checkpoint_steps: Steps between two checkpoints.
        keep_checkpoints: Checkpoints that are kept.
    """

    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    table_learning_rate: float = Field(0.05, gt=0)
    patience: int = Field(1, ge=1)
    shuffle_buffer: int = Field(50_000, ge=1)
    checkpoint_steps: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)


class EvaluationConfig(Section):
    """How a model is evaluated.

    Attributes:
        bootstrap: Replicates of the user-clustered bootstrap.
        confidence: Level of the intervals.
        calibration_bins: Bins of the expected calibration error and the calibration curves.
        min_slice_rows: Slices with fewer rows are left out of the report.
    """

    bootstrap: int = Field(200, ge=10)
    confidence: float = Field(0.95, gt=0, lt=1)
    calibration_bins: int = Field(10, ge=2)
    min_slice_rows: int = Field(100, ge=1)


class ExportConfig(Section):
    """What an export carries.

    Attributes:
        name: Name of the served model.
        warmup_candidates: Candidate counts that are warmed up; clients pad to them.
        max_warmup_rows: Rows of the `serving_default` warm-up request.
    """

    name: str = Field("cmdcm", pattern=r"^[A-Za-z0-9_.-]+$")
    warmup_candidates: tuple[int, ...] = (1, 10, 100, 500)
    max_warmup_rows: int = Field(100, ge=1)


class ServingConfig(Section):
    """How a model is served and called.

    Attributes:
        host: Address to bind and to call; anything but loopback needs TLS in front.
        port: gRPC port; 0 lets the system choose.
        rest_port: REST port; 0 lets the system choose, -1 serves no REST.
        deadline_ms: Deadline of every scoring call.
        poll_seconds: How often the server looks for a new version.
        max_message_mb: Largest request and response.
    """

    host: str = "127.0.0.1"
    port: int = Field(8500, ge=0, le=65535)
    rest_port: int = Field(8501, ge=-1, le=65535)
    deadline_ms: int = Field(1000, ge=1)
    poll_seconds: float = Field(2.0, gt=0)
    max_message_mb: int = Field(64, ge=1)


class Config(Section):
    """The whole configuration; `seed` is the one source of randomness."""

    seed: int = Field(1, ge=0)
    calendar: CalendarConfig = CalendarConfig()
    events: EventsConfig = EventsConfig()
    simulate: SimulateConfig = SimulateConfig()
    labels: LabelsConfig = LabelsConfig()
    features: FeaturesConfig = FeaturesConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    serving: ServingConfig = ServingConfig()

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
