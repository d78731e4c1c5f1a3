"""Models that reach out of themselves are refused, ordinary ones of TensorFlow 1 and 2 are not."""

import os
import re
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from cmdcm.core.errors import DataError
from cmdcm.export import trust
from cmdcm.export.trust import check_saved_model

V1 = tf.compat.v1


def save_function(directory: Path, body) -> Path:
    module = tf.Module()
    module.weight = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
    def serving_default(x):
        return {"y": body(x * module.weight)}

    tf.saved_model.save(module, str(directory), signatures=serving_default)
    return directory


def edited(directory: Path, edit) -> Path:
    path = directory / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())
    return directory


def save_v1(directory: Path, build=lambda x: x) -> Path:
    with tf.Graph().as_default(), V1.Session() as session:
        x = V1.placeholder(tf.float32, [None], name="x")
        weight = V1.get_variable("weight", initializer=2.0, use_resource=False)
        y = build(x * weight)
        session.run(V1.global_variables_initializer())
        builder = V1.saved_model.Builder(str(directory))
        signature = V1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(
            session, [V1.saved_model.SERVING], {"serving_default": signature}
        )
        builder.save()
    return directory


def test_ordinary_models_of_both_tensorflows_pass(tmp_path):
    def loop(x):
        total = tf.while_loop(lambda n, _: n < 3, lambda n, t: (n + 1, t + n), [0, 0])[1]
        return x + tf.cast(total, tf.float32) + tf.random.uniform([])

    check_saved_model(save_function(tmp_path / "two", loop))
    check_saved_model(save_v1(tmp_path / "one"))


def test_a_table_filled_from_an_asset_passes_and_from_another_file_does_not(tmp_path):
    (tmp_path / "words").write_text("a\nb\n")
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        1,
    )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serving_default(word):
        return {"index": module.table.lookup(word)}

    saved = tmp_path / "saved"
    tf.saved_model.save(module, str(saved), signatures=serving_default)
    check_saved_model(saved)
    edited(saved, lambda graph: graph.ClearField("asset_file_def"))
    with pytest.raises(DataError, match="op InitializeTableFromTextFileV2 in node"):
        check_saved_model(saved)


@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("ReadFile", lambda x: tf.strings.length(tf.io.read_file("/etc/passwd"))),
        ("MatchingFiles", lambda x: tf.size(tf.io.matching_files("/etc/*"))),
        ("PyFunc", lambda x: tf.numpy_function(lambda v: v, [x], tf.float32)),
        ("PyFuncStateless", lambda x: tf.numpy_function(lambda v: v, [x], tf.float32, False)),
        ("EagerPyFunc", lambda x: tf.py_function(lambda v: v, [x], tf.float32)),
        ("PrintV2", lambda x: (tf.print(x, output_stream="file:///x"), x)[1]),
        (
            "TextLineDataset",
            lambda x: tf.data.TextLineDataset("/etc/passwd").reduce(0, lambda s, _: s),
        ),
        (
            "RestoreV2",
            lambda x: tf.raw_ops.RestoreV2(
                prefix="/other/model",
                tensor_names=["w"],
                shape_and_slices=[""],
                dtypes=[tf.float32],
            )[0],
        ),
    ],
)
def test_an_op_that_reaches_out_is_refused_with_its_function(tmp_path, op, body):
    saved = save_function(tmp_path, body)
    with pytest.raises(DataError, match=rf"op {op} in node \S+ of function __inference_"):
        check_saved_model(saved)


def test_writing_is_refused_inside_a_branch(tmp_path):
    def body(x):
        def write():
            with tf.control_dependencies([tf.io.write_file("/x", "y")]):
                return tf.identity(x)

        return tf.cond(tf.reduce_sum(x) > 0, write, lambda: x)

    with pytest.raises(DataError, match=r"op WriteFile in node .* of function"):
        check_saved_model(save_function(tmp_path, body))


def test_saving_as_a_side_effect_of_a_signature_is_refused(tmp_path):
    def build(x):
        save = tf.raw_ops.SaveV2(
            prefix="/x", tensor_names=["x"], shape_and_slices=[""], tensors=[x]
        )
        with tf.control_dependencies([save]):
            return tf.identity(x)

    with pytest.raises(DataError, match="op SaveV2"):
        check_saved_model(save_v1(tmp_path / "m", build))


def test_restoring_that_writes_or_reads_elsewhere_is_refused(tmp_path):
    def save_on_restore(graph):
        graph.saver_def.restore_op_name = graph.saver_def.save_tensor_name.partition(":")[0]

    with pytest.raises(DataError, match="op SaveV2"):
        check_saved_model(edited(save_v1(tmp_path / "a"), save_on_restore))

    def other_name(graph):
        graph.saver_def.filename_tensor_name = "elsewhere:0"

    with pytest.raises(DataError, match="op RestoreV2"):
        check_saved_model(edited(save_v1(tmp_path / "b"), other_name))


def test_an_unknown_op_is_refused(tmp_path):
    def edit(graph):
        graph.graph_def.node.add(name="strange", op="SomebodysCustomOp")

    with pytest.raises(DataError, match="op SomebodysCustomOp in node strange"):
        check_saved_model(edited(save_v1(tmp_path / "m"), edit))


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "a/../../b", "s3://bucket/x"])
def test_an_asset_outside_is_refused(tmp_path, name):
    saved = edited(save_v1(tmp_path / "m"), lambda g: g.asset_file_def.add(filename=name))
    with pytest.raises(DataError, match=re.escape(repr(name))):
        check_saved_model(saved)


def test_links_out_of_the_directory_and_pipes_are_refused(tmp_path):
    saved = save_v1(tmp_path / "m")
    (saved / "inside").symlink_to("saved_model.pb")
    check_saved_model(saved)
    (saved / "assets").mkdir()
    (saved / "assets" / "words").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"assets/words is a symbolic link that leads out"):
        check_saved_model(saved)
    (saved / "assets" / "words").unlink()
    os.mkfifo(saved / "pipe")
    with pytest.raises(DataError, match="pipe is no regular file"):
        check_saved_model(saved)


def test_what_is_no_saved_model_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no saved_model\.pb"):
        check_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x00\xff not a proto")
    with pytest.raises(DataError, match="is damaged"):
        check_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(DataError, match="holds no graph"):
        check_saved_model(tmp_path)


def test_every_registered_op_with_a_file_or_address_argument_is_refused():
    """Whatever ops this TensorFlow has: one that takes a file or a host's name needs a reason."""
    suspicious = re.compile(r"(^|_)(file|filename|filenames|path|pattern|address|urls?|hostname)$")
    harmless = {"RegexFullMatch", "RegexReplace", "StaticRegexFullMatch", "StaticRegexReplace"}
    passed = set()
    for op in vars(tf.raw_ops):
        definition = op_def_registry.get(op)
        if definition is None or not trust._is_harmless(op):
            continue
        if any(suspicious.search(a.name) for a in [*definition.input_arg, *definition.attr]):
            passed.add(op)
    assert passed == harmless
