"""Exports from outside: load the SavedModel back, read its files, break it."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.config import Config
from cmdcm.core.errors import ExportError
from cmdcm.core.files import read_manifest, verify_manifest
from cmdcm.core.locations import location
from cmdcm.export import publish, signatures
from cmdcm.export.model_card import model_card
from cmdcm.export.publish import export_model
from cmdcm.export.saved_model import save_model
from cmdcm.export.signatures import classified
from cmdcm.export.trust import function_library
from cmdcm.export.versions import versions
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.features.input import examples, parse_examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.tfrecord import read_records
from cmdcm.model.base import OUTPUTS
from cmdcm.model.calibration import Calibration, HeadCalibration, Map, slice_count
from cmdcm.model.trained import MODEL, load_model
from cmdcm.model.training import train
from cmdcm.tests.export.models import model_of


def test_an_export_carries_all_that_a_server_and_a_person_need(exported, data):
    _, version = exported
    verify_manifest(version.path)
    extra = version.path / "assets.extra"
    assert FeatureSpec.load(extra / "feature_spec.json") == data.spec
    assert Config.load(extra / "config.json").model.name == "cmdcm"
    assert (extra / "metrics.json").read_text().strip() == '{\n  "auc": 0.7,\n  "models": {}\n}'
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in read_records(version.path / WARMUP_FILE)
    ]
    made = [getattr(log, log.WhichOneof("log_type")).request for log in logs]
    assert {request.model_spec.name for request in made} == {"cmdcm"}
    assert [request.model_spec.signature_name for request in made] == [
        *("serving_default", "score_candidates", "score_candidates"),
        *("serving_default", "score_candidates", "classify", "regress"),
    ]
    sizes = [request.inputs["item_id"].tensor_shape.dim[0].size for request in made[1:3]]
    assert sizes == [1, 10]


def test_weights_above_the_threshold_alone_stay_variables(exported, small_world, tmp_path):
    model, version = exported
    # The small world's table is below it: all is constant.
    assert list((version.path / "variables").iterdir()) == []
    settings = small_world.config.export.model_copy(update={"constant_bytes": 1000})
    before = {id(v): v.numpy() for v in model.weights}
    save_model(model, tmp_path, settings)
    saved = dict(tf.train.list_variables(str(tmp_path / "variables/variables")))
    large = [v.shape.as_list() for v in model.weights if 4 * v.shape.num_elements() > 1000]
    assert sorted(saved.values()) == sorted(large) and len(large) < len(model.weights)
    assert {id(v) for v in model.weights} == set(before)  # the model is as it was
    assert all(np.array_equal(v.numpy(), before[id(v)]) for v in model.weights)


@pytest.mark.parametrize("name", ["cmdcm", "esmm", "single_task", "vanilla"])
def test_both_signatures_equal_the_model_for_one_and_for_many(data, small_world, tmp_path, name):
    model, config = model_of(data, small_world.config, name)
    version = export_model(model, tmp_path, config, data)
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
    version = export_model(model, tmp_path / "cmdcm", config, data)
    stored = Calibration.load(tmp_path / "cmdcm" / "1" / "assets.extra" / "calibration.json")
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


def test_effect_modifiers_from_training_to_the_server(data, small_world, tmp_path):
    names = ("price", "user_counts", "hours_to_promotion")
    config = small_world.config
    sections = {"model": {"effect_modifiers": names}, "calibration": {"min_positives": 5}}
    config = config.model_copy(
        update={n: getattr(config, n).model_copy(update=s) for n, s in sections.items()}
    )
    trained = train(data, tmp_path / "run", config, progress=False)
    model = load_model(tmp_path / "run" / MODEL)
    assert model.calibration is not None
    assert model.calibration == trained.calibration
    assert "transition" in model.calibration.heads
    version = export_model(model, tmp_path / "cmdcm", config, data)
    signatures = tf.saved_model.load(str(version.path)).signatures
    records = list(read_records(data.files("test")[0]))[:7]
    features = parse_examples(tf.constant(records), data.spec.inputs)
    expected = trained.scores(trained(features), features)
    assert {"cart_effect", "propensity", "r1", "r0"} <= set(expected)
    assert np.std(expected["cart_effect"]) > 0
    for name, values in model.scores(model(features), features).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    all_at_once = signatures["serving_default"](examples=tf.constant(records))
    # All but what ECAD alone predicts.
    assert set(all_at_once) == set(OUTPUTS) - {"p_refunded", "p_effective"}
    for row, record in enumerate(records):
        alone = signatures["serving_default"](examples=tf.constant([record]))
        of_row = {f.name: features[f.name][row : row + 1] for f in data.spec.inputs}
        candidate = signatures["score_candidates"](**of_row)
        for name, values in expected.items():
            if name in OUTPUTS:
                for got in (all_at_once[name][row : row + 1], alone[name], candidate[name]):
                    np.testing.assert_allclose(got, values[row : row + 1], atol=1e-6, err_msg=name)


def test_versions_count_up_and_ignore_what_is_no_version(exported, data, small_world, tmp_path):
    model, _ = exported
    (tmp_path / "00000041").mkdir()
    (tmp_path / ".77.staging-1").mkdir()
    (tmp_path / "notes").mkdir()
    config = small_world.config
    assert export_model(model, tmp_path, config, data).number == 42
    assert versions(tmp_path) == [41, 42]


def test_an_export_that_scores_differently_is_never_published(
    exported, data, small_world, tmp_path, monkeypatch
):
    model, _ = exported
    original = publish.served_scores

    def wrong(*args):
        return {name: value + 1e-3 for name, value in original(*args).items()}

    monkeypatch.setattr(publish, "served_scores", wrong)
    with pytest.raises(ExportError, match=r"differs by 0\.001 .* not published"):
        export_model(model, tmp_path, small_world.config, data)
    assert list(tmp_path.iterdir()) == []


def test_an_export_whose_classify_differs_is_never_published(
    exported, data, small_world, tmp_path, monkeypatch
):
    model, _ = exported

    def swapped(outputs):
        classes, scores = classified(outputs)
        return classes[:, ::-1], scores

    monkeypatch.setattr(signatures, "classified", swapped)
    with pytest.raises(ExportError, match="classify differs from serving_default; not published"):
        export_model(model, tmp_path, small_world.config, data)


def test_an_export_that_no_fresh_process_can_load_is_never_published(
    exported, data, small_world, tmp_path, monkeypatch
):
    model, _ = exported
    original = publish.write_manifest

    def then_damaged(directory, description):
        original(directory, description)
        (directory / "saved_model.pb").write_bytes(b"cut")

    monkeypatch.setattr(publish, "write_manifest", then_damaged)
    with pytest.raises(ExportError, match=r"fresh process.*saved_model\.pb: SHA-256 differs"):
        export_model(model, tmp_path, small_world.config, data)
    assert list(tmp_path.iterdir()) == []


def test_classify_and_regress_answer_what_serving_default_does(exported, data):
    _, version = exported
    loaded = tf.saved_model.load(str(version.path))
    records = tf.constant(list(read_records(data.files("test")[0]))[:3])
    scores = loaded.signatures["serving_default"](examples=records)
    regressed = loaded.signatures["regress"](inputs=records)
    classified = loaded.signatures["classify"](inputs=records)
    np.testing.assert_array_equal(regressed["outputs"], scores["p_conversion"])
    names = ["p_direct", "p_cart", "p_delayed", "p_conversion"]
    assert classified["classes"].numpy().astype(str).tolist() == [names] * 3
    for n, name in enumerate(names):
        np.testing.assert_array_equal(classified["scores"][:, n], scores[name])


def test_signatures_have_the_methods_and_the_one_input_that_multi_inference_asks_for(exported):
    _, version = exported
    pb = saved_model_pb2.SavedModel.FromString((version.path / "saved_model.pb").read_bytes())
    (graph,) = pb.meta_graphs
    methods = {name: s.method_name for name, s in graph.signature_def.items()}
    assert methods == {
        "serving_default": "tensorflow/serving/predict",
        "score_candidates": "tensorflow/serving/predict",
        "classify": "tensorflow/serving/classify",
        "regress": "tensorflow/serving/regress",
    }
    assert len({graph.signature_def[n].inputs["inputs"].name for n in ("classify", "regress")}) == 1
    assert not function_library(graph.graph_def).function
    assert {n.op for n in graph.graph_def.node}.isdisjoint({"AssignAddVariableOp", "If", "While"})


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_table_of_another_type_is_measured_and_gated(
    exported, data, small_world, tmp_path, dtype
):
    model, _ = exported

    def with_loss(limit):
        update = {"table_dtype": dtype, "max_table_loss": limit, "constant_bytes": 0}
        export = small_world.config.export.model_copy(update=update)
        return small_world.config.model_copy(update={"export": export})

    small = export_model(model, tmp_path / "a", with_loss(0.5), data)
    stored = tf.train.list_variables(str(small.path / "variables/variables"))
    assert [model.trunk.encoder.ids.rows, model.config.embedding_dim] in [s for _, s in stored]
    reader = tf.train.load_checkpoint(str(small.path / "variables/variables"))
    assert tf.as_dtype(dtype) in reader.get_variable_to_dtype_map().values()
    differences = read_manifest(small.path, "export")["largest_differences"]
    assert 1e-6 < differences["p_conversion"] < 0.1
    with pytest.raises(ExportError, match=r"p_conversion differs by .* more than 1e-07") as caught:
        export_model(model, tmp_path / "b", with_loss(1e-7), data)
    for name in ("p_direct", "p_cart", "p_delayed"):
        assert f"{name} differs by " in str(caught.value)
    assert versions(tmp_path / "b") == []


EXPORT = """
import sys, tensorflow as tf
from pathlib import Path
from cmdcm.core.config import Config
from cmdcm.export.publish import export_model
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.training import build_model
config, examples, weights, base, traced = sys.argv[1:]
config = Config.load(Path(config))
data = ExampleSet.open(Path(examples), config.split)
for _ in range(int(traced)):  # other numbers of functions, variables and tensors
    tf.function(lambda x: x + 1)(tf.Variable(1))
model = build_model(data, config)
model.checkpoint().read(weights).assert_consumed()
export_model(model, Path(base), config, data, {'models': {}, 'auc': 0.7})
"""


def export_in_a_fresh_process(config, data, weights, base, traced=1):
    """Exports the weights of a checkpoint; returns the version's directory."""
    arguments = [str(each) for each in (config, data.directory, weights, base, traced)]
    subprocess.run([sys.executable, "-c", EXPORT, *arguments], check=True)
    return base / "1"


def test_two_exports_of_one_model_in_two_processes_are_equal(exported, data, tmp_path):
    model, version = exported
    weights = tmp_path / "weights"
    model.checkpoint().write(str(weights))
    config = version.path / "assets.extra" / "config.json"
    other = export_in_a_fresh_process(config, data, weights, tmp_path / "other")
    first, second = (read_manifest(path, "export") for path in (version.path, other))
    assert first["files"] == second["files"]


@pytest.mark.slow
def test_two_exports_with_variables_have_the_same_bytes(exported, data, tmp_path):
    model, version = exported
    weights = tmp_path / "weights"
    model.checkpoint().write(str(weights))
    config = Config.load(version.path / "assets.extra" / "config.json")
    settings = config.export.model_copy(update={"constant_bytes": 1000})
    config.model_copy(update={"export": settings}).save(tmp_path / "config.json")
    first, second = (
        export_in_a_fresh_process(tmp_path / "config.json", data, weights, tmp_path / name, traced)
        for name, traced in (("a", 0), ("b", 3))
    )
    assert len(tf.train.list_variables(str(first / "variables/variables"))) > 1
    contents = [
        {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
        for path in (first, second)
    ]
    assert contents[0].keys() == contents[1].keys()
    assert {"variables/variables.index", "manifest.json"} < contents[0].keys()
    assert [name for name, content in contents[0].items() if contents[1][name] != content] == []


def test_the_card_tells_data_settings_metrics_and_units(exported, data, small_world):
    model, version = exported
    card = (version.path / "assets.extra" / "model_card.md").read_text()
    assert f"| {data.total('train')} |" in card
    assert "| `p_conversion` | probability of a purchase, direct or delayed |" in card
    assert "No evaluation was given" in card
    assert "None: probabilities are as trained" in card
    metrics = {"auc": {"estimate": 0.71234, "lower": 0.7, "upper": 0.72}, "gauc": None}
    evaluation = {"models": {"cmdcm": {"heads": {"conversion": {"metrics": metrics}}}}}
    card = model_card(model, small_world.config, data, evaluation, {"p_cart": 1e-7}, 5)
    assert "| conversion | auc | 0.71234 | 0.70000 | 0.72000 |" in card
    assert "gauc" not in card
    # Every table is whole: a line of a table follows a line of it or an empty line.
    for before, line in itertools.pairwise(card.splitlines()):
        if line.startswith("|"):
            assert before == "" or before.count("|") == line.count("|")


def test_a_version_is_published_to_a_remote_file_system(exported, data, small_world):
    model, version = exported
    base = location("memory://published/cmdcm")
    assert export_model(model, base, small_world.config, data).number == 1
    names = {p.relative_to(version.path).as_posix() for p in version.path.rglob("*") if p.is_file()}
    remote = {str(f).partition("/1/")[2] for f in base.rglob("*") if f.is_file()}
    assert remote == names - {"assets.extra/metrics.json"}
