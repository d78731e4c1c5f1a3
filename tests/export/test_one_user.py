"""The graph that does a user's work once scores as the trained layers do, in a session."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import ExportConfig
from cmdcm.export.saved_model import save_model
from cmdcm.model.calibration import Calibration, HeadCalibration, Map, slice_count
from cmdcm.tests.model.batches import (
    VARIANTS,
    know,
    random_batch,
    rows_of,
    shake,
    sides,
    tiny_model,
    tiny_spec,
    with_tables,
)

SIZES = (1, 2, 7, 100, 500, 2000)
HASHES = {"category": 2, "brand": 3}
KNOWN = {"item": 60, "user": 5, "seller": 1}
STRINGS = ("user", "item", "category", "seller", "brand")


def request(spec, rows, user_row=1, seed=0):
    """Raw features of one user and of `rows` candidates."""
    user, _ = sides(spec, rows_of(random_batch(spec, user_row + 1, seed), user_row, user_row + 1))
    _, candidates = sides(spec, random_batch(spec, max(rows, 1), seed + 1))
    return user, rows_of(candidates, 0, rows)


def extreme(spec, rows):
    """Features far outside of all training data: what an export has to bear."""
    random = np.random.default_rng(4)
    largest = np.iinfo(np.int64).max
    integers = np.array([0, -1, 1, 10**6, largest, -largest])
    floats = np.array([0.0, -5.0, 1e-30, 1e30, 3e38], np.float32)

    def values(feature, rows):
        shape = (rows,) if feature.shape == "scalar" else (rows, feature.length)
        if feature.dtype == "string":
            return np.array(random.choice(["", "\x00", "ü" * 500, "618"], shape), object)
        return random.choice(integers if feature.dtype == "int64" else floats, shape)

    user = {f.name: tf.constant(values(f, 1)) for f in spec.user_inputs}
    return user, {f.name: tf.constant(values(f, rows)) for f in spec.candidate_inputs}


@pytest.fixture
def compare(tmp_path):
    """Saves a model and returns the comparison of its answers with the model's layers."""

    def saved(model):
        save_model(model, tmp_path / "saved", ExportConfig(constant_bytes=400))
        served = tf.saved_model.load(str(tmp_path / "saved")).signatures["score_candidates"]

        def check(user, candidates, tolerance=1e-5):
            expected = model.score(user, candidates)
            answer = served(**user, **candidates)
            assert set(answer) <= set(expected) and "p_conversion" in answer
            for name, scores in answer.items():
                assert np.all(np.isfinite(scores))
                np.testing.assert_allclose(scores, expected[name], rtol=0, atol=tolerance)

        return check

    return saved


@pytest.mark.parametrize("strings", [(), STRINGS])
def test_equals_the_layers_for_every_kind_of_table(compare, strings):
    """Two and three hashes summed, and lists of known ids, which a request's are partly among."""
    spec = with_tables(tiny_spec(string_ids=strings), HASHES, KNOWN)
    user, candidates = request(spec, 100)
    check = compare(know(shake(tiny_model(spec)), random_batch(spec, 100, seed=1)))
    check(user, candidates)
    check(*request(spec, 7, seed=20))
    check(*request(spec, 3, user_row=0))
    check(*extreme(spec, 50))


@pytest.mark.parametrize(
    ("variant", "strings"), [*((name, ()) for name in VARIANTS), ("cmdcm", STRINGS)]
)
def test_equals_the_layers_for_every_model_and_number_of_candidates(compare, variant, strings):
    spec = tiny_spec(string_ids=strings)
    check = compare(shake(tiny_model(spec, **VARIANTS[variant])))
    # One network of the arrangement meets all sizes; each other model's outputs, two of them.
    for rows in SIZES if variant == "cmdcm" else (1, 7):
        check(*request(spec, rows, seed=rows))
    check(*request(spec, 3, user_row=0))  # his histories are empty
    check(*extreme(spec, 50))


@pytest.mark.parametrize(
    "settings",
    [
        {"cross_layers": 0},
        {"cross_layers": 3},
        {"trunk_units": (6, 5, 4)},
        {"tower_units": (5, 4)},
        {"tower_units": ()},
    ],
)
def test_equals_the_layers_for_every_shape_of_the_network(compare, settings):
    spec = tiny_spec()
    check = compare(shake(tiny_model(spec, **settings)))
    check(*request(spec, 7))
    # Each cross layer multiplies by the inputs, and with them what the layers' own float32 rounds.
    check(*extreme(spec, 7), tolerance=1e-4 if settings.get("cross_layers") == 3 else 1e-5)


@pytest.mark.parametrize("columns", [(), ("category_id",), ("price",)])
def test_equals_the_layers_for_a_log_with_fewer_columns(compare, columns):
    spec = tiny_spec(columns)
    check = compare(shake(tiny_model(spec)))
    check(*request(spec, 7))


def test_equals_the_layers_with_a_calibration(compare):
    spec = tiny_spec()
    model = shake(tiny_model(spec))
    columns = ("promotion_kind", "hours_to_promotion")
    shifts = {c: tuple(0.3 * n for n in range(slice_count(c, spec))) for c in columns}
    head = HeadCalibration(Map((-2.0, 0.0, 1.0), (-3.0, 0.5, 0.9)), shifts, 100, 10, 1.1, 1.0)
    heads = {each.name: head for each in model.calibrated_heads()}
    model.calibrate(Calibration("isotonic", ("a", "b"), heads))
    check = compare(model)
    for rows in (1, 7):
        check(*request(spec, rows))


def test_no_candidate_is_answered_by_no_score(tmp_path):
    spec = tiny_spec()
    save_model(tiny_model(spec), tmp_path, ExportConfig())
    served = tf.saved_model.load(str(tmp_path)).signatures["score_candidates"]
    user, candidates = request(spec, 0)
    assert {tuple(scores.shape) for scores in served(**user, **candidates).values()} == {(0,)}


@pytest.mark.parametrize("rows", [1, 16, 17, 31, 32, 33, 48, 64])
def test_both_halves_of_the_candidates_are_scored(compare, rows):
    spec = tiny_spec()
    compare(shake(tiny_model(spec)))(*request(spec, rows))
