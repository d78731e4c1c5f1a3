"""The graph of an export made small, by TensorFlow's own optimizer: once, and not at every load.

What is computed twice is computed once, and what follows from constants alone is folded, such as
the halves of split kernels. A server optimizes a graph again, for its machine, when a signature
first runs; but until then each node costs time, and in a server in Python every other thread waits
while a graph is imported. Of the default model 1,700 of 3,500 nodes are left.
"""

from collections.abc import Iterator
from pathlib import Path

from tensorflow.core.framework import graph_pb2, variable_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.grappler import tf_optimizer

OPTIMIZERS = ("common_subgraph_elimination", "constfold", "arithmetic", "dependency")
"""None of them chooses kernels or layouts for the machine that it runs on."""

_ASKED = "train_op"  # the collection of the nodes that TensorFlow's optimizer keeps


def shrink(file: Path) -> None:
    """Rewrites a `saved_model.pb` of one meta graph; its signatures give the same values.

    Args:
        file: The file. Nobody else may read it yet.
    """
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    [meta_graph] = model.meta_graphs
    meta_graph.graph_def.CopyFrom(_smaller(meta_graph))
    file.write_bytes(model.SerializeToString(deterministic=True))


def _smaller(meta_graph: meta_graph_pb2.MetaGraphDef) -> graph_pb2.GraphDef:
    item = meta_graph_pb2.MetaGraphDef()
    item.CopyFrom(meta_graph)
    item.collection_def[_ASKED].node_list.value.extend(_kept(meta_graph))
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.optimizers.extend(OPTIMIZERS)
    rewrite.min_graph_nodes = -1  # small graphs too
    return tf_optimizer.OptimizeGraph(config, item)


def _kept(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """Yields tensors that are asked for by name, beside those that TensorFlow keeps anyway."""
    for signature in meta_graph.signature_def.values():
        yield from (info.name for info in signature.outputs.values())
    for collection in meta_graph.collection_def.values():
        for packed in collection.bytes_list.value:
            yield variable_pb2.VariableDef.FromString(packed).initial_value_name
