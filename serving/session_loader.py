"""Loading a SavedModel into a session while other threads go on answering.

TensorFlow imports a graph in one call that holds Python's global lock, and most of that call infers
shapes through the bodies of the functions that the signatures call. With a graph of 3,400 nodes
every request waits 55 ms. Imported nodes first and then function by function, with no bodies
to look into yet, the longest call is the largest function's: 9 ms for the same graph.
"""

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl
from tensorflow.python.util import deprecation

from cmdcm.export.trust import function_library


def load_into_session(session: tf.compat.v1.Session, path: Path) -> meta_graph_pb2.MetaGraphDef:
    """Loads as `tf.compat.v1.saved_model.load` does with the tag `serve`.

    Args:
        session: A session of an empty graph of its own.
        path: Directory of the SavedModel.

    Returns:
        The meta graph; its signatures name the tensors to feed and to fetch.
    """
    with deprecation.silence(), session.graph.as_default():
        loaded: meta_graph_pb2.MetaGraphDef = _PiecewiseLoader(str(path)).load(
            session, [tf.saved_model.SERVING]
        )
    return loaded


def has_free_columns(path: Path) -> bool:
    """Returns whether a request can choose more of an input's shape than its first dimension."""
    return any(
        info.tensor_shape.unknown_rank or any(dim.size < 0 for dim in info.tensor_shape.dim[1:])
        for meta_graph in loader_impl.parse_saved_model(str(path)).meta_graphs
        for signature in meta_graph.signature_def.values()
        for info in signature.inputs.values()
    )


class _PiecewiseLoader(loader_impl.SavedModelLoader):
    def load_graph(self, graph: tf.Graph, tags: list[str], *args: Any, **kwargs: Any) -> Any:
        graph_def = self.get_meta_graph_def_from_tags(tags).graph_def
        library = function_pb2.FunctionDefLibrary()
        if not _calls_by_op(graph_def):
            library.CopyFrom(function_library(graph_def))
            graph_def.ClearField("library")
        imported = super().load_graph(graph, tags, *args, **kwargs)
        with graph.as_default():
            for function in library.function:
                alone = function_pb2.FunctionDefLibrary(function=[function])
                piece = graph_pb2.GraphDef(versions=graph_def.versions, library=alone)
                tf.import_graph_def(piece, name="")
        return imported


def _calls_by_op(graph_def: graph_pb2.GraphDef) -> bool:
    """Whether functions are ops or have gradients, as in TensorFlow 1; such a graph goes whole."""
    library = function_library(graph_def)
    names = {function.signature.name for function in library.function}
    return bool(library.gradient) or any(node.op in names for node in graph_def.node)
