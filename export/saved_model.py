"""Writing a model as a SavedModel whose graph is flat: no functions, no training ops.

The signatures are traced as functions and their bodies put into one graph side by side. A
SavedModel of `tf.saved_model.save` calls a function for each signature instead. TensorFlow may
inline that or not; where it does not, weights are arguments that it cannot fold into others. It
also numbers functions by all that a process traced before. Here names depend on the model alone,
and there is no `fingerprint.pb` with its random number: one model gives the same bytes each time on
one version of TensorFlow.
"""

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from cmdcm.core.config import ExportConfig
from cmdcm.export import signatures
from cmdcm.export.freeze import served_weights
from cmdcm.export.shrink import shrink
from cmdcm.model.base import RankingModel

V1 = tf.compat.v1


def save_model(model: RankingModel, directory: Path, config: ExportConfig) -> None:
    """Writes a built model with all its signatures.

    Args:
        model: The model, with its weights.
        directory: The SavedModel to write; made if it is missing.
        config: How weights are held.
    """
    with served_weights(model, config) as variables:
        examples = signatures.examples_function(model)
        candidates = signatures.candidates_function(model)
    values = {id(v.handle): v.numpy() for v in variables}
    for function in (examples, candidates):
        values |= {
            id(value): value.numpy()
            for value, _ in function.graph.captures
            if value.dtype != tf.resource
        }
    with tf.Graph().as_default(), V1.Session() as session:
        weights = _Weights(values, session)
        serialized = V1.placeholder(tf.string, [None], signatures.EXAMPLES_INPUT)
        scores = _import(examples, {signatures.EXAMPLES_INPUT: serialized}, weights, "of_examples")
        specs = signatures.candidates_specs(model.spec)
        inputs = {n: V1.placeholder(s.dtype, s.shape, f"input/{n}") for n, s in specs.items()}
        of_candidates = _import(candidates, inputs, weights, "of_candidates")
        classes, class_scores = signatures.classified(scores)
        given = {"inputs": serialized}
        _write(
            session,
            directory,
            {
                signatures.EXAMPLES_SIGNATURE: _signature(
                    {signatures.EXAMPLES_INPUT: serialized}, scores, "predict"
                ),
                signatures.CANDIDATES_SIGNATURE: _signature(inputs, of_candidates, "predict"),
                signatures.CLASSIFY_SIGNATURE: _signature(
                    given, {"classes": classes, "scores": class_scores}, "classify"
                ),
                signatures.REGRESS_SIGNATURE: _signature(
                    given, {"outputs": scores[signatures.REGRESSION]}, "regress"
                ),
            },
        )


class _Weights:
    """The weights in the graph, each once; both signatures share them."""

    def __init__(self, values: dict[int, Any], session: tf.compat.v1.Session):
        self._values, self._session = values, session
        self._made: dict[int, tf.Tensor] = {}

    def __call__(self, captured: tf.Tensor) -> tf.Tensor:
        """Returns the constant, or the handle of the variable, for what a function captured."""
        key = id(captured)
        if key not in self._made:
            value = self._values[key]
            if captured.dtype == tf.resource:
                # Fed, not written into the graph: the value may be larger than a proto can be.
                start = tf.zeros(value.shape, value.dtype)
                variable = V1.Variable(start, use_resource=True, name="weight")
                self._session.run(variable.initializer, {start: value})
                self._made[key] = variable.handle
            else:
                self._made[key] = tf.constant(value, name="constant")
        return self._made[key]


def _import(
    function: Any, inputs: dict[str, tf.Tensor], weights: _Weights, name: str
) -> dict[str, tf.Tensor]:
    """Puts the body of a concrete function into the current graph; returns its outputs."""
    graph, outputs = function.graph, function.structured_outputs
    captured = {placeholder.name: weights(value) for value, placeholder in graph.captures}
    named = {
        tensor.name: inputs[_input_name(tensor)]
        for tensor in graph.inputs
        if tensor.name not in captured
    }
    # Its own inputs and small weights go: some have the number of a tensor as their name.
    replaced = {name.partition(":")[0]: tensor for name, tensor in (named | captured).items()}
    body = graph.as_graph_def()
    kept = [node for node in body.node if node.name not in replaced]
    del body.node[:]
    body.node.extend(kept)
    used = {name.partition(":")[0] for node in kept for name in node.input}
    renamed = _rename(list(body.node))
    tensors = tf.graph_util.import_graph_def(
        body,
        input_map={f"{node}:0": tensor for node, tensor in replaced.items() if node in used},
        return_elements=[_renamed(tensor.name, renamed) for tensor in outputs.values()],
        name=name,
    )
    return dict(zip(outputs, tensors, strict=True))


def _rename(nodes: list[Any]) -> dict[str, str]:
    """Names nodes by their op and place: Keras numbers layers by all that a process has made."""
    renamed = {node.name: f"{node.op}_{place}" for place, node in enumerate(nodes)}
    for node in nodes:
        node.name = renamed[node.name]
        for place, source in enumerate(node.input):
            node.input[place] = _renamed(source, renamed)
        node.attr.pop("_class", None)  # asks for the device of another node, by its old name
    return renamed


def _renamed(reference: str, renamed: dict[str, str]) -> str:
    """Renames what a node's input or a tensor's name refers to: `node`, `node:1` or `^node`."""
    control = "^" if reference.startswith("^") else ""
    node, colon, output = reference.removeprefix("^").partition(":")
    return f"{control}{renamed.get(node, node)}{colon}{output}"


def _input_name(placeholder: tf.Tensor) -> str:
    """The argument that a placeholder of a function stands for."""
    return str(placeholder.op.get_attr("_user_specified_name").decode())


def _signature(
    inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor], method: str
) -> meta_graph_pb2.SignatureDef:
    info = V1.saved_model.build_tensor_info
    return V1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        f"tensorflow/serving/{method}",
    )


def _write(
    session: tf.compat.v1.Session,
    directory: Path,
    defined: dict[str, meta_graph_pb2.SignatureDef],
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # The builder wants a directory that does not exist.
    inner = directory / "saved"
    builder = V1.saved_model.Builder(str(inner))
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.SERVING], defined, strip_default_attrs=True
    )
    shrink(Path(builder.save().decode()))
    for path in sorted(inner.iterdir()):
        path.rename(directory / path.name)
    inner.rmdir()
