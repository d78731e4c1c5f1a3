"""Statistics against NumPy, and their independence of order and partition."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import statistics_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.column_statistics import COUNTED_STRINGS
from cmdcm.features.sketches import Categories, Numbers
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder, read_statistics

SPEC = FeatureSpec(
    features=(
        Feature(name="user", dtype="int64", side="user", encoding="hash", buckets=9, table="user"),
        Feature(name="price", dtype="float32", side="item"),
        Feature(name="kind", dtype="string", side="context"),
        Feature(name="counts", dtype="int64", side="user", shape="vector", length=3),
        Feature(name="items", dtype="int64", side="user", shape="sequence", length=4),
        Feature(name="words", dtype="string", side="user", shape="sequence", length=4),
        Feature(name="absent", dtype="int64", side="user"),
    )
)


def table(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 5, rows)
    return pa.table(
        {
            "user": random.integers(0, 5_000, rows),
            "price": pa.array(random.normal(5, 2, rows), mask=random.random(rows) < 0.1),
            "kind": pa.array(
                [None if x == 3 else f"kind {x}" for x in random.integers(0, 4, rows)]
            ),
            "counts": pa.array(random.poisson(1, (rows, 3)).astype(np.int32).tolist()),
            "items": pa.array(
                [None if n == 4 else random.integers(-9, 9, n).tolist() for n in lengths],
                pa.list_(pa.int64()),
            ),
            "words": pa.array([["é", "ab"][:n] for n in lengths], pa.list_(pa.string())),
        }
    )


def statistics_of(*tables: pa.Table) -> dict[str, statistics_pb2.FeatureNameStatistics]:
    builder = StatisticsBuilder(SPEC)
    for part in tables:
        builder.add(part)
    dataset = builder.proto().datasets[0]
    assert dataset.num_examples == sum(len(part) for part in tables)
    return {feature.path.step[0]: feature for feature in dataset.features}


def test_numbers_against_numpy():
    data = table(3_000)
    price = statistics_of(data)["price"].num_stats
    expected = data["price"].drop_null().cast(pa.float32()).to_numpy().astype(np.float64)
    assert price.common_stats.num_missing == data["price"].null_count
    assert price.common_stats.num_non_missing == len(expected)
    assert price.mean == pytest.approx(expected.mean(), rel=1e-12)
    assert price.std_dev == pytest.approx(expected.std(), rel=1e-9)
    assert (price.min, price.max) == (expected.min(), expected.max())
    assert price.median == pytest.approx(np.median(expected), rel=0.05)
    for bucket in price.histograms[0].buckets:
        if bucket.low_value > 0:
            inside = (expected >= bucket.low_value) & (expected < bucket.high_value)
            assert bucket.sample_count == inside.sum()
    assert sum(b.sample_count for b in price.histograms[0].buckets) == len(expected)


def test_vectors_and_sequences_against_numpy():
    data = table(500)
    got = statistics_of(data)
    counts = np.array(data["counts"].to_pylist())
    assert got["counts"].num_stats.num_zeros == (counts == 0).sum()
    assert got["counts"].num_stats.mean == pytest.approx(counts.mean())
    common = got["counts"].num_stats.common_stats
    assert (common.min_num_values, common.max_num_values, common.tot_num_values) == (3, 3, 1_500)

    items = data["items"].to_pylist()
    present = [row for row in items if row is not None]
    common = got["items"].num_stats.common_stats
    assert common.num_missing == len(items) - len(present)
    assert (common.min_num_values, common.max_num_values) == (0, 3)
    assert common.avg_num_values == pytest.approx(np.mean([len(row) for row in present]))
    histogram = {b.low_value: b.sample_count for b in common.num_values_histogram.buckets}
    assert histogram == {n: sum(len(row) == n for row in present) for n in range(4)}
    values = np.array([value for row in present for value in row])
    histogram = {
        (b.low_value, b.high_value): b.sample_count
        for b in got["items"].num_stats.histograms[0].buckets
    }
    assert histogram[0, 0] == (values == 0).sum()
    assert histogram[5, 6] == (values == 5).sum()
    assert histogram[-6, -5] == (values == -5).sum()
    assert histogram[8, 10] == (values == 8).sum()
    assert histogram[-10, -8] == (values <= -8).sum()


def test_strings_are_counted():
    data = table(400)
    kind = statistics_of(data.slice(0, 150), data.slice(150))["kind"].string_stats
    values = [value for value in data["kind"].to_pylist() if value]
    assert kind.unique == 3
    assert kind.avg_length == 6
    assert kind.common_stats.num_missing == 400 - len(values)
    got = {top.value: top.frequency for top in kind.top_values}
    assert got == {value: values.count(value) for value in set(values)}
    frequencies = [top.frequency for top in kind.top_values]
    assert frequencies == sorted(frequencies, reverse=True)
    assert [b.label for b in kind.rank_histogram.buckets] == [t.value for t in kind.top_values]


def test_too_many_strings_are_estimated():
    names = [f"name {i}" for i in range(3 * COUNTED_STRINGS)]
    parts = [pa.table({"kind": names[i::4]}) for i in range(4)]
    kind = statistics_of(*parts)["kind"].string_stats
    assert kind.unique == pytest.approx(3 * COUNTED_STRINGS, rel=0.05)
    assert not kind.top_values
    assert statistics_of(pa.table({"kind": names[:COUNTED_STRINGS]}))[
        "kind"
    ].string_stats.unique == (COUNTED_STRINGS)


def test_distinct_identifiers():
    users = statistics_of(table(20_000))["user"]
    assert users.type == statistics_pb2.FeatureNameStatistics.INT
    distinct, hashes = users.custom_stats
    assert (distinct.name, hashes.name) == ("distinct", "hashes")
    assert sum(bucket.sample_count for bucket in hashes.histogram.buckets) == 20_000
    assert distinct.num == pytest.approx(len(set(table(20_000)["user"].to_pylist())), rel=0.05)


def test_a_value_is_always_in_the_same_bin_of_hashes():
    def bins(*values: str | int) -> dict[float, float]:
        column = "user" if isinstance(values[0], int) else "kind"
        custom = {c.name: c for c in statistics_of(pa.table({column: values}))[column].custom_stats}
        return {b.low_value: b.sample_count for b in custom["hashes"].histogram.buckets}

    (place,) = bins(7)
    assert bins(7, 7, 7) == {place: 3}
    assert sorted(bins(*range(300)).values()) == sorted(
        np.unique(np.concatenate([list(bins(v)) for v in range(300)]), return_counts=True)[1]
    )
    (place,) = bins("é")
    assert bins("é", "é") == {place: 2}


def test_components_of_a_vector_against_numpy():
    data = table(300)
    statistics = statistics_of(data.slice(0, 100), data.slice(100))["counts"]
    values = np.array(data["counts"].to_pylist())
    assert [custom.name for custom in statistics.custom_stats] == [
        f"component:{i}" for i in range(3)
    ]
    for component, custom in zip(values.T, statistics.custom_stats, strict=True):
        got = {b.low_value: b.sample_count for b in custom.histogram.buckets}
        assert got == {n: np.sum(component == n) for n in np.unique(component)}


def test_a_vector_of_another_length_is_in_no_component():
    lists = pa.table({"counts": [[1, 2, 3], [4, 5]]})
    statistics = statistics_of(lists)["counts"]
    assert statistics.num_stats.mean == 3
    bins = [[b.low_value for b in c.histogram.buckets] for c in statistics.custom_stats]
    assert bins == [[1], [2], [3]]


def test_values_in_the_vocabulary_are_counted():
    kind = Feature(
        name="kind", dtype="string", side="context", encoding="vocabulary", table="kind",
        vocabulary=("a", "b"),
    )  # fmt: skip
    builder = StatisticsBuilder(FeatureSpec(features=(kind,)))
    builder.add(pa.table({"kind": ["a", "c", None, "b", "a", ""]}))
    custom = {c.name: c for c in builder.proto().datasets[0].features[0].custom_stats}
    assert custom["in_vocabulary"].num == 3


def test_column_that_the_table_lacks():
    absent = statistics_of(table(10))["absent"].num_stats
    assert absent.common_stats.num_missing == 10
    assert absent.common_stats.num_non_missing == 0
    assert not absent.histograms[0].buckets


def test_wrong_type_is_named():
    with pytest.raises(DataError, match="column 'price' holds string, but its feature is float32"):
        StatisticsBuilder(SPEC).add(pa.table({"price": ["5"]}))


def test_not_finite_values_are_counted_apart():
    values = pa.array([1.0, math.nan, math.inf, -math.inf, 3.0], pa.float32())
    price = statistics_of(pa.table({"price": values}))["price"].num_stats
    assert (price.mean, price.min, price.max) == (2, 1, 3)
    assert price.histograms[0].num_nan == 1
    assert price.histograms[0].num_undefined == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=4), st.integers(0, 3), st.randoms())
def test_order_and_partition_do_not_matter(cuts, seed, random):
    data = table(300, seed)
    bounds = [0, *sorted(cuts), 300]
    parts = [data.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    random.shuffle(parts)
    builders = []
    for part in parts:
        builders.append(StatisticsBuilder(SPEC))
        builders[-1].add(part)
    first, *rest = builders
    for builder in rest:
        first.merge(builder)
    whole = StatisticsBuilder(SPEC)
    whole.add(data)
    for got, expected in zip(
        first.proto().datasets[0].features, whole.proto().datasets[0].features, strict=True
    ):
        for proto in (got, expected):
            stats = proto.num_stats if proto.HasField("num_stats") else proto.string_stats
            for field in ("mean", "std_dev", "avg_length"):
                if hasattr(stats, field):
                    setattr(stats, field, float(f"{getattr(stats, field):.10g}"))
            common = stats.common_stats
            common.avg_num_values = float(f"{common.avg_num_values:.6g}")
        assert got == expected


def test_merging_another_spec_is_an_error():
    with pytest.raises(ValueError, match="different specs"):
        StatisticsBuilder(SPEC).merge(StatisticsBuilder(FeatureSpec(features=SPEC.features[:2])))


def built(*tables: pa.Table) -> StatisticsBuilder:
    builder = StatisticsBuilder(SPEC)
    for part in tables:
        builder.add(part)
    return builder


def test_bytes_give_the_same_builder():
    many = pa.table({"kind": [f"name {i}" for i in range(COUNTED_STRINGS + 1)]})
    odd = pa.table(
        {
            "price": pa.array([math.nan, math.inf, -0.0, 1e-30], pa.float32()),
            "words": pa.array([["", "\x00", "é" * 99], [], None, ["\x00"]]),
        }
    )
    for parts in ([], [table(300)], [table(300), table(99, 1)], [odd], [table(9), many], [many]):
        builder = built(*parts)
        data = builder.to_bytes()
        again = StatisticsBuilder.from_bytes(SPEC, data)
        assert again.to_bytes() == data == builder.to_bytes()
        assert again.proto().SerializeToString(deterministic=True) == (
            builder.proto().SerializeToString(deterministic=True)
        )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5)), min_size=1, max_size=4))
def test_builders_from_bytes_merge_bit_for_bit(parts):
    builders = [built(table(rows, seed)) for rows, seed in parts]
    again = [StatisticsBuilder.from_bytes(SPEC, builder.to_bytes()) for builder in builders]
    for group in (builders, again):
        for other in group[1:]:
            group[0].merge(other)
        group[0].add(table(50, 9))
    assert again[0].to_bytes() == builders[0].to_bytes()
    assert again[0].proto() == builders[0].proto()


def test_bytes_of_another_spec_or_damaged_are_refused():
    data = built(table(50)).to_bytes()
    with pytest.raises(DataError, match="another feature spec"):
        StatisticsBuilder.from_bytes(FeatureSpec(features=SPEC.features[:2]), data)
    half = len(data) // 2
    for bad in (b"", b"x", data[:half], data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]):
        with pytest.raises(DataError, match="hold no statistics"):
            StatisticsBuilder.from_bytes(SPEC, bad)


def test_written_statistics_read_back(tmp_path):
    builder = StatisticsBuilder(SPEC)
    builder.add(table(50))
    builder.write(tmp_path / "statistics.pbtxt")
    assert read_statistics(tmp_path / "statistics.pbtxt") == builder.proto()
    (tmp_path / "bad").write_text("datasets {")
    with pytest.raises(DataError, match="bad holds no statistics"):
        read_statistics(tmp_path / "bad")
    with pytest.raises(DataError, match="cannot read statistics"):
        read_statistics(tmp_path / "missing")


@settings(deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1), st.lists(st.floats(-1e12, 1e12)))
def test_moments_against_numpy(first, second):
    numbers, other = Numbers(), Numbers()
    numbers.add(np.array(first))
    other.add(np.array(second))
    numbers.merge(other)
    values = np.array([*first, *second])
    scale = np.abs(values).max() + 1e-300
    assert numbers.count == len(values)
    assert numbers.mean == pytest.approx(values.mean(), abs=1e-12 * scale)
    assert numbers.deviation == pytest.approx(values.std(), abs=1e-7 * scale)
    assert (numbers.low, numbers.high) == (values.min(), values.max())
    assert numbers.low <= numbers.median() <= numbers.high
    for low, high, count in numbers.bins():
        if low > 0:
            assert count == ((values >= low) & (values < high)).sum()
        elif high < 0:
            assert count == ((values > low) & (values <= high)).sum()
        else:
            assert count == (np.abs(values) < 2.0**-20).sum()


def test_deviation_of_large_numbers_close_together():
    numbers = Numbers()
    numbers.add(np.array([1_510_000_000_001, 1_510_000_000_003]))
    assert numbers.deviation == 1


def test_values_beyond_the_last_bin():
    numbers = Numbers()
    numbers.add(np.array([1e30, -1e30], np.float32))
    (low, _, _), (_, high, _) = numbers.bins()
    assert (low, high) == (numbers.low, numbers.high)


@pytest.mark.parametrize("count", [0, 1, 10, 1_000, 10_000, 300_000])
def test_distinct_estimate(count):
    values = np.arange(count) * 1_000_003
    one, other, all_at_once = Categories(), Categories(), Categories()
    one.add_integers(values[: count * 2 // 3])
    other.add_integers(values[count // 3 :])
    one.merge(other)
    all_at_once.add_integers(np.tile(values, 2))
    assert one.distinct() == all_at_once.distinct()
    assert one.distinct() == pytest.approx(count, rel=0.05, abs=0.1)  # three standard errors
