"""How far scores have moved: against numbers worked out by hand, and bounds."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.config import RolloutConfig
from cmdcm.jobs.rollout.shift import psi, read_requests, score_shift

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=50)


def test_psi_by_hand():
    # One score in each of ten bins before, all ten in the last one after; half a score is added to
    # each bin, so that the shares are 1.5 / 15, and 0.5 / 15 nine times and 10.5 / 15.
    want = 9 * (0.5 - 1.5) / 15 * math.log(0.5 / 1.5) + (10.5 - 1.5) / 15 * math.log(10.5 / 1.5)
    assert psi(np.arange(10.0), np.full(10, 9.0)) == pytest.approx(want, rel=1e-12)
    assert want == pytest.approx(1.8267, abs=1e-4)


@given(SCORES)
def test_equal_scores_have_not_moved(scores):
    array = np.array(scores)
    shift = score_shift(array, array.copy(), 1)
    assert (shift.psi, shift.mean_shift, shift.max_shift) == (0, 0, 0)
    assert shift.excesses(RolloutConfig(min_rows=1)) == []


@given(SCORES, SCORES)
def test_psi_is_never_negative(before, after):
    assert psi(np.array(before), np.array(after)) >= 0


def test_shifts_by_hand():
    shift = score_shift(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.5, 0.3]), 2)
    assert (shift.requests, shift.rows) == (2, 3)
    assert shift.mean_stable == pytest.approx(0.2)
    assert shift.mean_canary == pytest.approx(0.3)
    assert shift.mean_shift == pytest.approx(0.5)
    assert shift.max_shift == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("max_psi", 1e-6, "psi"),
        ("max_mean_shift", 0.49, "shift of the mean 0.5 is above rollout.max_mean_shift = 0.49"),
        ("max_score_shift", 0.29, "largest shift 0.3 is above rollout.max_score_shift = 0.29"),
        ("min_rows", 4, "3 scores are too few"),
    ],
)
def test_each_bound_refuses_by_itself(setting, value, reason):
    wide = {"max_psi": 100, "max_mean_shift": 100, "max_score_shift": 1, "min_rows": 1}
    shift = score_shift(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.5, 0.3]), 1)
    assert shift.excesses(RolloutConfig(**wide)) == []
    (found,) = shift.excesses(RolloutConfig(**{**wide, setting: value}))
    assert found.startswith(reason)


@pytest.mark.parametrize("count", [2, 3])
def test_scores_that_are_not_finite(count):
    after = np.array([0.1, np.nan, np.inf])[-count:]
    shift = score_shift(np.array([0.1, 0.2, 0.3])[-count:], after, 1)
    assert shift.excesses(RolloutConfig(min_rows=1)) == ["2 scores of the canary are not finite"]


def test_a_mean_of_zero_that_moves():
    assert score_shift(np.zeros(3), np.full(3, 0.1), 1).mean_shift == 1.0


def test_requests_that_differ_in_their_output_filter_alone_are_replayed_once(tmp_path):
    file = tmp_path / "log"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for value, kept in [(1.0, ()), (1.0, ("p_conversion",)), (2.0, ("p_cart",)), (1.0, ())]:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = "m"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto([value]))
            request.output_filter.extend(kept)
            writer.write(log.SerializeToString())
    found = [tf.make_ndarray(request.inputs["x"]).tolist() for request in read_requests([file], 9)]
    assert found == [[1.0], [2.0]]
    assert len(list(read_requests([file], 1))) == 1
