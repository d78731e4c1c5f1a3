"""Raw values -> ids, embeddings and numbers."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.features.spec import Encoding, Feature, FeatureSpec
from cmdcm.model.inputs import AGE_BUCKETS, InputEncoder, SmoothedRates, age_bucket
from cmdcm.model.rows import feature_ids, hash_ids, vocabulary_ids
from cmdcm.tests.model.batches import COLUMNS, random_batch, rows_of, sides, tiny_spec
from cmdcm.tests.model.reference import smoothed_rates, split_mix

# FarmHash Fingerprint64: the first is from Guava's tests, the others from BigQuery's manual.
FINGERPRINTS = {
    "test": 8581389452482819506,
    "1footrue": -1541654101129638711,
    "2applefalse": 2794438866806483259,
}


@pytest.fixture(scope="module")
def spec():
    return tiny_spec()


@pytest.fixture(scope="module")
def batch(spec):
    return random_batch(spec, rows=5, seed=3)


@pytest.fixture(scope="module")
def encoder(spec):
    tf.keras.utils.set_random_seed(2)
    return InputEncoder(spec, dim=3)


@pytest.fixture(scope="module")
def encoded(spec, batch, encoder):
    return encoder(*sides(spec, batch))


def row(encoder: InputEncoder, feature: Feature, value: object) -> np.ndarray:
    """The table's row of a raw value, with the offset summed over the tables before."""
    if feature.encoding == "hash":
        index = (split_mix(int(value)) >> 1) % feature.buckets  # type: ignore[call-overload]
    elif feature.encoding == "vocabulary":
        words = [*feature.vocabulary, value.decode()]  # type: ignore[attr-defined]
        index = words.index(words[-1])
    else:
        index = int(value)  # type: ignore[call-overload]
    offset = 0
    for table, rows in encoder.spec.tables().items():
        if table == feature.table:
            break
        offset += rows
    return encoder.table.numpy()[offset + index]


# Ids


@pytest.mark.parametrize("value", [0, 1, 2, 1000, -1, -(2**63), 2**63 - 1, 123456789012345678])
@pytest.mark.parametrize("buckets", [1, 7, 1000, 2**31])
def test_integers_are_hashed_by_split_mix(value, buckets):
    hashed = int(hash_ids(tf.constant(value, tf.int64), buckets))
    assert hashed == (split_mix(value) >> 1) % buckets


def test_the_reference_is_split_mix():
    # The first outputs for the seed 1234567, as published with the generator.
    seed, gamma = 1234567, 0x9E3779B97F4A7C15
    assert split_mix(seed) == 6457827717110365317
    assert split_mix(seed + gamma) == 3203168211198807973


@pytest.mark.parametrize("stride", [1, 1000, 1024])
def test_regular_ids_spread_evenly(stride):
    ids = tf.range(0, 100_000 * stride, stride, tf.int64)
    counts = np.bincount(hash_ids(ids, 128), minlength=128)
    expected = 100_000 / 128
    # Chi-square with 127 degrees of freedom: mean 127, standard deviation 16.
    assert 127 - 80 < ((counts - expected) ** 2 / expected).sum() < 127 + 80


@pytest.mark.parametrize("text", FINGERPRINTS)
def test_strings_are_hashed_by_farm_hash(text):
    for buckets in (1000, 2**40):
        expected = FINGERPRINTS[text] % 2**64 % buckets
        assert int(hash_ids(tf.constant(text), buckets)) == expected


def test_shapes_of_ids_stay():
    assert hash_ids(tf.zeros([2, 3], tf.int64), 10).shape == [2, 3]
    assert hash_ids(tf.fill([0], "x"), 10).shape == [0]


def test_age_buckets_by_hand():
    seconds = [-1, -(2**40), 0, 1, 2, 5, 59, 3600, 86_400, 30 * 86_400, 2**40]
    buckets = [0, 0, 0, 1, 1, 2, 5, 11, 16, 21, AGE_BUCKETS - 1]
    assert age_bucket(tf.constant(seconds, tf.int64)).numpy().tolist() == buckets


def test_vocabulary():
    values = tf.constant(["b", "a", "nothing", "", "c"])
    assert vocabulary_ids(values, ["a", "b", "c"]).numpy().tolist() == [1, 0, 3, 3, 2]
    assert vocabulary_ids(tf.constant([["c"], ["x"]]), ["a", "b", "c"]).numpy().tolist() == [
        [2],
        [3],
    ]


def test_indices_outside_their_range_are_clipped(spec):
    values = tf.constant([-5, 0, 23, 24, 10**9], tf.int64)
    assert feature_ids(spec["hour_of_day"], values).numpy().tolist() == [0, 0, 23, 23, 23]


# Rates


def test_smoothed_rates_against_numpy():
    random = np.random.default_rng(0)
    counts = random.poisson(5, [4, 3, 2])
    layer = SmoothedRates(kinds=3, windows=2)
    rates = layer(tf.constant(counts.reshape(4, 6)))
    prior, strength = random.normal(-2, 1, [3, 1]), random.normal(1, 1, [3, 1])
    assert rates.shape == [4, 6]
    np.testing.assert_allclose(layer.prior_logit, np.full([3, 1], -3.0))
    np.testing.assert_allclose(tf.exp(layer.log_strength), np.full([3, 1], 10), rtol=0.01)
    layer.prior_logit.assign(prior)
    layer.log_strength.assign(strength)
    expected = smoothed_rates(counts, prior, strength).reshape(4, 6)
    np.testing.assert_allclose(layer(tf.constant(counts.reshape(4, 6))), expected, rtol=1e-5)


def test_a_rate_without_evidence_is_the_prior_and_with_much_the_ratio():
    layer = SmoothedRates(kinds=2, windows=1)
    none, many = layer(tf.constant([[0, 0], [4_000_000, 1_000_000]]))[:, 0].numpy()
    assert none == 0
    assert many == pytest.approx(0.25 * np.log(0.25 * (1 + np.exp(3))), rel=1e-4)
    layer.prior_logit.assign([[0.7]])
    layer.log_strength.assign([[-0.3]])
    assert layer(tf.zeros([1, 2])).numpy().tolist() == [[0]]


def test_rates_need_two_kinds():
    with pytest.raises(ValueError, match=r"`kinds` should be at least 2. Received: 1"):
        SmoothedRates(1, 3)


def test_rates_config_round_trip():
    layer = SmoothedRates(kinds=3, windows=2, name="rates")
    again = SmoothedRates.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    counts = tf.ones([2, 6])
    np.testing.assert_array_equal(again(counts), layer(counts))


# The encoder


def test_id_features_look_up_their_rows(spec, batch, encoder, encoded):
    for side, features in zip(encoded, (spec.user_inputs, spec.candidate_inputs), strict=True):
        scalars = [f for f in features if f.table and not f.sequence]
        assert len(scalars) == 4
        for n in range(5):
            expected = [row(encoder, f, batch[f.name].numpy()[n]) for f in scalars]
            np.testing.assert_array_equal(side.ids[n], np.concatenate(expected))


def test_tables_do_not_overlap(spec, encoder):
    sizes = spec.tables()
    assert encoder.table.shape == [sum(sizes.values()), 3]
    assert encoder.ids.offsets == dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))


def test_numbers_against_numpy(spec, batch, encoded):
    def number(name: str) -> np.ndarray:
        value = np.asarray(batch[name], np.float64)
        return 0.25 * np.log1p(value).reshape(5, -1)

    def rates(name: str) -> np.ndarray:
        counts = np.asarray(batch[name], np.float64).reshape(5, 4, 2)
        return smoothed_rates(counts, np.full(6, -3.0), np.full(6, 2.3)).reshape(5, -1)

    user = [number(n) for n in ("user_history", "user_counts", "user_promotions")]
    user += [number("hours_to_promotion"), rates("user_counts")]
    np.testing.assert_allclose(encoded[0].numbers, np.concatenate(user, 1), rtol=2e-5, atol=1e-6)

    names = ["price", "item_counts", "item_promotions", "category_counts", "category_promotions"]
    names += ["user_item_counts", "user_category_counts"]
    candidate = [number(n) for n in names] + [rates(n) for n in names if n.endswith("_counts")]
    np.testing.assert_allclose(
        encoded[1].numbers, np.concatenate(candidate, 1), rtol=2e-5, atol=1e-6
    )


def test_sequences_share_the_tables_of_items_and_categories(spec, batch, encoder, encoded):
    assert set(encoded[0].sequences) == {"clicked", "favourited", "carted", "purchased"}
    assert encoded[1].sequences == {}
    for name, (keys, mask, ages) in encoded[0].sequences.items():
        items, categories, seconds = (
            batch[f"{name}_{part}"].numpy() for part in ("item_ids", "category_ids", "ages")
        )
        np.testing.assert_array_equal(mask, seconds >= 0)
        np.testing.assert_array_equal(mask[0], np.zeros(mask.shape[1]))
        for n, t in np.argwhere(seconds >= 0):
            item = row(encoder, spec["item_id"], items[n, t])
            category = row(encoder, spec["category_id"], categories[n, t])
            np.testing.assert_array_equal(keys[n, t], [*item, *category])
            bucket = int(np.log2(seconds[n, t] + 1))
            np.testing.assert_array_equal(ages[n, t], np.eye(AGE_BUCKETS)[bucket])
        np.testing.assert_array_equal(keys.numpy()[seconds < 0], 0)


def test_target_is_the_candidates_item_and_category(spec, batch, encoder, encoded):
    assert encoded[0].target is None
    for n in range(5):
        item = row(encoder, spec["item_id"], batch["item_id"].numpy()[n])
        category = row(encoder, spec["category_id"], batch["category_id"].numpy()[n])
        np.testing.assert_array_equal(encoded[1].target[n], [*item, *category])


def test_penalty_by_hand(spec, batch):
    encoder = InputEncoder(spec, dim=3, l2=0.5)
    for side in encoder(*sides(spec, batch)):
        squares = np.sum(np.square(side.ids), axis=1)
        np.testing.assert_allclose(side.penalty, 0.5 * squares, rtol=1e-6)


def test_no_penalty_by_default(spec, batch, encoder):
    assert [side.penalty for side in encoder(*sides(spec, batch))] == [None, None]


def test_one_user_for_many_candidates(spec, batch, encoder):
    user, candidates = sides(spec, batch)
    one, many = encoder(rows_of(user, 2, 3), candidates)
    assert one.ids.shape == [1, 12]
    assert many.ids.shape == [5, 12]


def test_a_log_without_categories_and_sellers():
    spec = tiny_spec(columns=())
    encoder = InputEncoder(spec, dim=2)
    user, candidates = encoder(*sides(spec, random_batch(spec, 3)))
    assert "category" not in encoder.ids.tables
    np.testing.assert_array_equal(candidates.target[:, 2:], np.zeros([3, 2]))
    np.testing.assert_array_equal(candidates.target[:, :2], candidates.ids)
    for keys, _, _ in user.sequences.values():
        np.testing.assert_array_equal(keys[:, :, 2:], np.zeros([3, keys.shape[1], 2]))


def test_string_ids():
    ids = ("user_id", "item_id", "category_id", "seller_id", "brand_id")
    spec = tiny_spec(COLUMNS, ids)
    batch = random_batch(spec, 2) | {"user_id": tf.constant(["1footrue", "test"])}
    encoder = InputEncoder(spec, dim=2)
    user, _ = encoder(*sides(spec, batch))
    rows = [FINGERPRINTS[text] % 2**64 % 50 for text in ("1footrue", "test")]
    table = encoder.table.numpy()[encoder.ids.offsets["user"] :]
    np.testing.assert_array_equal(user.ids[:, :2], table[rows])


ITEM = Feature(name="item_id", dtype="int64", side="item", encoding="hash", buckets=5, table="item")
TWO_ITEMS = {"item_id": tf.constant([7, 8], tf.int64)}


def vector(name: str, components: tuple[str, ...], encoding: Encoding = "log1p") -> Feature:
    return Feature(
        name=name,
        dtype="int64",
        shape="vector",
        length=4,
        side="user",
        encoding=encoding,
        components=components,
    )


def test_rates_are_of_counter_vectors_whatever_their_name():
    shop = vector("shop", ("click_1d", "click_window", "add_to_cart_1d", "add_to_cart_window"))
    encoder = InputEncoder(FeatureSpec(features=(shop, ITEM)), dim=2)
    counts = np.array([[5, 6, 1, 2], [3, 4, 0, 0]])
    user, _ = encoder({"shop": tf.constant(counts)}, TWO_ITEMS)
    rates = smoothed_rates(counts.reshape(2, 2, 2), np.full(1, -3.0), np.full(1, 2.3))
    expected = np.concatenate([0.25 * np.log1p(counts), rates.reshape(2, 2)], axis=1)
    np.testing.assert_allclose(user.numbers, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "components",
    [
        ("click_1h", "click_1d", "click_7d", "click_window"),
        ("click_1d", "click_window", "cart_1d", "cart_7d"),
        ("click_1d", "click_7d", "click_window", "cart_1d"),
        ("click_1d", "cart_1d", "click_window", "cart_window"),
        ("clicks", "intents", "open_intents", "purchases"),
        (),
    ],
    ids=["one kind", "other windows", "fewer windows", "window-major", "no windows", "unnamed"],
)
def test_other_vectors_have_no_rates(components):
    spec = FeatureSpec(features=(vector("user_counts", components), ITEM))
    encoder = InputEncoder(spec, dim=2)
    counts = [[1, 2, 0, 9], [3, 4, 5, 0]]
    user, _ = encoder({"user_counts": tf.constant(counts)}, TWO_ITEMS)
    np.testing.assert_allclose(user.numbers, 0.25 * np.log1p(counts), rtol=1e-6)


def test_raw_vectors_have_no_rates():
    shares = vector("shares", ("click_1d", "click_7d", "cart_1d", "cart_7d"), encoding="raw")
    assert InputEncoder(FeatureSpec(features=(shares, ITEM)), dim=2).rates == {}


def test_the_counters_of_an_example_have_rates(encoder):
    assert set(encoder.rates) == {
        "user_counts",
        "item_counts",
        "category_counts",
        "user_item_counts",
        "user_category_counts",
    }


def test_raw_numbers_and_negative_ones():
    a = Feature(name="a", dtype="float32", side="user", encoding="log1p")
    b = Feature(name="b", dtype="float32", side="user", encoding="raw")
    values = tf.constant([-3.0, 1.5])
    encoder = InputEncoder(FeatureSpec(features=(a, b, ITEM)), dim=2)
    user, _ = encoder({"a": values, "b": values}, TWO_ITEMS)
    np.testing.assert_allclose(user.numbers, [[0, -3], [0.25 * np.log(2.5), 1.5]], rtol=1e-6)
    assert user.ids.shape == [2, 0]
