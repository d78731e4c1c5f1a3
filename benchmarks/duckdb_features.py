"""The columns of an example as hand-written DuckDB SQL: the rival of `bench_features`.

Counters are differences of running totals, found by ASOF joins (three times faster than window
functions with RANGE frames); sequences are slices of a list of each user's events; labels are ASOF
joins. It covers the default settings on a
log with every column, in a time zone with a fixed offset. It writes Parquet, and so has no
statistics to make and no examples to serialize.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from cmdcm.core.config import Config
from cmdcm.datasets.calendar import DAY_MS, HOUR_MS, calendar_of
from cmdcm.features.columns import ITEM_PROMOTIONS, SEQUENCES, USER_PROMOTIONS

OFFSET_MS = 8 * HOUR_MS
"""Of Asia/Shanghai."""


def write_features(files: Sequence[str], config: Config, observed_until_ms: int, out: Path) -> int:
    """Computes the examples of a log; returns the number of rows in the Parquet file `out`."""
    connection = duckdb.connect(config={"threads": 2, "preserve_insertion_order": False})
    calendar = calendar_of(config.calendar)
    connection.execute(
        "CREATE TABLE promotions (number INT, name TEXT, promo TEXT, s BIGINT, p BIGINT, e BIGINT)"
    )
    connection.executemany(
        "INSERT INTO promotions VALUES (?, ?, ?, ?, ?, ?)",
        [
            (n, p.name, p.kind, p.pre_promotion_start_ms, p.promotion_start_ms, p.promotion_end_ms)
            for n, p in enumerate(calendar.promotions)
        ],
    )
    for statement in _statements(list(files), config, observed_until_ms, out):
        connection.execute(statement)
    return int(connection.execute(f"SELECT count(*) FROM '{out}'").fetchall()[0][0])


def _statements(files: list[str], config: Config, observed: int, out: Path) -> list[str]:
    features, intent = config.features, config.labels.intent
    kinds, windows = features.count_kinds, range(len(features.windows_hours) + 1)
    attribution = round(config.labels.attribution_days * DAY_MS)

    def running(entity: str, keys: str, time: str) -> str:
        """Running totals of the events by kind, one row for each time of a key."""
        sums = ", ".join(f"count(*) FILTER (kind = '{kind}') AS {kind}" for kind in kinds)
        totals = ", ".join(f"sum({kind}) OVER w AS {kind}" for kind in (*kinds, "n"))
        return (
            f"CREATE TABLE {entity}_running AS SELECT {keys}, x, {totals} FROM (SELECT {keys}, "
            f"{time} AS x, {sums}, count(*) FILTER (kind <> 'impression') AS n FROM events "
            f"GROUP BY ALL) WINDOW w AS (PARTITION BY {keys} ORDER BY x ROWS UNBOUNDED PRECEDING)"
        )

    def counts(entity: str, keys: Sequence[str], time: str, since: Sequence[str]) -> str:
        """Counts of each click by kind and window: differences of two running totals."""
        same = " AND ".join(f"a.{key} = {{0}}.{key}" for key in keys)

        def before(name: str, instant: str) -> str:
            return (
                f"ASOF LEFT JOIN {entity}_running {name} ON {same.format(name)} "
                f"AND {instant} > {name}.x"
            )

        values = ", ".join(
            # A window that opens after the end has no events.
            f"greatest(coalesce(b.{kind}, 0) - coalesce(w{n}.{kind}, 0), 0)::INT"
            for kind in kinds
            for n in windows
        )
        joins = " ".join(before(f"w{n}", instant) for n, instant in enumerate(since))
        extra = f", coalesce(b.n, 0) AS n, {', '.join(f'b.{k} AS {k}' for k in kinds)}"
        return (
            f"CREATE TABLE {entity}_counted AS SELECT a.id, [{values}] AS counts"
            f"{extra if entity == 'user' else ''} FROM anchors a {before('b', time)} {joins}"
        )

    def promotions(entity: str, values: Sequence[str]) -> str:
        sums = ", ".join(
            "(sum(clicks) > 0)::INT AS promotions_seen"
            if value == "promotions_seen"
            else f"sum({value})::INT AS {value}"
            for value in values
        )
        before = ", ".join(f"coalesce(sum({value}) OVER w, 0)::INT" for value in values)
        return (
            f"CREATE TABLE {entity}_promotions AS WITH b AS (SELECT {entity}_id, number, {sums} "
            f"FROM pairs GROUP BY ALL) SELECT {entity}_id, number, [{before}] AS earlier FROM b "
            f"WINDOW w AS (PARTITION BY {entity}_id ORDER BY number ROWS BETWEEN UNBOUNDED "
            "PRECEDING AND 1 PRECEDING)"
        )

    def listed(name: str, kind: str) -> str:
        order = "ORDER BY t DESC, item_id DESC, category_id DESC"
        return (
            f"CREATE TABLE {name} AS SELECT user_id, list(item_id {order}) AS items, "
            f"list(category_id {order}) AS categories, list(t {order}) AS times, count(*) AS n "
            f"FROM events WHERE kind = '{kind}' GROUP BY user_id"
        )

    def sequences(name: str, kind: str) -> str:
        """Slices of the users' lists, newest first: what is not yet there at the click is cut."""
        length = features.clicked_length if kind == "click" else features.intent_length
        first = f"(l.n - coalesce(u.{kind}, 0))"
        cut = f"[{first} + 1:{first} + {length}]"
        return (
            f"CREATE TABLE {name}_cut AS SELECT a.id, l.items{cut} AS items, l.categories{cut} AS "
            f"categories, [(a.t - x) // 1000 for x in l.times{cut}] AS ages FROM anchors a JOIN "
            f"user_counted u USING (id) JOIN {name} l ON a.user_id = l.user_id"
        )

    def cuts(name: str) -> str:
        return ", ".join(
            f"coalesce({name}_cut.{column}, []) AS {name}_{suffix}"
            for column, suffix in (
                ("items", "item_ids"),
                ("categories", "category_ids"),
                ("ages", "ages"),
            )
        )

    of_user = [*(f"a.t - {h * HOUR_MS}" for h in features.windows_hours), "a.s"]
    hour, opened = f"a.t // {HOUR_MS}", f"(a.s + {HOUR_MS - 1}) // {HOUR_MS}"
    of_all = [*(f"{hour} - {h}" for h in features.windows_hours), opened]
    known = f"least(a.p, a.t + {attribution})"
    pair = "a.user_id = {0}.user_id AND a.item_id = {0}.item_id"
    direct = f"coalesce(bought.t < {known}, false)"
    delayed = f"(NOT {direct} AND coalesce(later.t < a.e, false))"
    cart = f"coalesce(wanted.t < {known}, false)"
    return [
        "CREATE TABLE events AS SELECT user_id, item_id, category_id, seller_id, brand_id, price, "
        "kind::TEXT AS kind, epoch_ms(timestamp) AS t, number, name, promo, s, p, e "
        f"FROM (SELECT * FROM read_parquet({files})) "
        "ASOF LEFT JOIN promotions ON epoch_ms(timestamp) >= s",
        "CREATE TABLE anchors AS SELECT *, row_number() OVER () AS id FROM events WHERE kind = "
        f"'click' AND t < p AND e <= {observed}",
        "CREATE TABLE pairs AS WITH b AS (SELECT user_id, item_id, number, min(category_id) AS "
        "category_id, count(*) FILTER (kind = 'click' AND t < p) AS clicks, count(*) FILTER (kind "
        f"= 'purchase' AND t >= p) AS day_purchases, min(t) FILTER (kind = '{intent}' AND t < p) "
        "AS first_intent, max(t) FILTER (kind = 'purchase' AND t < p) AS last_purchase FROM events "
        f"WHERE t < e AND kind IN ('click', '{intent}', 'purchase') GROUP BY ALL), c AS (SELECT *, "
        "first_intent IS NOT NULL AS intents, first_intent IS NOT NULL AND coalesce(last_purchase "
        "< first_intent, true) AS open_intents FROM b) SELECT *, (intents AND day_purchases > 0) "
        "AS intents_bought, (open_intents AND day_purchases > 0) AS open_intents_bought FROM c",
        running("user", "user_id", "t"),
        running("pair", "user_id, item_id", "t"),
        running("both", "user_id, category_id", "t"),
        running("item", "item_id", f"t // {HOUR_MS}"),
        running("category", "category_id", f"t // {HOUR_MS}"),
        counts("user", ["user_id"], "a.t", of_user),
        counts("pair", ["user_id", "item_id"], "a.t", of_user),
        counts("both", ["user_id", "category_id"], "a.t", of_user),
        counts("item", ["item_id"], hour, of_all),
        counts("category", ["category_id"], hour, of_all),
        promotions("user", USER_PROMOTIONS),
        promotions("item", ITEM_PROMOTIONS),
        promotions("category", ITEM_PROMOTIONS),
        *(listed(name, kind) for name, kind in SEQUENCES.items()),
        *(sequences(name, kind) for name, kind in SEQUENCES.items()),
        "CREATE TABLE buys AS SELECT user_id, item_id, t FROM events WHERE kind = 'purchase'",
        f"CREATE TABLE wants AS SELECT user_id, item_id, t FROM events WHERE kind = '{intent}'",
        f"CREATE TABLE labels AS SELECT a.id, {direct} AS direct, {cart} AS cart, ({cart} AND "
        f"coalesce(bought.t >= a.p, true)) AS open_cart, {delayed} AS delayed, ({direct} OR "
        f"{delayed}) AS conversion, CASE WHEN {direct} THEN bought.t - a.t WHEN {delayed} THEN "
        "later.t - a.t ELSE -1 END AS delay FROM anchors a "
        f"ASOF LEFT JOIN buys bought ON {pair.format('bought')} AND a.t <= bought.t "
        f"ASOF LEFT JOIN buys later ON {pair.format('later')} AND a.p <= later.t "
        f"ASOF LEFT JOIN wants wanted ON {pair.format('wanted')} AND a.t <= wanted.t",
        "COPY (SELECT a.user_id, uc.n AS user_history, uc.counts AS user_counts, up.earlier AS "
        f"user_promotions, {', '.join(cuts(name) for name in SEQUENCES)}, "
        f"((a.p - a.t) / {float(HOUR_MS)})::FLOAT AS hours_to_promotion, "
        f"(a.t + {OFFSET_MS}) // {HOUR_MS} % 24 AS hour_of_day, "
        f"((a.t + {OFFSET_MS}) // {DAY_MS} + 3) % 7 AS weekday, promo AS promotion_kind, "
        "a.item_id, a.category_id, seller_id, brand_id, price::FLOAT AS price, "
        "ic.counts AS item_counts, ip.earlier AS item_promotions, cc.counts AS category_counts, "
        "cp.earlier AS category_promotions, pc.counts AS user_item_counts, "
        "bc.counts AS user_category_counts, "
        "direct::BIGINT AS direct, labels.cart::BIGINT AS cart, open_cart::BIGINT AS open_cart, "
        "delayed::BIGINT AS delayed, conversion::BIGINT AS conversion, a.name AS promotion, "
        f"a.t AS click_time_ms, least({observed}, a.e) AS observation_time_ms, {known} AS "
        "direct_known_ms, a.e AS delayed_known_ms, delay AS conversion_delay_ms FROM anchors a "
        "JOIN user_counted uc USING (id) JOIN pair_counted pc USING (id) JOIN both_counted bc "
        "USING (id) JOIN item_counted ic USING (id) JOIN category_counted cc USING (id) "
        "JOIN labels USING (id) "
        + " ".join(f"LEFT JOIN {name}_cut USING (id)" for name in SEQUENCES)
        + " JOIN user_promotions up ON a.user_id = up.user_id AND a.number = up.number "
        "JOIN item_promotions ip ON a.item_id = ip.item_id AND a.number = ip.number "
        "JOIN category_promotions cp ON a.category_id = cp.category_id AND a.number = cp.number"
        f") TO '{out}' (FORMAT parquet)",
    ]
