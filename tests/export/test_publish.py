"""Exports from outside: load the SavedModel back, read its files, break it."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.config import Config
from cmdcm.core.errors import ExportError
from cmdcm.core.files import verify_manifest
from cmdcm.export import publish
from cmdcm.export.publish import export_model, versions
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, parse_examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.tfrecord import read_records
from cmdcm.model.base import OUTPUTS
from cmdcm.model.calibration import Calibration, HeadCalibration, Map, slice_count
from cmdcm.model.training import build_model


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


def model_of(data: ExampleSet, config: Config, name: str):
    tf.keras.utils.set_random_seed(3)
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": name})})
    model = build_model(data, config)
    # Weights far from their start: gates open, biases non-zero.
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(0, 0.1, variable.shape))
    return model, config


@pytest.fixture(scope="module")
def exported(data, small_world, tmp_path_factory):
    base = tmp_path_factory.mktemp("serving") / "cmdcm"
    model, config = model_of(data, small_world.config, "cmdcm")
    version = export_model(model, base, config, data.files("validation"), {"auc": 0.7})
    return model, version


def test_an_export_carries_all_that_a_server_and_a_person_need(exported, data):
    _, version = exported
    verify_manifest(version.path)
    extra = version.path / "assets.extra"
    assert FeatureSpec.load(extra / "feature_spec.json") == data.spec
    assert Config.load(extra / "config.json").model.name == "cmdcm"
    assert (extra / "metrics.json").read_text().strip() == '{\n  "auc": 0.7\n}'
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in read_records(version.path / WARMUP_FILE)
    ]
    sizes = [
        log.predict_log.request.inputs["item_id"].tensor_shape.dim[0].size
        for log in logs
        if log.predict_log.request.model_spec.signature_name == "score_candidates"
    ]
    assert sizes == [1, 10]
    assert {log.predict_log.request.model_spec.name for log in logs} == {"cmdcm"}


def test_no_optimizer_metric_or_training_state_is_exported(exported):
    model, version = exported
    names = [name for name, _ in tf.train.list_variables(str(version.path / "variables/variables"))]
    saved = [n for n in names if n.endswith("VARIABLE_VALUE")]
    # Only the two sides' scales, a mean and a deviation each, are weights that are not trained.
    assert len(saved) == len(model.trainable_weights) + 4


@pytest.mark.parametrize("name", ["cmdcm", "esmm", "single_task", "vanilla"])
def test_both_signatures_equal_the_model_for_one_and_for_many(data, small_world, tmp_path, name):
    model, config = model_of(data, small_world.config, name)
    version = export_model(model, tmp_path, config, data.files("validation"))
    loaded = tf.saved_model.load(str(version.path))
    shard = data.files("test")[0]
    (batch,) = examples([shard], data.spec, batch_size=7).take(1)
    records = [r for r, _ in zip(read_records(shard), range(7), strict=False)]
    for rows in (1, 7):
        features = {f.name: batch[f.name][:rows] for f in data.spec.inputs}
        expected = model.predictions(model(features))
        got = loaded.signatures["serving_default"](examples=tf.constant(records[:rows]))
        assert set(got) == set(expected) & set(OUTPUTS)
        for output, values in got.items():
            assert values.shape == [rows] and values.dtype == tf.float32
            np.testing.assert_allclose(values, expected[output], atol=1e-5)

        user = {f.name: batch[f.name][:1] for f in data.spec.user_inputs}
        candidates = {f.name: batch[f.name][:rows] for f in data.spec.candidate_inputs}
        repeated = {n: tf.repeat(v, rows, axis=0) for n, v in user.items()}
        expected = model.predictions(model(repeated | candidates))
        got = loaded.signatures["score_candidates"](**user, **candidates)
        for output, values in got.items():
            assert values.shape == [rows]
            np.testing.assert_allclose(values, expected[output], atol=1e-5)


def test_a_calibrated_model_is_served_calibrated(data, small_world, tmp_path):
    model, config = model_of(data, small_world.config, "cmdcm")
    kinds = slice_count("promotion_kind", data.spec)
    shifts = {"promotion_kind": tuple(float(n) for n in range(1, kinds + 1))}
    line = Map((-2.0, 0.0, 1.0), (-3.0, 0.5, 0.9))
    head = HeadCalibration(line, shifts, 100, 10, 1.1, 1.0)
    heads = {each.name: head for each in model.calibrated_heads()}
    calibration = Calibration("isotonic", ("a", "b"), heads)
    model.calibrate(calibration)
    version = export_model(model, tmp_path / "cmdcm", config, data.files("validation"))
    stored = Calibration.load(version.path / "assets.extra" / "calibration.json")
    assert stored == calibration
    loaded = tf.saved_model.load(str(version.path))
    records = list(read_records(data.files("test")[0]))[:3]
    features = parse_examples(tf.constant(records), data.spec.inputs)
    raw = model.predictions(model(features))
    got = loaded.signatures["serving_default"](examples=tf.constant(records))
    user = {f.name: features[f.name][:1] for f in data.spec.user_inputs}
    candidates = {f.name: features[f.name][:1] for f in data.spec.candidate_inputs}
    alone = loaded.signatures["score_candidates"](**user, **candidates)
    expected = model.scores(model(features), features)
    for output, values in got.items():
        np.testing.assert_allclose(values, expected[output], atol=1e-5)
        np.testing.assert_allclose(alone[output], expected[output][:1], atol=1e-5)
        if output != "cart_effect":
            assert np.abs(values - raw[output]).min() > 0.005


def test_versions_count_up_and_ignore_what_is_no_version(exported, data, small_world, tmp_path):
    model, _ = exported
    (tmp_path / "00000041").mkdir()
    (tmp_path / ".77.staging-1").mkdir()
    (tmp_path / "notes").mkdir()
    config = small_world.config
    assert export_model(model, tmp_path, config, data.files("validation")).number == 42
    assert versions(tmp_path) == [41, 42]


def test_an_export_that_scores_differently_is_never_published(
    exported, data, small_world, tmp_path, monkeypatch
):
    model, _ = exported
    original = publish.served_scores

    def wrong(*args):
        return {name: value + 1e-3 for name, value in original(*args).items()}

    monkeypatch.setattr(publish, "served_scores", wrong)
    with pytest.raises(ExportError, match=r"differ by 0\.001"):
        export_model(model, tmp_path, small_world.config, data.files("validation"))
    assert list(tmp_path.iterdir()) == []
