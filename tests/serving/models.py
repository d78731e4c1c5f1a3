"""Tiny SavedModels with cmdcm's signatures, and NumPy references of what they compute."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from cmdcm.core.files import write_manifest
from cmdcm.features.spec import Feature, FeatureSpec

OUTPUTS = ("p_direct", "p_cart", "p_delayed", "p_conversion", "cart_effect")

SPEC = FeatureSpec(
    features=(
        Feature(name="user_id", dtype="int64", side="user"),
        Feature(name="city", dtype="string", side="user", default="nowhere"),
        Feature(name="user_counts", dtype="float32", side="user", shape="vector", length=3),
        Feature(
            name="clicked_item",
            dtype="int64",
            side="user",
            shape="sequence",
            length=4,
            sequence="clicked",
        ),
        Feature(
            name="clicked_age",
            dtype="float32",
            side="user",
            shape="sequence",
            length=4,
            sequence="clicked",
            default=-1,
        ),
        Feature(name="hour", dtype="int64", side="context"),
        Feature(name="item_id", dtype="int64", side="item"),
        Feature(name="brand", dtype="string", side="item", default="none"),
        Feature(name="price", dtype="float32", side="item", default=1.5),
        Feature(name="affinity", dtype="float32", side="cross", shape="vector", length=2),
        Feature(name="direct", dtype="float32", side="label"),
        Feature(name="row", dtype="int64", side="meta"),
    )
)


def expected(
    user: Mapping[str, np.ndarray], candidates: Mapping[str, np.ndarray], version: int
) -> dict[str, np.ndarray]:
    """The model in NumPy, from arrays of the `score_candidates` signature's shapes."""
    base = (
        user["user_id"][0] * 1e-3
        + len(user["city"][0]) * 0.1
        + user["user_counts"][0, 1]
        + user["clicked_item"].sum() * 1e-3
        + user["clicked_age"].sum() * 0.01
        + user["hour"][0] * 0.02
    )
    logit = (
        base
        + candidates["item_id"] * 1e-3
        + np.array([len(brand) for brand in candidates["brand"]]) * 0.2
        + candidates["price"] * 0.1
        + candidates["affinity"][:, 0]
    )
    p = 1 / (1 + np.exp(-logit))
    outputs = {name: p * (index + 1) / 10 for index, name in enumerate(OUTPUTS[:4])}
    outputs["cart_effect"] = np.full(len(p), float(version))
    return {name: value.astype(np.float32) for name, value in outputs.items()}


class TinyModel(tf.Module):
    """A model with cmdcm's two signatures; `cart_effect` answers the version number."""

    def __init__(self, version: int):
        super().__init__()
        self.scale = tf.Variable(float(version))

    def _score(self, f: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        def number(x: tf.Tensor, factor: float) -> tf.Tensor:
            return tf.cast(x, tf.float32) * factor

        logit = (
            number(f["user_id"], 1e-3)
            + number(tf.strings.length(f["city"]), 0.1)
            + f["user_counts"][:, 1]
            + number(tf.reduce_sum(f["clicked_item"], 1), 1e-3)
            + number(tf.reduce_sum(f["clicked_age"], 1), 0.01)
            + number(f["hour"], 0.02)
            + number(f["item_id"], 1e-3)
            + number(tf.strings.length(f["brand"]), 0.2)
            + f["price"] * 0.1
            + f["affinity"][:, 0]
        )
        p = tf.sigmoid(logit)
        outputs = {name: p * (index + 1) / 10 for index, name in enumerate(OUTPUTS[:4])}
        outputs["cart_effect"] = tf.fill(rows, self.scale)
        return outputs

    def signatures(self) -> dict[str, object]:
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serving_default(examples):
            parsed = tf.io.parse_example(examples, {f.name: _parsing(f) for f in SPEC.inputs})
            for f in SPEC.inputs:
                if f.shape == "sequence":
                    dense = parsed[f.name].to_tensor(f.default, shape=[None, f.length])
                    parsed[f.name] = dense
            return self._score(parsed, tf.shape(examples))

        @tf.function
        def score_candidates(**features):
            return self._score(features, tf.shape(features["item_id"]))

        def specs(features: Sequence[Feature], rows: int | None) -> dict[str, tf.TensorSpec]:
            return {
                f.name: tf.TensorSpec(
                    [rows] if f.shape == "scalar" else [rows, f.length], f.dtype, name=f.name
                )
                for f in features
            }

        return {
            "serving_default": serving_default.get_concrete_function(),
            "score_candidates": score_candidates.get_concrete_function(
                **specs(SPEC.user_inputs, 1), **specs(SPEC.candidate_inputs, None)
            ),
        }


def _parsing(feature: Feature) -> object:
    dtype = tf.as_dtype(feature.dtype)
    if feature.shape == "sequence":
        return tf.io.RaggedFeature(dtype)
    shape = [] if feature.shape == "scalar" else [feature.length]
    default = np.full(shape, feature.default, dtype=object if dtype == tf.string else None)
    return tf.io.FixedLenFeature(shape, dtype, default.tolist())


def user_values(user_id: int = 7) -> dict[str, object]:
    """The user side of a request, as a caller writes it."""
    return {
        "user_id": user_id,
        "city": "Oslo",
        "user_counts": [1.0, 0.25, 3.0],
        "clicked_item": [11, 12],
        "clicked_age": [5.0, 9.0],
        "hour": 20,
    }


def user_arrays(user_id: int = 7) -> dict[str, np.ndarray]:
    """The same user as the signature takes him."""
    return {
        "user_id": np.array([user_id], np.int64),
        "city": np.array([b"Oslo"], object),
        "user_counts": np.array([[1.0, 0.25, 3.0]], np.float32),
        "clicked_item": np.array([[11, 12, 0, 0]], np.int64),
        "clicked_age": np.array([[5.0, 9.0, -1.0, -1.0]], np.float32),
        "hour": np.array([20], np.int64),
    }


def candidate_arrays(count: int) -> dict[str, np.ndarray]:
    """`count` different candidates."""
    n = np.arange(count)
    return {
        "item_id": n.astype(np.int64),
        "brand": np.array([b"b" * (i % 3) for i in n], object),
        "price": (n % 7).astype(np.float32),
        "affinity": np.stack([n % 5 / 10, n % 2], axis=1).astype(np.float32),
    }


def write_warmup(
    version_path: Path, requests: Sequence[tuple[str, Mapping[str, np.ndarray]]]
) -> None:
    """Writes (signature, inputs) pairs as the version's warm-up requests."""
    path = version_path / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def write_tiny_model(path: Path, version: int) -> None:
    """Exports `TinyModel` as cmdcm does: warm-up, spec and manifest beside it."""
    model = TinyModel(version)
    tf.saved_model.save(model, str(path), signatures=model.signatures())
    write_warmup(path, [("score_candidates", {**user_arrays(), **candidate_arrays(10)})])
    SPEC.save(path / "assets.extra" / "feature_spec.json")
    write_manifest(path, {"kind": "export"})


def write_v1_model(path: Path) -> None:
    """Exports as TensorFlow 1 did: placeholders, a table filled from an asset, string tags.

    The signature `wait` answers once `release` is called, as often as that: a slow model. It spins,
    because a model that is trusted has no op that sleeps.
    """
    v1 = tf.compat.v1
    words = path.with_name("words.txt")
    words.write_text("red\ngreen\n", encoding="utf-8")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        weights = v1.get_variable("weights", initializer=[[2.0], [3.0]], use_resource=False)
        y = tf.matmul(x, weights)
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(words), tf.string, 0, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            default_value=-1,
        )
        word = v1.placeholder(tf.string, None, name="word")
        index, echo = table.lookup(word), tf.identity(word)
        token = v1.placeholder(tf.float32, [], name="token")
        last = v1.get_variable("last", initializer=0.0, use_resource=True)
        releases = v1.get_variable("releases", initializer=0, use_resource=True)
        waited = v1.while_loop(
            lambda _: tf.less(releases.read_value(), 1), lambda turns: turns + 1, [0]
        )
        with tf.control_dependencies([waited]):
            counted_down = releases.assign_sub(1).op
        with tf.control_dependencies([counted_down]):
            taken = last.read_value() + token
        with tf.control_dependencies([last.assign(token).op]):
            counted_up = releases.assign_add(1).op
        with tf.control_dependencies([counted_up]):
            given = tf.identity(token)
        asset = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])

        def signature(inputs, outputs):
            return v1.saved_model.signature_def_utils.predict_signature_def(inputs, outputs)

        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            signature_def_map={
                "serving_default": signature({"x": x}, {"y": y}),
                "lookup": signature({"word": word}, {"index": index, "word_bytes": echo}),
                "wait": signature({"token": token}, {"taken": taken}),
                "release": signature({"token": token}, {"given": given}),
            },
            assets_collection=asset,
            main_op=v1.tables_initializer(),
        )
        builder.save()
    words.unlink()


def write_banned_model(path: Path) -> None:
    """Exports a model that reads a file of the server when it is asked."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="name")])
    def read(name):
        return {"content": tf.io.read_file(name)}

    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": read})


class ExamplesModel(tf.Module):
    """Signatures over tf.train.Example with a float `x` and an int64 `odd`, and some faulty ones.

    For an example, `classify` answers the classes "a" and "b" with scores x and 10 x, `regress` and
    `regress_column` 2 x + version, shaped [N] and [N, 1].
    """

    def __init__(self, version: int):
        super().__init__()
        self.version = tf.Variable(float(version))

    def signatures(self) -> dict[str, object]:
        def x(examples):
            return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

        def scores(examples):
            return tf.stack([x(examples), 10 * x(examples)], axis=1)

        def labels(examples, count=2):
            return tf.repeat(
                tf.constant([[b"a", b"b", b"\xff"]])[:, :count], len(x(examples)), axis=0
            )

        functions = {
            "classify": lambda e: {"classes": labels(e), "scores": scores(e)},
            "labels_only": lambda e: {"classes": labels(e, 3)},
            "serving_default": lambda e: {"scores": scores(e)},
            "regress": lambda e: {"outputs": 2 * x(e) + self.version},
            "regress_column": lambda e: {"outputs": (2 * x(e) + self.version)[:, tf.newaxis]},
            "uneven": lambda e: {"classes": labels(e, 3), "scores": scores(e)},
            "flat": lambda e: {"scores": x(e)},
            "double": lambda e: {"scores": tf.cast(scores(e), tf.float64)},
            "number_classes": lambda e: {"classes": scores(e)},
            "short": lambda e: {"scores": scores(e)[1:]},
            "three": lambda e: {"scores": scores(e), "classes": labels(e), "more": x(e)},
            "other_outputs": lambda e: {"logits": scores(e)},
            "wide_values": lambda e: {"outputs": scores(e)},
            "short_values": lambda e: {"outputs": x(e)[1:]},
            "double_values": lambda e: {"outputs": tf.cast(x(e), tf.float64)},
        }
        spec = tf.TensorSpec([None], tf.string, name="inputs")
        made = {
            name: tf.function(lambda inputs, f=function: f(inputs)).get_concrete_function(spec)
            for name, function in functions.items()
        }
        made["other_input"] = tf.function(lambda e: {"scores": scores(e)}).get_concrete_function(
            tf.TensorSpec([None], tf.string, name="examples")
        )
        made["two_inputs"] = tf.function(
            lambda inputs, more: {"outputs": x(inputs) + more}
        ).get_concrete_function(spec, tf.TensorSpec([], tf.float32, name="more"))
        return made


def write_examples_model(path: Path, version: int) -> None:
    """Exports `ExamplesModel`."""
    model = ExamplesModel(version)
    tf.saved_model.save(model, str(path), signatures=model.signatures())
