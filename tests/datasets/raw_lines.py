"""Random lines of raw logs, each with what an import should make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

SHANGHAI = ZoneInfo("Asia/Shanghai")
UTC = ZoneInfo("UTC")
FIELDS = "wrong number of fields"
TIME = "time is not parseable"
TIME_RANGE = "time is outside 1990 to 2099"
KIND = "unknown event kind"


@dataclass(frozen=True)
class Line:
    """A line, and the event it holds or the reason of its rejection; neither if it is dropped."""

    text: str
    event: dict[str, Any] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Raw:
    """A raw format: names of its fields, its good rows and the ways to spoil a field of one.

    `rows` draws a row's fields and the event they hold (None for an event that is left out);
    `spoilt` are pairs of a field's name and a faulty text, with the reason it leads to.
    """

    format: str
    names: tuple[str, ...]
    header: bool
    timezone: str
    rows: st.SearchStrategy[tuple[list[str], dict[str, Any] | None]]
    spoilt: tuple[tuple[str, str, str], ...]


def lines(raw: Raw) -> st.SearchStrategy[list[Line]]:
    """Good lines and malformed ones in any order; at least one of them is an event."""
    good = raw.rows.map(lambda row: Line(",".join(row[0]), event=row[1]))
    events = good.filter(lambda line: line.event is not None)
    shorter = raw.rows.map(lambda row: Line(",".join(row[0][:-1]), reason=FIELDS))
    longer = raw.rows.map(lambda row: Line(",".join([*row[0], "7"]), reason=FIELDS))
    spoilt = st.builds(spoil, st.just(raw.names), raw.rows, st.sampled_from(raw.spoilt))
    blank = st.just(Line(""))
    some = st.lists(st.one_of(good, good, shorter, longer, spoilt, blank), max_size=25)
    return st.builds(lambda before, one, after: [*before, one, *after], some, events, some)


def spoil(
    names: tuple[str, ...],
    row: tuple[list[str], dict[str, Any] | None],
    fault: tuple[str, str, str],
) -> Line:
    """A good row with one faulty field, and the reason of its rejection."""
    name, value, reason = fault
    fields = list(row[0])
    fields[names.index(name)] = value
    return Line(",".join(fields), reason=reason)


_IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9)
_NO_INTEGERS = ("abc", "1.5", "1e3", " 1", "1 ", "0x1", "9223372036854775808", "\u0661", '"1"', "-")


def _no_integers(*names: str) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (name, text, f"{name} is not an integer") for name in names for text in _NO_INTEGERS
    )


def _empty(*names: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, "", f"{name} is empty") for name in names)


def _optional(value: Any) -> str:
    return "" if value is None else str(value)


def _local(zone: ZoneInfo, *parts: int) -> datetime:
    return datetime(*parts, tzinfo=zone).astimezone(UTC)  # type: ignore[arg-type,misc]


@st.composite
def _taobao(draw: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    user, item = draw(_IDS), draw(_IDS)
    category = draw(st.none() | _IDS)
    word, kind = draw(
        st.sampled_from(
            [("pv", "click"), ("fav", "favourite"), ("cart", "cart"), ("buy", "purchase")]
        )
    )
    seconds = draw(st.sampled_from([631152000, 4102444799]) | st.integers(15 * 10**8, 16 * 10**8))
    event = {
        "user_id": user,
        "item_id": item,
        "kind": kind,
        "timestamp": datetime.fromtimestamp(seconds, UTC),
        "category_id": category,
    }
    return [str(user), str(item), _optional(category), word, str(seconds)], event


TAOBAO = Raw(
    "taobao",
    ("user_id", "item_id", "category_id", "behavior", "timestamp"),
    False,
    "Asia/Shanghai",
    _taobao(),
    (
        *_no_integers("user_id", "item_id", "category_id"),
        *_empty("user_id", "item_id", "behavior", "timestamp"),
        *(("behavior", text, KIND) for text in ("click", "PV", "pv ", "1")),
        *(("timestamp", text, TIME) for text in ("now", "1.5e9", "2017-11-25")),
        *(
            ("timestamp", text, TIME_RANGE)
            for text in ("0", "-1", "631151999", "4102444800", "1511544070000", str(2**63 - 1))
        ),
        # A thousand times these seconds is 2^64 and a good time: it must not wrap around.
        ("timestamp", "18446745585253622", TIME_RANGE),
    ),
)


@st.composite
def _tmall(draw: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    user, item, seller = draw(_IDS), draw(_IDS), draw(_IDS)
    brand = draw(st.none() | _IDS)
    word, kind = draw(
        st.sampled_from([("0", "click"), ("1", "cart"), ("2", "purchase"), ("3", "favourite")])
    )
    day = draw(st.dates(datetime(2014, 5, 11).date(), datetime(2014, 11, 11).date()))
    event = {
        "user_id": user,
        "item_id": item,
        "kind": kind,
        "timestamp": _local(SHANGHAI, day.year, day.month, day.day),
        "category_id": 12,
        "seller_id": seller,
        "brand_id": brand,
    }
    date = f"{day.month:02d}{day.day:02d}"
    return [str(user), str(item), "12", str(seller), _optional(brand), date, word], event


TMALL = Raw(
    "tmall",
    ("user_id", "item_id", "cat_id", "seller_id", "brand_id", "time_stamp", "action_type"),
    True,
    "Asia/Shanghai",
    _tmall(),
    (
        *_no_integers("user_id", "item_id", "cat_id", "seller_id", "brand_id"),
        *_empty("user_id", "item_id", "action_type", "time_stamp"),
        *(("action_type", text, KIND) for text in ("4", "-1", "01", "click")),
        *(("time_stamp", text, TIME) for text in ("0230", "1131", "1301", "0", "11111", "x")),
    ),
)


@st.composite
def _rees46(draw: Callable[..., Any]) -> tuple[list[str], dict[str, Any] | None]:
    user, item = draw(_IDS), draw(_IDS)
    words = st.text(st.characters(codec="utf-8", exclude_characters=",\r\n\0\ufeff"), min_size=1)
    brand, session = draw(st.none() | words), draw(st.none() | words)
    price = draw(st.none() | st.decimals(0, 10_000, places=2))
    word, kind = draw(
        st.sampled_from(
            [
                ("view", "click"),
                ("cart", "cart"),
                ("purchase", "purchase"),
                ("remove_from_cart", None),
            ]
        )
    )
    instant = draw(st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31))).replace(
        microsecond=0, tzinfo=UTC
    )
    event = {
        "user_id": user,
        "item_id": item,
        "kind": kind,
        "timestamp": instant,
        "category_id": 2103807459595387724,
        "brand_id": brand,
        "price": None if price is None else float(price),
        "session_id": session,
    }
    fields = [
        f"{instant:%Y-%m-%d %H:%M:%S} UTC",
        word,
        str(item),
        "2103807459595387724",
        "electronics.smartphone",
        _optional(brand),
        _optional(price),
        str(user),
        _optional(session),
    ]
    return fields, event if kind else None


REES46 = Raw(
    "rees46",
    (
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ),
    True,
    "UTC",
    _rees46(),
    (
        *_no_integers("product_id", "category_id", "user_id"),
        *_empty("product_id", "user_id", "event_type", "event_time"),
        *(("event_type", text, KIND) for text in ("click", "View", "transaction")),
        *(("price", text, "price is not a number from 0 up") for text in ("free", "-1", "nan")),
        *(
            ("event_time", text, TIME)
            for text in (
                "2019-10-01",
                "2019-02-30 00:00:00 UTC",
                "2019-10-01 00:00:00",
                "1570000000",
            )
        ),
        ("event_time", "1989-12-31 23:59:59 UTC", TIME_RANGE),
        ("event_time", "2100-01-01 00:00:00 UTC", TIME_RANGE),
    ),
)
