"""Raw ids -> rows: families of hashes, lists of known ids, rows that the host finds."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import Config, TablesConfig, TrainingConfig, load_config
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.log import open_event_log
from cmdcm.features.buckets import choose_buckets, collision_rate
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.known_ids import KeyCounter, table_spec
from cmdcm.model.rows import hash_ids, id_keys, known_ids
from cmdcm.model.trained import MODEL, load_model
from cmdcm.model.training import train
from cmdcm.model.transfer import transfer
from cmdcm.tests.model.batches import (
    know,
    random_batch,
    shake,
    sides,
    tiny_model,
    tiny_spec,
    with_tables,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1


def split_mix(seed: int, number: int) -> int:
    """Output `number` of SplitMix64, by the published code."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(INT64, st.integers(0, 7), st.integers(1, 2**40))
def test_the_hashes_of_an_integer_are_the_outputs_of_split_mix(value, number, buckets):
    expected = (split_mix(value, number) >> 1) % buckets
    assert int(hash_ids(tf.constant(value, tf.int64), buckets, number)) == expected


def test_the_hashes_of_a_string_are_those_of_its_key_but_for_the_first():
    texts = tf.constant(["", "a", "ü" * 300])
    keys = id_keys(texts)
    np.testing.assert_array_equal(
        hash_ids(texts, 1000), tf.strings.to_hash_bucket_fast(texts, 1000)
    )
    np.testing.assert_array_equal(hash_ids(texts, 1000, 2), hash_ids(keys, 1000, 2))


def test_ids_that_collide_under_one_hash_do_not_under_another():
    """Of 3000 ids on 1000 rows few pairs share both, as if the two hashes were independent."""
    ids = tf.range(3000, dtype=tf.int64)
    one, two = (hash_ids(ids, 1000, n).numpy() for n in range(2))
    same = (one[:, None] == one) & (two[:, None] == two)
    pairs = (np.count_nonzero(same) - 3000) / 2
    expected = 3000 * 2999 / 2 / 1000**2  # 4.5
    assert pairs <= expected + 5 * np.sqrt(expected)


@given(st.lists(INT64, min_size=1, unique=True), st.lists(INT64))
def test_known_ids_against_a_dictionary(known, values):
    places = {key: place for place, key in enumerate(sorted(known))}
    values = [*values, *known[:3]]
    found = known_ids(tf.constant(values, tf.int64), tf.constant(sorted(known), tf.int64))
    assert found.numpy().tolist() == [places.get(value, len(known)) for value in values]


def test_an_embedding_is_the_sum_of_the_rows_of_all_hashes():
    spec = with_tables(tiny_spec(), {"item": 3}, {})
    model, batch = shake(tiny_model(spec)), random_batch(spec, 12)
    encoder = model.trunk.encoder
    of_user, of_candidate = encoder(*sides(spec, batch))
    table = encoder.table.numpy()[encoder.ids.offsets["item"] :][: spec.tables()["item"]]

    def embedded(value):
        return sum(table[(split_mix(int(value), n) >> 1) % len(table)] for n in range(3))

    expected = [embedded(value) for value in batch["item_id"]]
    np.testing.assert_allclose(of_candidate.target[:, :3], expected, rtol=1e-5)
    keys, mask, _ = of_user.sequences["clicked"]
    row, place = np.argwhere(mask)[0]
    expected = embedded(batch["clicked_item_ids"][row, place])
    np.testing.assert_allclose(keys[row, place, :3], expected, rtol=1e-5)


def test_rare_and_new_ids_share_the_last_row_and_known_ones_have_their_own():
    spec = with_tables(tiny_spec(string_ids=("user_id",)), {}, {"item": 2, "user": 1})
    model = shake(tiny_model(spec))
    ids = model.trunk.encoder.ids
    ids.set_known({"item": np.array([-5, 9]), "user": id_keys(tf.constant(["ann"])).numpy()})
    (rows,) = ids.of(spec["item_id"], tf.constant([9, 8, -5, 2**62], tf.int64))
    assert (rows - ids.offsets["item"]).numpy().tolist() == [1, 2, 0, 2]
    (rows,) = ids.of(spec["user_id"], tf.constant(["bob", "ann", ""]))
    assert (rows - ids.offsets["user"]).numpy().tolist() == [1, 0, 1]


def test_a_batch_that_the_host_prepared_scores_like_the_raw_one():
    spec = with_tables(tiny_spec(string_ids=("item_id", "user_id")), {"user": 2}, {"item": 30})
    batch = random_batch(spec, 12)
    model = know(shake(tiny_model(spec)), batch)
    prepared = model.trunk.encoder.ids.prepare(spec, batch)
    assert all(prepared[f.name].dtype == tf.int32 for f in spec.inputs if f.table)
    for name, logits in model(batch).items():
        np.testing.assert_array_equal(model(prepared)[name], logits)


@given(st.lists(st.lists(st.integers(-3, 9))), st.integers(1, 4))
def test_the_counter_against_counting_by_hand(parts, count):
    counter = KeyCounter()
    for part in parts:
        counter.add(np.array(part, np.int64))
    every = [key for part in parts for key in part]
    assert counter.at_least(count).tolist() == sorted(
        {key for key in every if every.count(key) >= count}
    )


def test_the_counter_counts_in_between(monkeypatch):
    monkeypatch.setattr("cmdcm.model.known_ids._PENDING", 3)
    counter = KeyCounter()
    for keys in ([5, 1], [5, 7, 7], [1], [5]):
        counter.add(np.array(keys))
    assert counter.at_least(3).tolist() == [5]
    assert counter.at_least(2).tolist() == [1, 5, 7]


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


def looked_up(data: ExampleSet, part: str, table: str) -> list[int]:
    """All ids of a table that a part looks up."""
    ids: list[int] = []
    for batch in examples(data.files(part), data.spec, batch_size=4096):
        for feature in data.spec.inputs:
            if feature.table == table:
                values = batch[feature.name].numpy()
                if feature.sequence:
                    values = values[batch[f"{feature.sequence}_ages"].numpy() >= 0]
                ids += values.ravel().tolist()
    return ids


def test_known_are_the_ids_that_training_looks_up_often_enough(data):
    spec, known = table_spec(
        data, TablesConfig(min_count={"item": 40}, hashes={"user": 2}), TrainingConfig()
    )
    values, counts = np.unique(looked_up(data, "train", "item"), return_counts=True)
    expected = values[counts >= 40]
    assert 0 < len(expected) < len(values)
    np.testing.assert_array_equal(known["item"], expected)
    assert spec.tables()["item"] == len(expected) + 1
    assert {f.encoding for f in spec.inputs if f.table == "item"} == {"known"}
    assert spec["user_id"].hashes == 2 and spec["category_id"].hashes == 1
    # The columns of the examples are the same.
    for one, other in zip(data.spec.features, spec.features, strict=True):
        assert (one.name, one.dtype, one.shape, one.length) == (
            other.name,
            other.dtype,
            other.shape,
            other.length,
        )


def test_tables_that_cannot_be_are_refused(data):
    def refused(match: str, **settings: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match=match):
            table_spec(data, TablesConfig(**settings), TrainingConfig())

    refused(r"tables\.hashes: \['shop'\] are no tables of hashed ids", hashes={"shop": 2})
    refused(r"tables\.min_count: \['weekday'\] are no tables", min_count={"weekday": 2})
    refused(r"no id of table 'item' is looked up 1000000 times", min_count={"item": 10**6})
    with pytest.raises(ConfigError, match=r"hashes and min_count both name \['item'\]"):
        load_config(overrides=["tables.hashes={item = 2}", "tables.min_count={item = 2}"])


@pytest.mark.slow
def test_a_run_with_known_ids_and_several_hashes_is_loaded_as_it_was_trained(
    small_world, data, tmp_path
):
    tables = TablesConfig(min_count={"item": 40}, hashes={"user": 2})
    training = small_world.config.training.model_copy(update={"epochs": 1})
    config: Config = small_world.config.model_copy(update={"tables": tables, "training": training})
    model = train(data, tmp_path, config, progress=False)
    loaded = load_model(tmp_path / MODEL)
    assert loaded.spec == model.spec != data.spec
    batch = next(iter(examples(data.files("test"), data.spec, batch_size=64)))
    features = {f.name: batch[f.name] for f in data.spec.inputs}
    for name, scores in model.scorer(features).items():
        np.testing.assert_array_equal(loaded.scorer(features)[name], scores)


def test_a_warm_start_finds_known_ids_by_the_id():
    spec = with_tables(tiny_spec(), {}, {"item": 3})
    source, target = shake(tiny_model(spec)), tiny_model(spec, seed=5)
    source.trunk.encoder.ids.set_known({"item": np.array([1, 4, 9])})
    target.trunk.encoder.ids.set_known({"item": np.array([-7, 4, 9])})
    (match,) = [m for m in transfer(source, target) if (m.kind, m.name) == ("table", "item")]
    assert (match.size, match.matched, match.dropped) == (4, 3, 1)
    assert match.note == "newly known, as the unknown id: 1; no longer known: 1"
    assert target.trunk.encoder.ids.known("item").numpy().tolist() == [-7, 4, 9]
    batch = random_batch(spec, 12)
    for value in (-7, 1, 4, 9, 100):  # known to either, both or none
        batch["item_id"] = tf.fill([12], tf.constant(value, tf.int64))
        if value == 1:  # its row is gone: it is now like any other id
            before = source({**batch, "item_id": tf.fill([12], tf.constant(100, tf.int64))})
        else:
            before = source(batch)
        for name, logits in target(batch).items():
            np.testing.assert_array_equal(logits, before[name])


@given(st.integers(0, 10**7), st.floats(0.01, 0.9))
def test_chosen_buckets_keep_the_bound_and_are_not_too_many(distinct, rate):
    buckets = choose_buckets(distinct, rate)
    assert collision_rate(distinct, buckets) <= rate
    assert buckets == 16 or collision_rate(distinct, int(buckets / 1.5)) > rate


def test_features_choose_the_rows_of_tables_with_no_buckets(small_world, tmp_path):
    features = {"user_buckets": 0, "item_buckets": 0, "max_collision_rate": 0.1}
    config = small_world.config.model_copy(
        update={"features": small_world.config.features.model_copy(update=features)}
    )
    build_dataset(open_event_log(small_world.events), tmp_path / "examples", config)
    spec = FeatureSpec.load(tmp_path / "examples" / "spec.json")
    data = ExampleSet.open(tmp_path / "examples", config.split)
    for table in ("user", "item"):
        parts = ("train", "validation", "test")
        distinct = len({i for part in parts for i in looked_up(data, part, table)})
        # The number is an estimate, whose standard error is 1.6 %.
        chosen = {choose_buckets(round(distinct * (1 + e)), 0.1) for e in (-0.06, 0.0, 0.06)}
        assert spec.tables()[table] in chosen
    assert spec.tables()["category"] == small_world.config.features.category_buckets
