"""Weights that go over to another model: what means the same predicts the same."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.horizon import KNOTS
from cmdcm.model.inputs import number, number_columns
from cmdcm.model.transfer import Match, as_text, transfer, variables
from cmdcm.tests.model.batches import COLUMNS, VARIANTS, random_batch, shake, tiny_model, tiny_spec

ROWS = 24
SPEC = tiny_spec()
NEW = (
    Feature(name="views", dtype="int64", side="item", encoding="log1p"),
    Feature(name="campaign", dtype="int64", side="context", encoding="hash", buckets=9, table="ad"),
    Feature(
        name="second_item", dtype="int64", side="item", encoding="hash", buckets=40, table="item"
    ),
    Feature(
        name="seen",
        dtype="int64",
        side="user",
        shape="vector",
        length=4,
        encoding="log1p",
        components=("view_1d", "view_7d", "cart_1d", "cart_7d"),
    ),
    *(
        Feature(
            name=f"viewed_{name}",
            dtype="int64",
            side="user",
            shape="sequence",
            length=3,
            sequence="viewed",
            **settings,
        )
        for name, settings in {
            "item_ids": {"encoding": "hash", "buckets": 40, "table": "item"},
            "ages": {"encoding": "age", "default": -1},
        }.items()
    ),
)
"""A number, ids with a new and with a shared table, counters with rates, a sequence."""


def with_features(*new: Feature, spec: FeatureSpec = SPEC) -> FeatureSpec:
    """The spec with new features in front of the others."""
    return FeatureSpec(features=(*new, *spec.features))


def changed(name: str, **settings) -> FeatureSpec:
    return FeatureSpec(
        features=tuple(
            f.model_copy(update=settings) if name in (f.name, f.table) else f for f in SPEC.features
        )
    )


def trained(spec: FeatureSpec = SPEC, **settings) -> RankingModel:
    """A model that looks trained: no weight at its start, and scales that are not trivial."""
    model = shake(tiny_model(spec, **settings))
    random = np.random.default_rng(7)
    for scale in (model.trunk.encoder.user_scale, model.trunk.encoder.candidate_scale):
        scale.mean.assign(random.normal(size=scale.mean.shape))
        scale.deviation.assign(random.uniform(0.5, 2.0, size=scale.deviation.shape))
    return model


def taken_over(source: RankingModel, spec: FeatureSpec, **settings) -> tuple[RankingModel, dict]:
    """A fresh model with the weights of `source`, and what matched, by kind and name."""
    target = tiny_model(spec, seed=5, **settings)
    matches = transfer(source, target)
    assert len({(m.kind, m.name) for m in matches}) == len(matches)
    return target, {(m.kind, m.name): m for m in matches}


def assert_same_logits(one: RankingModel, other: RankingModel, batch, **tolerance) -> None:
    expected, got = one(batch), other(batch)
    assert expected.keys() == got.keys() != set()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], err_msg=name, **tolerance)


ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
"""Sums of more or other terms, of which those that are new are zero."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_changed_gives_the_very_same_predictions(variant):
    source = trained(**VARIANTS[variant])
    batch = random_batch(SPEC, ROWS)
    target, matches = taken_over(source, SPEC, **VARIANTS[variant])
    assert_same_logits(source, target, batch, rtol=0)
    assert all(match.whole and not match.note for match in matches.values())
    assert {kind for kind, _ in matches} == {"table", "input", "weight"}
    fresh = tiny_model(SPEC, seed=5, **VARIANTS[variant])
    name, logit = next(iter(source(batch).items()))
    assert np.abs(fresh(batch)[name] - logit).max() > 0.1, "the test should be able to fail"


def test_the_shares_of_the_time_that_is_left_stay_those_of_the_new_examples():
    source, target = trained(), tiny_model(SPEC, seed=5)
    assert source.horizon is not None
    assert target.horizon is not None
    source.horizon.set_shares(np.linspace(0, 1, len(KNOTS)))
    shares = np.linspace(0.5, 1, len(KNOTS))
    target.horizon.set_shares(shares)
    matches = transfer(source, target)
    np.testing.assert_allclose(target.horizon.shares, shares, rtol=1e-6)
    assert all(match.whole for match in matches)
    source.horizon.set_shares(shares)
    assert_same_logits(source, target, random_batch(SPEC, ROWS), rtol=0)


@pytest.mark.parametrize("horizon", [False, True], ids=["none", "all-ones"])
def test_an_offset_that_the_source_learnt_without_stays_off(horizon):
    source, target = trained(horizon=horizon), tiny_model(SPEC, seed=5)
    assert target.horizon is not None
    target.horizon.set_shares(np.linspace(0.5, 1, len(KNOTS)))
    matches = transfer(source, target)
    assert_same_logits(source, target, random_batch(SPEC, ROWS), rtol=0)
    assert [match.name for match in matches if not match.whole] == ["horizon/shares"]
    assert "off, since the source learnt without it" in as_text(matches)


def test_all_weights_of_the_network_are_known_by_place():
    model = tiny_model(SPEC)
    places = variables(model)
    assert {v.ref() for v in places.values()} == {v.ref() for v in model.variables}
    assert "towers/direct/logit/kernel" in places


@pytest.mark.parametrize("variant", ["cmdcm", "cmdcm-modifiers"])
def test_new_features_change_no_prediction_and_can_be_learned(variant):
    source = trained(**VARIANTS[variant])
    target, matches = taken_over(source, with_features(*NEW), **VARIANTS[variant])
    batch = random_batch(target.spec, ROWS)
    assert_same_logits(source, target, batch, **ROUNDING)
    assert matches["input", "views"] == Match("input", "views", 1, 0, 0)
    # Four counts, and the rate of one pair in two windows.
    assert matches["input", "seen"] == Match("input", "seen", 6, 0, 0)
    assert matches["input", "price"].whole
    assert matches["table", "ad"] == Match("table", "ad", 9, 0, 0, "not in the source")
    assert matches["table", "item"].whole
    kernel = target.trunk.mlp._sublayers[0].kernel
    with tf.GradientTape() as tape:
        loss = target.compute_loss(batch)
    gradient = tape.gradient(loss, kernel).numpy()
    new = np.flatnonzero(~kernel.numpy().any(axis=1))
    columns = sum(m.size - m.matched for (kind, _), m in matches.items() if kind == "input")
    assert len(new) == columns > 0
    # A sequence is learned as soon as a candidate meets a history.
    assert np.count_nonzero(gradient[new].any(axis=1)) >= columns - 6


def test_scales_are_those_of_the_source_where_it_has_the_number():
    source, batch = trained(), random_batch(with_features(*NEW), 200)
    target = tiny_model(with_features(*NEW), seed=5)
    target.adapt(batch)
    of_target = number_columns(target.spec.candidate_inputs)
    adapted = target.trunk.encoder.candidate_scale.mean.numpy()
    transfer(source, target)
    mean = target.trunk.encoder.candidate_scale.mean.numpy()
    before = source.trunk.encoder.candidate_scale.mean.numpy()
    for name, columns in number_columns(SPEC.candidate_inputs).items():
        np.testing.assert_array_equal(mean[of_target[name]], before[columns], err_msg=name)
    np.testing.assert_array_equal(mean[of_target["views"]], adapted[of_target["views"]])
    assert adapted[of_target["views"]] != 0


def test_reordered_features_find_their_weights():
    source = trained()
    target, matches = taken_over(source, FeatureSpec(features=SPEC.features[::-1]))
    assert_same_logits(source, target, random_batch(SPEC, ROWS), **ROUNDING)
    assert all(match.whole for match in matches.values())


def test_a_removed_number_counts_as_its_mean():
    source = trained()
    (place,) = range(*number_columns(SPEC.candidate_inputs)["price"].indices(10**6))
    mean = float(number("log1p", tf.constant(30.0)))
    source.trunk.encoder.candidate_scale.mean[place].assign(mean)
    without = FeatureSpec(features=tuple(f for f in SPEC.features if f.name != "price"))
    target, matches = taken_over(source, without)
    batch = random_batch(SPEC, ROWS)
    assert_same_logits(source, target, batch | {"price": tf.fill([ROWS], 30.0)}, **ROUNDING)
    assert matches["input", "price"] == Match("input", "price", 0, 0, 1)
    assert "price" in as_text(list(matches.values()))


def test_a_log_that_gets_categories_predicts_as_before():
    source = trained(tiny_spec(tuple(c for c in COLUMNS if c != "category_id")))
    target, matches = taken_over(source, SPEC)
    assert_same_logits(source, target, random_batch(SPEC, ROWS), **ROUNDING)
    assert matches["table", "category"].matched == 0


def test_wider_embeddings_predict_as_before():
    source = trained()
    target, matches = taken_over(source, SPEC, embedding_dim=5)
    assert_same_logits(source, target, random_batch(SPEC, ROWS), **ROUNDING)
    assert matches["input", "user_id"] == Match("input", "user_id", 5, 3, 0)


def test_a_vocabulary_goes_by_its_strings():
    old = changed("promotion_kind", vocabulary=("618", "double11", "gone"))
    new = changed("promotion_kind", vocabulary=("new", "double11", "newer", "618"))
    source = trained(old)
    target, matches = taken_over(source, new)
    kinds = {"618": "618", "double11": "double11", "new": "?", "newer": "?", "gone": "?", "x": "?"}
    batch = random_batch(new, len(kinds))
    now, before = (
        batch | {"promotion_kind": tf.constant(list(values))}
        for values in (kinds.keys(), kinds.values())
    )
    expected, got = source(before), target(now)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    assert matches["table", "promotion_kind"] == Match(
        "table", "promotion_kind", 5, 3, 1, "new, as the unknown value: new, newer; gone: gone"
    )


def test_hashes_of_another_number_of_buckets_start_anew():
    source = trained()
    target, matches = taken_over(source, changed("seller", buckets=30))
    first, note = target.trunk.encoder.ids.offsets["seller"], "hashes of 20 buckets do not tell"
    assert matches["table", "seller"].matched == 0
    assert matches["table", "seller"].dropped == 20
    assert matches["table", "seller"].note.startswith(note)
    fresh = tiny_model(target.spec, seed=5).trunk.encoder.table.numpy()
    table = target.trunk.encoder.table.numpy()
    np.testing.assert_array_equal(table[first : first + 30], fresh[first : first + 30])
    # The tables behind it have moved, and came along.
    for name in ("user", "brand", "hour_of_day"):
        one, other = (
            m.trunk.encoder.table.numpy()[m.trunk.encoder.ids.offsets[name] :][:20]
            for m in (source, target)
        )
        np.testing.assert_array_equal(one, other)


def test_an_index_means_the_same_among_more_values():
    source = trained()
    target, matches = taken_over(source, changed("weekday", buckets=9))
    assert matches["table", "weekday"] == Match("table", "weekday", 9, 7, 0)
    batch = random_batch(SPEC, ROWS)
    assert_same_logits(source, target, batch, rtol=0)


def test_ids_that_become_strings_start_anew():
    source = trained()
    _, matches = taken_over(source, tiny_spec(string_ids=("user_id",)))
    assert matches["table", "user"] == Match(
        "table", "user", 50, 0, 50, "hash of int64 before, hash of string now"
    )


def test_heads_go_by_name():
    source = trained(name="esmm")
    target, matches = taken_over(source, SPEC)
    assert matches["weight", "towers/direct/logit/kernel"].whole
    assert matches["weight", "towers/r1/logit/kernel"].note == "not in the source"
    assert matches["weight", "towers/cart/logit/kernel"].note == "not in the new model"
    batch = random_batch(SPEC, ROWS)
    # A fresh gate multiplies by one.
    np.testing.assert_array_equal(target(batch)["direct"], source(batch)["direct"])


@pytest.mark.parametrize("name", ["mmoe", "ple", "pepnet", "hdr"])
def test_inputs_go_by_name_through_experts_and_gates(name):
    source = trained(name=name, trunk_units=(6, 5))
    target, matches = taken_over(source, with_features(*NEW), name=name, trunk_units=(6, 5))
    assert not [m.name for m in matches.values() if m.kind == "weight" and m.dropped]
    assert_same_logits(source, target, random_batch(target.spec, ROWS), **ROUNDING)


def test_another_width_starts_anew_and_is_listed():
    source = trained()
    target, matches = taken_over(source, SPEC, trunk_units=(7,))
    match = matches["weight", "trunk/mlp/_sublayers/0/kernel"]
    assert (match.matched, match.note) == (0, "another shape: (170, 6) before, (170, 7) now")
    fresh = tiny_model(SPEC, seed=5, trunk_units=(7,))
    np.testing.assert_array_equal(
        target.trunk.mlp._sublayers[0].kernel, fresh.trunk.mlp._sublayers[0].kernel
    )
    # The gates' rows of the prior are the same, those of the shared features are not.
    gate = matches["weight", "towers/direct/gates/0/hidden/kernel"]
    assert (gate.matched, gate.dropped) == (53 * 4, 6 * 4)


def test_weights_of_one_shape_but_another_meaning_are_not_copied():
    source = trained(tower_units=(1,))
    _, matches = taken_over(source, SPEC, tower_units=(1,), effect_modifiers=("price",))
    match = matches["weight", "towers/r1/logit/kernel"]
    assert (match.size, match.matched) == (1, 0)
    assert matches["weight", "towers/direct/logit/kernel"].whole
