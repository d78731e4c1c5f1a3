"""The tables' memory: by hand, refused when there is too little, printed before a run."""

import pytest

from cmdcm.core.config import ModelConfig
from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.table_memory import check_tables, table_sizes


def hashed(name: str, table: str, buckets: int) -> Feature:
    return Feature(
        name=name, dtype="int64", side="user", encoding="hash", buckets=buckets, table=table
    )


SPEC = FeatureSpec(
    features=(
        hashed("user_id", "user", 1_000),
        hashed("item_id", "item", 50_000),
        hashed("last_item", "item", 50_000),  # shares the table
    )
)
TABLES = table_sizes(SPEC, ModelConfig(embedding_dim=10))


def test_sizes_by_hand():
    """Ten columns of four bytes: weight, accumulator, and a checkpoint's copy of both."""
    assert [(t.name, t.rows, t.size) for t in TABLES] == [
        ("item", 50_000, 8_000_000),
        ("user", 1_000, 160_000),
    ]
    shared = table_sizes(SPEC, ModelConfig(embedding_dim=10), background=False)
    assert [t.size for t in shared] == [6_000_000, 120_000]


def test_what_fits_is_said():
    line = check_tables(TABLES, free=8_160_000)
    assert line.startswith("embedding tables take 8.2 MB in training: item 50,000 rows 8.0 MB")
    assert "4.1 MB on each of 2 parameter servers" in check_tables(TABLES, 2, free=4_080_000)
    assert check_tables(TABLES)  # of this host's memory


def test_a_table_of_known_ids_takes_their_list_too():
    """Sixteen bytes an id; and FTRL keeps two numbers of each weight instead of one."""
    known = hashed("user_id", "user", 1_000).model_copy(update={"encoding": "known"})
    spec, config = FeatureSpec(features=(known,)), ModelConfig(embedding_dim=10)
    (table,) = table_sizes(spec, config, "ftrl")
    assert table.size == 1_000 * (6 * 10 * 4 + 16)
    assert "user 1,000 known ids 0.3 MB" in check_tables([table], free=10**6)
    with pytest.raises(ConfigError, match=r"raise tables\.min_count until it has at most 500, low"):
        check_tables([table], free=128_000)


def test_several_hashes_of_an_id_take_no_more_rows():
    twice = hashed("user_id", "user", 1_000).model_copy(update={"hashes": 2})
    (table,) = table_sizes(FeatureSpec(features=(twice,)), ModelConfig(embedding_dim=10))
    assert (table.rows, table.size) == (1_000, 160_000)


@pytest.mark.parametrize(
    ("free", "servers", "advice"),
    [
        (4_160_000, 1, "at most 25,000 buckets"),
        (2_080_000, 2, "at most 25,000 buckets"),
        (100_000, 1, "shrink the others too"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_table_named(free, servers, advice):
    with pytest.raises(ConfigError, match=rf"'item', has 50,000 rows; .*{advice}"):
        check_tables(TABLES, servers, free)
    if advice.startswith("at most"):
        smaller = FeatureSpec(
            features=(hashed("user_id", "user", 1_000), hashed("item_id", "item", 25_000))
        )
        assert check_tables(table_sizes(smaller, ModelConfig(embedding_dim=10)), servers, free)
