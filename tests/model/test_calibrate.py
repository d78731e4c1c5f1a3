"""Fitting calibrations: against score equations, brute force and known distortions."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import CalibrationConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples
from cmdcm.model import calibrate
from cmdcm.model.calibrate import (
    fit_calibration,
    fit_head,
    isotonic,
    pava,
    platt,
    shifts_by_slice,
    with_levels,
)
from cmdcm.model.calibration import IDENTITY, Map, slice_count, slice_index
from cmdcm.model.levels import kind_levels
from cmdcm.model.metrics import ece
from cmdcm.model.training import build_model
from cmdcm.tests.model.reference import cross_entropy, sigmoid


def drawn(rows: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a rare event that are off by a slope and a shift, and labels."""
    random = np.random.default_rng(seed)
    truth = random.normal(-4, 1.2, rows)
    return (truth + 0.4) / 0.7, (random.random(rows) < sigmoid(truth)).astype(np.float64)


def mapped(line: Map, z: np.ndarray) -> np.ndarray:
    return line(tf.constant(z, tf.float32)).numpy().astype(np.float64)


def test_platt_solves_the_score_equations():
    z, y = drawn()
    line = platt(z, y)
    residual = sigmoid(line.slope * z + line.outputs[0]) - y
    assert line.inputs == (0.0,)
    assert residual.sum() == pytest.approx(0, abs=1e-6)
    assert (residual * z).sum() == pytest.approx(0, abs=1e-5)


def test_platt_finds_the_distortion():
    z, y = drawn(400_000)
    line = platt(z, y)
    assert (line.slope, line.outputs[0]) == pytest.approx((0.7, -0.4), abs=0.06)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0), (100, 0), (1, 30), (1, -30)])
def test_platt_from_far(scale, shift):
    z, y = drawn(5_000)
    far = scale * z + shift
    line, near = platt(far, y), platt(z, y)
    expected = near.slope * z + near.outputs[0]
    np.testing.assert_allclose(line.slope * far + line.outputs[0], expected, atol=1e-4)


def test_platt_never_turns_the_order_round():
    z, y = drawn(5_000)
    line = platt(-z, y)
    assert line.slope == 1
    assert sigmoid(-z + line.outputs[0]).sum() == pytest.approx(y.sum(), rel=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 9)), min_size=1, max_size=9))
def test_pava_against_the_min_max_formula(values):
    y, w = np.array(values).T
    blocks = pava(y, w)
    fitted = (np.bincount(blocks, y * w) / np.bincount(blocks, w))[blocks]
    means = [
        [
            np.average(y[j : k + 1], weights=w[j : k + 1]) if j <= k else np.inf
            for k in range(len(y))
        ]
        for j in range(len(y))
    ]
    expected = [max(min(means[j][i:]) for j in range(i + 1)) for i in range(len(y))]
    np.testing.assert_allclose(fitted, expected, atol=1e-9)
    # Equal values may make blocks of their own where a mean of them is rounded.
    assert (np.diff(np.bincount(blocks, y * w) / np.bincount(blocks, w)) > -1e-12).all()


def bent(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are right up to 5 % and far too high above: no line repairs that."""
    random = np.random.default_rng(seed)
    z = random.normal(-3.5, 1.5, 60_000)
    truth = np.where(z < -3, z, -3 + 0.2 * (z + 3))
    return z, (random.random(len(z)) < sigmoid(truth)).astype(np.float64)


def test_isotonic_repairs_what_no_line_does():
    z, y = bent(1)
    later, labels = bent(2)
    lines = [isotonic(z, y), platt(z, y), IDENTITY]
    errors = np.array([ece(labels, sigmoid(mapped(line, later)), 10) for line in lines])
    assert errors[0] < 0.003 < errors[1] < errors[2]


def test_isotonic_predictions_add_up_and_increase():
    z, y = drawn()
    line = isotonic(z, y)
    assert len(line.inputs) > 3
    assert sigmoid(mapped(line, z)).sum() == pytest.approx(y.sum(), rel=1e-4)
    assert (np.diff(mapped(line, np.linspace(-12, 6, 500))) > 0).all()


@pytest.mark.parametrize("z", [np.zeros(400), np.repeat([-1.0, 2.0], 200)])
def test_isotonic_of_few_different_logits(z):
    y = (np.arange(400) % 4 == 0).astype(np.float64)
    y[300:] = 1
    line = isotonic(z, y)
    assert len(line.inputs) <= len(set(z))
    assert sigmoid(mapped(line, z)).sum() == pytest.approx(y.sum(), rel=1e-5)


def test_isotonic_of_one_class_in_a_bin_is_finite():
    z = np.linspace(-6, 6, 1_000)
    line = isotonic(z, (z > 0).astype(np.float64))
    assert np.isfinite(line.outputs).all()


def test_shifts_against_their_equation():
    z, y = drawn(5_000)
    slices = np.random.default_rng(1).integers(0, 3, 5_000)
    shift = shifts_by_slice(z, y, slices, 5, 20.0)
    for s in range(3):
        rows = slices == s
        excess = (sigmoid(z[rows] + shift[s]) - y[rows]).sum()
        assert excess == pytest.approx(-20 * shift[s], abs=1e-6)
    assert shift[3:].tolist() == [0, 0]


def test_shifts_shrink_with_the_prior_and_with_fewer_rows():
    z, y = drawn(20_000)
    one = np.zeros(len(z), np.int64)
    free, weak, strong = (
        float(shifts_by_slice(z, y, one, 1, prior)[0]) for prior in (1e-9, 50.0, 1e9)
    )
    assert sigmoid(z + free).sum() == pytest.approx(y.sum(), rel=1e-6)
    assert abs(strong) < 1e-3 < abs(weak) < abs(free)
    few = float(shifts_by_slice(z[:500], y[:500], one[:500], 1, 50.0)[0])
    assert abs(few) < abs(weak)


def test_a_head_is_calibrated_on_its_rows():
    z, y = drawn()
    kind = (np.arange(len(z)) % 2).astype(np.int64)
    config = CalibrationConfig(method="platt", slices=("kind",))
    fitted = fit_head(z, y, {"kind": (kind, 3)}, config)
    assert fitted is not None
    assert (fitted.rows, fitted.positives) == (len(z), y.sum())
    assert fitted.before == pytest.approx(sigmoid(z).sum() / y.sum())
    assert fitted.after == pytest.approx(1, abs=0.01)
    shift = np.array(fitted.shifts["kind"])
    after = mapped(fitted.map, z) + shift[kind]
    assert cross_entropy(y, sigmoid(after)).sum() < cross_entropy(y, sigmoid(z)).sum()
    assert len(shift) == 3 and shift[2] == 0


@pytest.mark.parametrize("positives", [0, 49, 951])
def test_a_head_with_few_labels_of_a_kind_is_left_alone(positives):
    y = (np.arange(1_000) < positives).astype(np.float64)
    assert fit_head(np.linspace(1, 0, 1_000), y, {}, CalibrationConfig(method="platt")) is None


# On examples


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def model(data, small_world):
    tf.keras.utils.set_random_seed(1)
    return build_model(data, small_world.config)


@pytest.fixture
def eagerly():
    """Runs compiled functions step by step: few rows are not worth compiling for."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


PLATT = CalibrationConfig(method="platt", min_positives=5, levels=False)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_the_rows_are_those_of_the_last_days_of_the_validation_part(model, data):
    days = data.split.validation
    whole = fit_calibration(model, data, PLATT, data.split.train)
    assert whole.days == (days[0], days[-1])
    assert set(whole.heads) == {"direct", "propensity", "cart_direct", "transition"}
    assert whole.heads["direct"].rows == data.total("validation")
    assert whole.heads["direct"].positives == data.total("validation", "direct")
    rest = data.total("validation") - data.total("validation", "direct")
    assert whole.heads["transition"].rows == whole.heads["propensity"].rows == rest
    assert whole.heads["cart_direct"].rows == data.total("validation", "direct")
    assert all(head.after == pytest.approx(1, abs=1e-4) for head in whole.heads.values())
    half = PLATT.model_copy(update={"share": 0.5})
    part = fit_calibration(model, data, half, data.split.train)
    assert part.days == (days[len(days) // 2], days[-1])
    assert part.heads["direct"].rows < whole.heads["direct"].rows


@pytest.mark.parametrize("part", ["train", "test"])
def test_days_of_training_and_test_are_refused(model, data, part, monkeypatch):
    monkeypatch.setattr(calibrate, "examples", None)  # before a row is read
    split = dataclasses.replace(data.split, validation=getattr(data.split, part)[-1:])
    wrong = dataclasses.replace(data, split=split)
    with pytest.raises(DataError, match=r"calibration on .* refused: .*(trained|test days)"):
        fit_calibration(model, wrong, PLATT, data.split.train)


def test_days_before_the_last_training_day_are_refused(model, data):
    days = (*data.split.train, data.split.validation[-1])
    with pytest.raises(DataError, match="was trained on days up to"):
        fit_calibration(model, data, PLATT, days)


def test_an_unknown_slice_is_refused(model, data):
    config = CalibrationConfig(slices=("shop",))
    with pytest.raises(ConfigError, match="'shop' is no input"):
        fit_calibration(model, data, config, data.split.train)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_levels_join_the_days_of_training_and_of_the_calibration(model, data):
    config = PLATT.model_copy(update={"levels": True})
    plain = fit_calibration(model, data, PLATT, data.split.train)
    levelled = fit_calibration(model, data, config, data.split.train)
    kinds = slice_count("promotion_kind", data.spec)
    for name, head in levelled.heads.items():
        assert head.map == plain.heads[name].map
        assert set(head.shifts) == {"promotion_kind"}
        assert len(head.shifts["promotion_kind"]) == kinds
    # `direct` is of all rows: what it was fitted to, read once more.
    columns = [*(feature.name for feature in data.spec.inputs), "direct", "promotion"]
    read = []
    for part in ("validation", "train"):
        for batch in examples(data.files(part), data.spec, batch_size=4096, columns=columns):
            line = plain.heads["direct"].map(model(batch)["direct"]).numpy().astype(np.float64)
            names = [name.decode() for name in batch["promotion"].numpy()]
            seen = np.full(len(line), part == "train")
            read.append((line, batch["direct"].numpy(), names, seen))
    line, labels, named, seen = (np.concatenate(parts) for parts in zip(*read, strict=True))
    there = [p for p in data.calendar.promotions if p.name in set(named)]
    place = np.array([[p.name for p in there].index(name) for name in named])
    of = slice_index("promotion_kind", tf.constant([p.kind for p in there]), data.spec).numpy()
    expected = kind_levels(line, labels.astype(np.float64), place, seen, of, kinds)
    assert levelled.heads["direct"].shifts["promotion_kind"] == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected).max() > 0.01


def test_a_head_with_too_few_positives_gets_the_levels_alone():
    z, y = drawn(4_000)
    promotions = np.r_[np.ones(400, np.int64), np.zeros(3_600, np.int64)]
    held = (z[:400], y[:400], {"promotion": promotions[:400]})
    seen = (z[400:], y[400:], {"promotion": promotions[400:]})
    kinds = np.array([1, 1, 0])  # the last promotion of the calendar has no rows
    config = CalibrationConfig(min_positives=int(y[:400].sum()) + 1)
    head = with_levels(None, held, seen, kinds, 3, config)
    assert head is not None
    assert head.map == IDENTITY
    assert (head.rows, head.positives) == (400, y[:400].sum())
    shift = head.shifts["promotion_kind"][1]
    assert head.before == pytest.approx(sigmoid(z[:400]).sum() / y[:400].sum())
    assert head.after == pytest.approx(sigmoid(z[:400] + shift).sum() / y[:400].sum())
    assert abs(np.log(sigmoid(z + shift).sum() / y.sum())) < 0.1
    few = CalibrationConfig(min_positives=int(y.sum()) + 1)
    assert with_levels(None, held, seen, kinds, 3, few) is None


def test_levels_come_after_the_map_and_the_other_slices():
    z, y = drawn(8_000)
    side = np.arange(8_000) % 2
    config = CalibrationConfig(slices=("hours_to_promotion",))
    fitted = fit_head(z, y, {"hours_to_promotion": (side, 2)}, config)
    assert fitted is not None
    rows = (z, y, {"hours_to_promotion": side, "promotion": np.zeros(8_000, np.int64)})
    head = with_levels(fitted, rows, rows, np.array([0]), 1, config)
    assert head is not None
    assert list(head.shifts) == ["hours_to_promotion", "promotion_kind"]
    # The map and the slices fit these rows already, so the level has nothing to add.
    assert head.shifts["promotion_kind"][0] == pytest.approx(0, abs=2e-3)
