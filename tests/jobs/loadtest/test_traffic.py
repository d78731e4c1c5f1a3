"""Traffic drawn from logged requests."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.jobs.loadtest.traffic import Mix, Traffic, read_rows
from cmdcm.serving.example_requests import serialized_examples
from cmdcm.tests.serving import models


def write(path, *requests):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for inputs in requests:
            log = prediction_log_pb2.PredictionLog()
            for name, value in inputs.items():
                log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
    return path


def by_tensors(user_id, count):
    return {**models.user_arrays(user_id), **models.candidate_arrays(count)}


def by_examples(user_id, count):
    user, candidates = models.user_values(user_id), models.candidate_arrays(count)
    return {"examples": np.array(serialized_examples(models.SPEC, user, candidates), object)}


def rows_of(*files, max_rows=1000):
    return read_rows(files, models.SPEC, max_rows=max_rows, max_bytes=1 << 20)


def test_both_layouts_are_read(tmp_path):
    rows = rows_of(
        write(tmp_path / "one", by_tensors(7, 3), {"x": [1.0]}),
        write(tmp_path / "two", by_examples(8, 2)),
    )
    assert rows.users["user_id"].tolist() == [7, 8, 8]
    assert rows.users["clicked_item"][-1].tolist() == [11, 12, 0, 0]
    assert rows.candidates["item_id"].tolist() == [0, 1, 2, 0, 1]
    assert rows.candidates["affinity"].shape == (5, 2)


def test_reading_ends_when_there_are_enough(tmp_path):
    log = write(tmp_path / "log", *[by_tensors(user, 5) for user in range(10)])
    assert rows_of(log, max_rows=11).users["user_id"].tolist() == [0, 1, 2]


def test_a_log_without_the_features(tmp_path):
    with pytest.raises(DataError, match=r"no request with the features of the spec in .*log"):
        rows_of(write(tmp_path / "log", {"x": [1.0]}, {"examples": [b"\xff"]}))


def test_requests_have_the_sizes_of_the_mix(tmp_path):
    rows = rows_of(write(tmp_path / "log", by_tensors(7, 3), by_tensors(8, 4)))
    traffic = Traffic(rows, models.SPEC, Mix.parse("2:3,50:1"), seed=1)
    sizes = traffic.sizes(4000)
    assert set(sizes) == {2, 50}
    assert abs((sizes == 2).mean() - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5
    seen = set()
    for number in range(200):
        user, candidates = traffic.request(number)
        assert len(candidates["item_id"]) == sizes[number]
        assert user["clicked_item"].tolist() == [[11, 12]]  # as long as it was before padding
        seen.add(int(user["user_id"][0]))
    assert seen == {7, 8}


def test_traffic_depends_on_the_seed_alone(tmp_path):
    rows = rows_of(write(tmp_path / "log", by_tensors(7, 30)))

    def items(seed):
        traffic = Traffic(rows, models.SPEC, Mix.parse("5"), seed)
        return [traffic.request(n)[1]["item_id"].tolist() for n in range(10)]

    assert items(1) == items(1)
    assert items(1) != items(2)


@pytest.mark.parametrize("text", ["", "a", "0:1", "10:0", "10:x", "10:-1", "10:inf", "10:nan"])
def test_mixes_that_cannot_be_used(text):
    with pytest.raises(ConfigError, match="mix"):
        Mix.parse(text)
