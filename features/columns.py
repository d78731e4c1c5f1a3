"""The columns of an example: the feature spec (contract 3) that the settings and the log imply."""

from collections.abc import Sequence

import pyarrow as pa

from cmdcm.core.config import FeaturesConfig, LabelsConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import KINDS, PromotionCalendar
from cmdcm.datasets.events import EVENT_KINDS
from cmdcm.features.custom import custom_features
from cmdcm.features.spec import DType, Feature, FeatureSpec, Side

SEQUENCES = {
    "clicked": "click",
    "favourited": "favourite",
    "carted": "cart",
    "purchased": "purchase",
}
"""The behaviour sequences: name -> the event kind whose last items it holds."""

USER_PROMOTIONS = (
    "promotions_seen",
    "clicks",
    "intents",
    "intents_bought",
    "open_intents",
    "open_intents_bought",
    "day_purchases",
)
"""What a user did in earlier promotions: promotions with a click in their window; clicks in the
windows; (user, item) pairs with an intent event there; those of them bought on the promotion days;
those not bought from the first intent event until the promotion started; those of the latter bought
on the promotion days; purchases on the promotion days."""

ITEM_PROMOTIONS = USER_PROMOTIONS[1:]
"""The same sums over all users, for an item or a category."""

LABELS = ("direct", "cart", "open_cart", "delayed", "conversion")
"""The labels that are 0 or 1 and that all examples have."""

OPTIONAL_LABELS = ("micro", "refunded")
"""The labels that are 0 or 1 and that a setting of their name adds."""


def labels_of(spec: FeatureSpec) -> tuple[str, ...]:
    """Returns the names of the labels of a spec that are 0 or 1, in its order."""
    return tuple(f.name for f in spec.of("label") if f.name in (*LABELS, *OPTIONAL_LABELS))


def window_names(config: FeaturesConfig) -> tuple[str, ...]:
    """Returns the names of the look-back windows, the pre-promotion window last.

    Example:
        >>> window_names(FeaturesConfig(windows_hours=(1, 24, 168)))
        ('1h', '1d', '7d', 'window')
    """
    names = [f"{h // 24}d" if h % 24 == 0 else f"{h}h" for h in config.windows_hours]
    return (*names, "window")


def example_spec(
    config: FeaturesConfig, events: pa.Schema, calendar: PromotionCalendar, labels: LabelsConfig
) -> FeatureSpec:
    """Builds the spec of the examples that `events` can give.

    Columns of the event contract that the log lacks (category, seller, brand, price) have no
    features. Identifiers keep the log's type, int64 or string.
    """
    unknown = sorted(set(config.count_kinds) - set(EVENT_KINDS))
    if unknown:
        raise ConfigError(
            f"features.count_kinds: unknown event kinds {unknown}; there are {list(EVENT_KINDS)}"
        )
    if not config.count_kinds or len(set(config.count_kinds)) < len(config.count_kinds):
        raise ConfigError(
            "features.count_kinds should name at least one event kind, and each once. "
            f"Received: {list(config.count_kinds)}"
        )
    counts = tuple(f"{kind}_{w}" for kind in config.count_kinds for w in window_names(config))
    features: list[Feature] = []

    def identifier(name: str, entity: str, side: Side, description: str) -> Feature:
        buckets: int = getattr(config, f"{entity}_buckets")
        dtype: DType = "string" if events.field(f"{entity}_id").type == pa.string() else "int64"
        return Feature(
            name=name,
            dtype=dtype,
            side=side,
            encoding="hash",
            buckets=buckets,
            table=entity,
            default="" if dtype == "string" else 0,
            description=description,
        )

    def numbers(name: str, side: Side, components: Sequence[str], description: str) -> Feature:
        return Feature(
            name=name,
            dtype="int64",
            side=side,
            shape="vector",
            length=len(components),
            encoding="log1p",
            components=tuple(components),
            description=description,
        )

    def index(name: str, buckets: int, description: str) -> Feature:
        return Feature(
            name=name,
            dtype="int64",
            side="context",
            encoding="identity",
            buckets=buckets,
            table=name,
            description=description,
        )

    present = set(events.names)
    entities = [e for e in ("category", "seller", "brand") if f"{e}_id" in present]

    # The user, sent once a request.
    features.append(identifier("user_id", "user", "user", "the user"))
    features.append(
        Feature(
            name="user_history",
            dtype="int64",
            side="user",
            encoding="log1p",
            description="the user's own events before the click: all but impressions",
        )
    )
    features.append(
        numbers("user_counts", "user", counts, "the user's events by kind and look-back window")
    )
    features.append(
        numbers(
            "user_promotions",
            "user",
            USER_PROMOTIONS,
            "what the user did in earlier promotions, summed over them",
        )
    )
    for name, kind in SEQUENCES.items():
        length = config.clicked_length if kind == "click" else config.intent_length
        columns: list[tuple[str, str]] = [("item", "item_ids")]
        if "category" in entities:
            columns.append(("category", "category_ids"))
        for entity, suffix in columns:
            base = identifier(
                f"{name}_{suffix}", entity, "user", f"{entity} of the last {kind} events"
            )
            features.append(
                base.model_copy(update={"shape": "sequence", "length": length, "sequence": name})
            )
        features.append(
            Feature(
                name=f"{name}_ages",
                dtype="int64",
                side="user",
                shape="sequence",
                length=length,
                encoding="age",
                default=-1,
                sequence=name,
                description=f"seconds from the last {kind} events to the click",
            )
        )

    # The moment of the request.
    features.append(
        Feature(
            name="hours_to_promotion",
            dtype="float32",
            side="context",
            encoding="log1p",
            description="hours from the click to the promotion's start",
        )
    )
    features.append(index("hour_of_day", 24, "local hour of the click"))
    features.append(index("weekday", 7, "local day of the week, Monday = 0"))
    kinds = sorted({*KINDS, *(p.kind for p in calendar.promotions)})
    features.append(
        Feature(
            name="promotion_kind",
            dtype="string",
            side="context",
            encoding="vocabulary",
            vocabulary=tuple(kinds),
            table="promotion_kind",
            default="",
            description="kind of the coming promotion",
        )
    )

    # The candidate.
    features.append(identifier("item_id", "item", "item", "the clicked item"))
    features.extend(
        identifier(f"{entity}_id", entity, "item", f"the item's {entity}") for entity in entities
    )
    if "price" in present:
        features.append(
            Feature(
                name="price",
                dtype="float32",
                side="item",
                encoding="log1p",
                description="price of a piece at the click",
            )
        )
    hours = "in the complete hours before the click's hour"
    features.append(numbers("item_counts", "item", counts, f"all users' events on it, {hours}"))
    features.append(
        numbers("item_promotions", "item", ITEM_PROMOTIONS, "the item in earlier promotions")
    )
    if "category" in entities:
        features.append(
            numbers(
                "category_counts", "item", counts, f"all users' events on its category, {hours}"
            )
        )
        features.append(
            numbers(
                "category_promotions",
                "item",
                ITEM_PROMOTIONS,
                "the item's category in earlier promotions",
            )
        )

    # The user and the candidate together.
    features.append(numbers("user_item_counts", "cross", counts, "the user's events on the item"))
    if "category" in entities:
        features.append(
            numbers(
                "user_category_counts", "cross", counts, "the user's events on the item's category"
            )
        )

    if labels.attribute_to != "item" and f"{labels.attribute_to}_id" not in present:
        raise ConfigError(
            f"labels.attribute_to = {labels.attribute_to!r} needs the column "
            f"'{labels.attribute_to}_id'; the log has {events.names}"
        )
    features.extend(custom.feature for custom in custom_features(config.modules))

    described = {
        "direct": "bought at or after the click, before the promotion, in the attribution time",
        "cart": "intent event at or after the click, before the promotion, in the attribution time",
        "open_cart": "cart, and not bought before the promotion's start",
        "delayed": "not direct, and bought on the promotion days",
        "conversion": "direct or delayed",
        "micro": "micro behaviour at or after the click, before the promotion, in the attribution "
        "time",
        "refunded": "conversion, and every purchase that makes it is refunded in time",
    }
    optional = [name for name in OPTIONAL_LABELS if getattr(labels, name)]
    features.extend(
        Feature(name=name, dtype="int64", side="label", description=described[name])
        for name in (*LABELS, *optional)
    )
    if labels.values:
        amounts: list[tuple[str, DType, str]] = [("quantity", "int64", "pieces")]
        if "price" in present:
            amounts.append(("value", "float32", "price of all pieces"))
        features.extend(
            Feature(
                name=f"{name}_{amount}",
                dtype=dtype,
                side="label",
                description=f"{what} of the purchases that make {name} 1",
            )
            for amount, dtype, what in amounts
            for name in ("direct", "delayed")
        )

    meta: list[tuple[str, DType, str]] = [
        ("promotion", "string", "name of the promotion"),
        ("click_time_ms", "int64", "the click, UTC ms"),
        ("observation_time_ms", "int64", "when all labels are known, or end of the log, UTC ms"),
        ("direct_known_ms", "int64", "when direct, cart and micro are known, UTC ms"),
        ("delayed_known_ms", "int64", "when all labels but refunded are known, UTC ms"),
        ("conversion_delay_ms", "int64", "click to purchase; -1 without one"),
    ]
    if labels.refunded:
        meta.append(("refunded_known_ms", "int64", "when refunded is known, UTC ms"))
    features.extend(
        Feature(
            name=name,
            dtype=dtype,
            side="meta",
            default="" if dtype == "string" else 0,
            description=description,
        )
        for name, dtype, description in meta
    )
    return FeatureSpec(features=tuple(features))
