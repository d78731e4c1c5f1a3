"""How many rows a table of hashed ids needs, from the number of ids in the examples."""

from collections.abc import Iterator

from absl import logging

from cmdcm.features.spec import FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder

_FEWEST = 16


def collision_rate(distinct: int, buckets: int) -> float:
    """Returns the expected share of distinct ids that hashing loses.

    d ids fall on B (1 - (1 - 1/B)^d) buckets on average. The rest of the d ids found their bucket
    taken, so the share is (d - B (1 - (1 - 1/B)^d)) / d.

    Example:
        >>> round(collision_rate(100_000, 100_000), 4), collision_rate(1, 10)
        (0.3679, 0.0)
    """
    if distinct < 2:
        return 0.0
    return float(1 - buckets * (1 - (1 - 1 / buckets) ** distinct) / distinct)


def choose_buckets(distinct: int, max_rate: float) -> int:
    """Returns the fewest buckets, 2^k or 1.5 * 2^k, whose collision rate is at most `max_rate`.

    Such steps leave the size as it is while the log grows a little: tables of another size share
    no row, so a warm start would lose them.

    Example:
        >>> choose_buckets(100_000, 0.2), choose_buckets(110_000, 0.2), choose_buckets(0, 0.2)
        (262144, 262144, 16)
    """
    return next(b for b in _steps() if collision_rate(distinct, b) <= max_rate)


def _steps() -> Iterator[int]:
    size = _FEWEST
    while True:
        yield size
        yield size + size // 2
        size *= 2


def choose_rows(spec: FeatureSpec, statistics: StatisticsBuilder, max_rate: float) -> FeatureSpec:
    """Returns the spec with the rows of each hashed table that has none yet.

    The ids of a table are those of all features that share it.

    Args:
        spec: The columns, with 0 buckets where they are to be chosen.
        statistics: Of the examples.
        max_rate: Bound of `collision_rate`.
    """
    shared: dict[str, list[str]] = {}
    for feature in spec.inputs:
        if feature.encoding == "hash" and not feature.buckets:
            shared.setdefault(feature.table, []).append(feature.name)
    chosen = {}
    for table, names in shared.items():
        distinct = round(statistics.distinct(names))
        chosen[table] = choose_buckets(distinct, max_rate)
        logging.info("table %s: about %d ids, %d rows", table, distinct, chosen[table])
    return FeatureSpec(
        features=tuple(
            f.model_copy(update={"buckets": chosen[f.table]})
            if f.encoding == "hash" and not f.buckets
            else f
            for f in spec.features
        )
    )
