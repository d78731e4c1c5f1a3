"""Calibrations in the graph: maps, slices, every model's outputs before and after, files."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.model.base import RankingModel
from cmdcm.model.calibration import (
    HOURS,
    IDENTITY,
    Calibration,
    HeadCalibration,
    Map,
    slice_count,
    slice_index,
)
from cmdcm.tests.model.batches import (
    VARIANTS,
    random_batch,
    rows_of,
    shake,
    sides,
    tiny_model,
    tiny_spec,
)
from cmdcm.tests.model.reference import logit, sigmoid

SPEC = tiny_spec()
BATCH = random_batch(SPEC, 24)
every_model = pytest.mark.parametrize(
    "variant",
    [
        "single_task",
        "vanilla",
        "esmm",
        "cmdcm",
        "cmdcm-dr",
        "cmdcm-no-transition",
        "cmdcm-modifiers",
    ],
)
LINE = Map((0.0,), (-0.7,), 0.6)
BENT = Map((-3.0, -1.0, 0.5, 2.0), (-4.0, -1.5, 0.25, 1.0))


def knots() -> st.SearchStrategy:
    steps = st.lists(st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)), min_size=1, max_size=8)
    return st.tuples(steps, st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 3))


@given(knots(), st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=20))
def test_a_map_interpolates_between_its_knots_and_goes_straight_beyond(drawn, logits):
    steps, x0, y0, slope = drawn
    x = x0 + np.cumsum([dx for dx, _ in steps])
    y = y0 + np.cumsum([dy for _, dy in steps])
    z = np.sort(np.array(logits, np.float64))
    expected = np.interp(z, x, y)
    expected = np.where(z < x[0], y[0] + slope * (z - x[0]), expected)
    expected = np.where(z > x[-1], y[-1] + slope * (z - x[-1]), expected)
    got = Map(tuple(x), tuple(y), slope)(tf.constant(z, tf.float32)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-3)
    assert (np.diff(got) >= -1e-3).all()


def test_the_identity_changes_no_bit():
    z = tf.constant([-1e4, -3.3, 0.0, 1e-7, 5.5, 1e4])
    np.testing.assert_array_equal(IDENTITY(z), z)


@pytest.mark.parametrize(
    ("inputs", "outputs", "slope"),
    [((0, 1), (1, 0), 1), ((1, 1), (0, 1), 1), ((0,), (0,), -1), ((), (), 1), ((0, 1), (0,), 1)],
)
def test_a_map_that_does_not_increase_is_refused(inputs, outputs, slope):
    with pytest.raises(DataError, match="calibration map"):
        Map(inputs, outputs, slope)


def test_slices():
    kinds = SPEC["promotion_kind"].vocabulary
    values = tf.constant([kinds[1], "unheard of", kinds[0]])
    assert slice_index("promotion_kind", values, SPEC).numpy().tolist() == [1, len(kinds), 0]
    assert slice_count("promotion_kind", SPEC) == len(kinds) + 1
    assert slice_index("weekday", tf.constant([0, 6, 99], tf.int64), SPEC).numpy().tolist() == [
        0,
        6,
        6,
    ]
    assert slice_count("weekday", SPEC) == 7
    hours = tf.constant([0.0, 5.9, 6.0, 100.0, 168.0, 1e6])
    assert slice_index(HOURS, hours, SPEC).numpy().tolist() == [0, 0, 1, 3, 4, 4]
    assert slice_count(HOURS, SPEC) == 5


@pytest.mark.parametrize(
    ("column", "message"),
    [("shop", "no input of the model"), ("direct", "no input"), ("price", "no scalar with a voc")],
)
def test_a_column_that_cannot_be_sliced_by_is_named(column, message):
    with pytest.raises(ConfigError, match=f"calibration.slices: '{column}' is {message}"):
        slice_count(column, SPEC)


# In a model


def calibration_of(model: RankingModel) -> Calibration:
    """A line or a bent map for each head in turn, and shifts by a column of either side."""
    heads = {}
    for n, head in enumerate(model.calibrated_heads()):
        shifts = {
            "promotion_kind": tuple(np.linspace(-0.5, 0.8, slice_count("promotion_kind", SPEC))),
            HOURS: (0.1, -0.1, 0.2, -0.2, 0.3 + n),
        }
        heads[head.name] = HeadCalibration(BENT if n % 2 else LINE, shifts, 10, 5, 1.2, 1.0)
    return Calibration("isotonic", ("2024-06-01", "2024-06-09"), heads)


@functools.cache
def calibrated(variant: str) -> RankingModel:
    """One calibrated model of a variant for all tests that leave it as it is."""
    model = shake(tiny_model(SPEC, **VARIANTS[variant]))
    model.calibrate(calibration_of(model))
    return model


def by_hand(model: RankingModel, name: str, z: np.ndarray) -> np.ndarray:
    """The calibrated probability of a head, in NumPy."""
    assert model.calibration is not None
    head = model.calibration.heads[name]
    x, y, slope = (np.array(v) for v in (head.map.inputs, head.map.outputs, head.map.slope))
    z = np.asarray(z, np.float64)
    value = np.where(z < x[0], y[0] + slope * (z - x[0]), np.interp(z, x, y))
    value = np.where(z > x[-1], y[-1] + slope * (z - x[-1]), value)
    kinds = list(SPEC["promotion_kind"].vocabulary)
    for n, kind in enumerate(BATCH["promotion_kind"].numpy()):
        known = kind.decode() in kinds
        index = kinds.index(kind.decode()) if known else len(kinds)
        value[n] += head.shifts["promotion_kind"][index]
    for n, hours in enumerate(BATCH[HOURS].numpy()):
        value[n] += head.shifts[HOURS][sum(hours >= edge for edge in (6, 24, 72, 168))]
    return sigmoid(value)


@every_model
def test_outputs_follow_from_calibrated_conditional_probabilities(variant):
    model = calibrated(variant)
    z = {name: values.numpy() for name, values in model(BATCH).items()}
    if "r1" in z and "transition" not in z:
        e, r1, r0 = (sigmoid(z[n]) for n in ("propensity", "r1", "r0"))
        z["transition"] = logit(e * r1 + (1 - e) * r0)
    p = {head.name: by_hand(model, head.name, z[head.name]) for head in model.calibrated_heads()}
    got = model.scores(model(BATCH), BATCH)
    if variant in ("single_task", "vanilla"):
        expected = {"p_conversion": p["conversion"]}
    else:
        later = p["delayed_given_not_direct" if variant == "esmm" else "transition"]
        delayed = (1 - p["direct"]) * later
        expected = {"p_direct": p["direct"], "p_delayed": delayed}
        expected["p_conversion"] = p["direct"] + delayed
        expected["p_cart"] = (
            p["cart"]
            if variant == "esmm"
            else p["direct"] * p["cart_direct"] + (1 - p["direct"]) * p["propensity"]
        )
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("variant", ["cmdcm", "cmdcm-modifiers"])
def test_the_causal_outputs_stay_as_they_are(variant):
    model = calibrated(variant)
    after = model.scores(model(BATCH), BATCH)
    before = model.predictions(model(BATCH))
    for name in ("r1", "r0", "cart_effect"):
        np.testing.assert_array_equal(after[name], before[name])
    assert np.abs(after["propensity"] - before["propensity"]).max() > 0.01


def test_probabilities_before_the_calibration_stay_at_hand():
    model = shake(tiny_model(SPEC, name="single_task"))
    before = set(model.scorer(BATCH))
    model.calibrate(calibration_of(model))
    scores = model.scorer(BATCH)
    raw = {k: v for k, v in model.predictions(model(BATCH)).items() if k.startswith("p_")}
    assert {k for k in scores if k.startswith("uncalibrated_")} == {
        f"uncalibrated_{k}" for k in raw
    }
    for name, values in raw.items():
        np.testing.assert_allclose(scores[f"uncalibrated_{name}"], values, rtol=1e-5)
        assert np.abs(scores[name] - values).max() > 0.01
    model.calibrate(None)
    assert set(model.scorer(BATCH)) == before
    np.testing.assert_allclose(model.scorer(BATCH)["p_conversion"], raw["p_conversion"], rtol=1e-5)


def test_training_does_not_see_the_calibration():
    model = shake(tiny_model(SPEC))
    loss = float(model.compute_loss(BATCH))
    model.calibrate(calibration_of(model))
    assert float(model.compute_loss(BATCH)) == loss


@pytest.mark.parametrize("variant", ["esmm", "cmdcm", "cmdcm-no-transition"])
@pytest.mark.parametrize("scale", [1, 6, 1e4])
def test_calibrated_probabilities_are_coherent_at_any_logits(variant, scale):
    model = calibrated(variant)
    random = np.random.default_rng(0)
    logits = {name: tf.constant(random.normal(0, scale, 24), tf.float32) for name in model(BATCH)}
    outputs = model.scores(logits, BATCH)
    for name, values in outputs.items():
        low = -1 if name == "cart_effect" else 0
        assert low <= float(tf.reduce_min(values)) <= float(tf.reduce_max(values)) <= 1, name
    parts = outputs["p_direct"] + outputs["p_delayed"]
    np.testing.assert_allclose(parts, outputs["p_conversion"], rtol=0, atol=1e-6)


def test_without_shifts_no_head_changes_its_order():
    model = shake(tiny_model(SPEC, **VARIANTS["esmm"]))
    logits = model(BATCH)
    before = {name: p.numpy() for name, p in model.scores(logits, BATCH).items()}
    heads = {n: HeadCalibration(BENT, {}, 1, 1, 1.0, 1.0) for n in ("direct", "cart")}
    model.calibrate(Calibration("isotonic", ("a", "b"), heads))
    after = model.scores(logits, BATCH)
    for name in ("p_direct", "p_cart"):
        np.testing.assert_array_equal(np.argsort(after[name]), np.argsort(before[name]))


@pytest.mark.parametrize("variant", ["esmm", "cmdcm"])
def test_a_user_sent_once_and_a_batch_of_one(variant):
    model = calibrated(variant)
    user, candidates = sides(SPEC, BATCH)
    once = model.score(rows_of(user, 5, 6), candidates)
    repeated = {k: tf.repeat(v[5:6], 24, axis=0) for k, v in user.items()} | candidates
    expected = model.scores(model(repeated), repeated)
    alone = model.score(rows_of(user, 5, 6), rows_of(candidates, 7, 8))
    for name, values in once.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone[name], expected[name][7:8], rtol=1e-5, atol=1e-6)


# Files


def test_save_and_load(tmp_path):
    calibration = calibration_of(tiny_model(SPEC))
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration


@pytest.mark.parametrize(
    "value", [[], {"method": "platt"}, {"method": "platt", "days": ["a", "b"], "heads": {"d": 1}}]
)
def test_another_file_is_refused(value, tmp_path):
    (tmp_path / "calibration.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"calibration\.json does not hold a calibration"):
        Calibration.load(tmp_path / "calibration.json")
