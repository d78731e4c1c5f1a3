"""Warm-up requests: what they leave cold, and whose users they ask for."""

import itertools

import numpy as np
import pytest
from tensorflow_serving.apis import inference_pb2, prediction_log_pb2

from cmdcm.core.errors import ExportError
from cmdcm.core.files import verify_manifest
from cmdcm.export import publish
from cmdcm.export.publish import export_model
from cmdcm.export.warmup import WARMUP_FILE, requests, requests_of_users
from cmdcm.features.tfrecord import read_records
from cmdcm.serving.inference import (
    CLASSIFY_METHOD,
    REGRESS_METHOD,
    classify,
    multi_inference,
    predict,
    regress,
)
from cmdcm.serving.loading import load_servable
from cmdcm.serving.servable import Servable

LIMIT = 1 << 20


def logs(path):
    return [prediction_log_pb2.PredictionLog.FromString(r) for r in read_records(path)]


def test_no_first_call_of_a_version_prepares_a_graph(exported, monkeypatch):
    _, version = exported
    prepared = []
    prepare = Servable._make_callable

    def counted(servable, *of):
        prepared.append(of)
        return prepare(servable, *of)

    monkeypatch.setattr(Servable, "_make_callable", counted)
    servable = load_servable(version.path, "cmdcm", 1)
    try:
        prepared.clear()
        *_, classified, regressed = logs(version.path / WARMUP_FILE)
        for log in logs(version.path / WARMUP_FILE)[:2]:
            for filtered in ([], ["p_conversion"]):
                log.predict_log.request.output_filter[:] = filtered
                predict(servable, log.predict_log.request, LIMIT)
        classify(servable, classified.classify_log.request, LIMIT)
        regress(servable, regressed.regress_log.request, LIMIT)
        both = inference_pb2.MultiInferenceRequest(input=regressed.regress_log.request.input)
        for name, method in (("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD)):
            both.tasks.add(method_name=method).model_spec.signature_name = name
        multi_inference(servable, both, LIMIT)
        assert prepared == []
    finally:
        servable.close()


def rows(data, count):
    shards = map(read_records, data.files("validation"))
    return list(itertools.islice(itertools.chain.from_iterable(shards), count))


def test_logged_requests_are_warmed_up_with_and_checked(data, small_world, exported, tmp_path):
    model, _ = exported
    logged = requests(data.spec, rows(data, 20), [3])[1:]
    version = export_model(model, tmp_path, small_world.config, data, logged=logged)
    verify_manifest(tmp_path / "1")
    sizes = [
        log.predict_log.request.inputs["item_id"].tensor_shape.dim[0].size
        for log in logs(version.path / WARMUP_FILE)
        if "item_id" in log.predict_log.request.inputs
    ]
    assert sizes == [1, 10, 3, 10]


def test_a_logged_request_that_is_served_otherwise_is_never_published(
    data, small_world, exported, tmp_path, monkeypatch
):
    model, _ = exported
    logged = requests(data.spec, rows(data, 20), [3])[1:]
    original = publish.served_scores

    def wrong(model, signature, inputs):
        scores = original(model, signature, inputs)
        off = 1e-3 * (len(inputs.get("item_id", ())) == 3)
        return {name: value + off for name, value in scores.items()}

    monkeypatch.setattr(publish, "served_scores", wrong)
    with pytest.raises(ExportError, match="not published"):
        export_model(model, tmp_path, small_world.config, data, logged=logged)
    assert not (tmp_path / "1").exists()


def test_each_request_has_another_user(data):
    made = requests(data.spec, rows(data, 100), [1, 2, 3, 4])[1:]
    assert len({inputs["user_id"][0] for _, inputs in made}) == 4


def test_users_with_no_and_with_long_histories_are_compared(data):
    made = requests_of_users(data.spec, rows(data, 50), 7)
    histories = [f for f in data.spec.user_inputs if f.shape == "sequence" and f.dtype == "int64"]
    lengths = [
        sum(np.count_nonzero(inputs[f.name] != f.default) for f in histories) for _, inputs in made
    ]
    assert lengths[0] < lengths[1] < lengths[2]
    for _, inputs in made:
        assert [len(inputs[f.name]) for f in data.spec.user_inputs[:1]] == [1]
        assert len(inputs["item_id"]) == 7


def test_an_export_that_is_wrong_for_one_user_is_never_published(
    exported, data, small_world, tmp_path, monkeypatch
):
    model, _ = exported
    longest = requests_of_users(data.spec, rows(data, small_world.config.export.check_rows), 10)[
        -1
    ][1]["user_id"][0]
    original = publish.served_scores

    def wrong(model, signature, inputs):
        scores = original(model, signature, inputs)
        if len(inputs.get("user_id", ())) == 1 and inputs["user_id"][0] == longest:
            return {name: value + 1e-3 for name, value in scores.items()}
        return scores

    monkeypatch.setattr(publish, "served_scores", wrong)
    with pytest.raises(ExportError, match=r"differs by 0\.001 .* not published"):
        export_model(model, tmp_path, small_world.config, data)
