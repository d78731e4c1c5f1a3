"""A SavedModel is a program: what it may do is checked before it is published or loaded.

`check_saved_model` reads the proto alone; nothing of the model runs. It looks at every node of all
graphs and of all functions in the library, whether a signature reaches it or not:

- An op without side effects (stateless in TensorFlow's registry) may stay, unless it reaches out
  of the model all the same: `ReadFile`, `MatchingFiles`, `PyFuncStateless`, ... (`_REACHES_OUT`).
- An op with side effects is refused, unless it only touches the model's own variables, tables,
  random numbers and control flow (`_OWN_STATE`). So `WriteFile`, `PyFunc`, `EagerPyFunc`, `PrintV2`
  (it can write to a file), readers, file data sets, queues, collectives and whatever a later
  TensorFlow adds are refused without being named here.
- The saver may restore: `RestoreV2` and the like read what the saver's own file name says, and no
  other. It may save, where nothing that a server runs depends on it.
- A lookup table may be filled from a text file that is one of the model's assets.
- An op that TensorFlow does not know is refused: nobody can say what it does.

Asset names stay inside the model's `assets` folder and symbolic links inside its directory.
"""

import operator
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.python.framework import op_def_registry

from cmdcm.core.errors import DataError

_REACHES_OUT = re.compile(
    "ReadFile|MatchingFiles|PyFunc.*|GenerateVocabRemapping|InitializeTableFromTextFile|"
    "(Debug|Snapshot|Register|Xla|Reader|_).*|.*(CacheDataset|TPU|Rpc|Remote).*"
)
"""Ops that are stateless in the registry and still reach files, hosts or other code."""

_OWN_STATE = re.compile(
    "VarHandleOp|Variable|VariableV2|VariableShape|VarIsInitializedOp|ReadVariableOp|"
    "Assign(Add|Sub)?VariableOp|DisableCopyOnRead|DestroyResourceOp|Resource(Gather|Scatter|"
    "Apply|SparseApply|StridedSliceAssign|CountUpTo).*|(Anonymous)?(Mutable)?(Dense)?HashTable.*|"
    "InitializeTable(V2)?|LookupTable.*V2|TensorArray.*|Stack.*|TemporaryVariable|BoostedTrees.*|"
    "If|Case|While|StatefulPartitionedCall|Assert|CheckNumerics(V2)?|Empty|DeepCopy|GuaranteeConst|"
    "Random(Crop|Gamma|Poisson.*|Shuffle|StandardNormal|Uniform.*)|Multinomial|TruncatedNormal|"
    "ParameterizedTruncatedNormal|Rng.*|Stateful(Random|Standard|Truncated|Uniform).*|"
    "StatelessRandomGetAlg|CudnnRNN.*"
)
"""Ops with side effects that stay inside the model."""

_RESTORE = {"Restore", "RestoreSlice", "RestoreV2"}
_SAVE = {"Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints"}
_TABLE_FILE = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
_ASSETS_KEY = "saved_model_assets"
_INIT_KEYS = ("saved_model_main_op", "legacy_init_op", "saved_model_init_op")
_NAMED = 10  # faults that a message lists


def check_saved_model(directory: Path) -> None:
    """Checks a SavedModel's files and everything in its graphs.

    Raises:
        DataError: There is none or it cannot be read, or it holds an op that is not allowed, an
            asset path or a symbolic link that leads out of it; names the first ten.
    """
    directory = Path(directory)
    faults = list(_links(directory))
    for meta_graph in _read(directory).meta_graphs:
        faults += _assets(meta_graph)
        faults += _Graph(meta_graph).faults()
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise DataError(
            f"{directory} is not trusted: {'; '.join(faults[:_NAMED])}{more}. A model may only "
            "compute on its inputs and its own variables; export it again without these"
        )


def _read(directory: Path) -> saved_model_pb2.SavedModel:
    binary, text = directory / "saved_model.pb", directory / "saved_model.pbtxt"
    model = saved_model_pb2.SavedModel()
    try:
        if binary.exists():
            model.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text(encoding="utf-8"), model)
    except FileNotFoundError as error:
        raise DataError(f"{directory} holds no saved_model.pb") from error
    except OSError as error:
        raise DataError(f"cannot read the SavedModel in {directory}: {error.strerror}") from error
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise DataError(f"the SavedModel in {directory} is damaged: {error}") from error
    if not model.meta_graphs:
        raise DataError(f"the SavedModel in {directory} is damaged: it holds no graph")
    return model


def _links(directory: Path) -> Iterator[str]:
    inside = directory.resolve()
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            yield f"{name} is a symbolic link that leads out of the directory"
        elif not path.is_file() and not path.is_dir():
            yield f"{name} is no regular file"


def _asset_files(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[meta_graph_pb2.AssetFileDef]:
    yield from meta_graph.asset_file_def
    if _ASSETS_KEY in meta_graph.collection_def:  # as TensorFlow 1 wrote them
        for packed in meta_graph.collection_def[_ASSETS_KEY].any_list.value:
            asset = meta_graph_pb2.AssetFileDef()
            if not packed.Unpack(asset):
                raise DataError(f"collection {_ASSETS_KEY} is damaged: it holds no asset")
            yield asset


def _assets(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    for asset in _asset_files(meta_graph):
        path = PurePosixPath(asset.filename)
        if path.is_absolute() or ".." in path.parts or "://" in asset.filename:
            yield f"asset {asset.filename!r} leads out of the assets folder"


_Place = tuple[str, str]
"""A node: the name of its function, empty for the graph itself, and its own name."""


function_library = operator.attrgetter("library")
"""From a GraphDef to its FunctionDefLibrary."""


class _Graph:
    """The nodes of one meta graph and of its functions, and who feeds and calls whom."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef):
        self.meta_graph = meta_graph
        self.nodes: dict[_Place, node_def_pb2.NodeDef] = {
            ("", node.name): node for node in meta_graph.graph_def.node
        }
        self.arguments: dict[_Place, int] = {}
        functions = function_library(meta_graph.graph_def).function
        for function in functions:
            name = function.signature.name
            self.nodes |= {(name, node.name): node for node in function.node_def}
            for n, argument in enumerate(function.signature.input_arg):
                self.arguments[name, argument.name] = n
        self.bodies: dict[str, list[_Place]] = {
            function.signature.name: []
            for function in function_library(meta_graph.graph_def).function
        }
        self.callers: dict[str, list[_Place]] = {}
        for place, node in self.nodes.items():
            self.bodies.setdefault(place[0], []).append(place)
            for called in self._called(node):
                self.callers.setdefault(called, []).append(place)

    def faults(self) -> Iterator[str]:
        """Describes each node that is not allowed."""
        saver = {_node_of(self.meta_graph.saver_def.filename_tensor_name)}
        assets = {_node_of(a.tensor_info.name) for a in _asset_files(self.meta_graph)}
        running: set[_Place] | None = None
        for place, node in self.nodes.items():
            if node.op in _RESTORE:
                allowed = self._is_named_by(place, node.input[0], saver)
            elif node.op in _TABLE_FILE:
                allowed = self._is_named_by(place, node.input[_TABLE_FILE[node.op]], assets)
            elif node.op in _SAVE:
                running = self._running() if running is None else running
                allowed = place not in running
            else:
                allowed = _is_harmless(node.op) or node.op in self.bodies
            if not allowed:
                where = f" of function {place[0]}" if place[0] else ""
                yield f"op {node.op} in node {node.name}{where}"

    def _is_named_by(self, place: _Place, tensor: str, origins: Iterable[str]) -> bool:
        """Whether a file name is one of the graph's nodes `origins`, through all calls."""
        wanted, waiting, seen = {("", name) for name in origins}, [(place[0], tensor)], set()
        while waiting:
            function, tensor = waiting.pop()
            source = (function, _node_of(tensor))
            if source in wanted or source in seen:
                continue
            seen.add(source)
            if source in self.arguments:
                callers = self.callers.get(function, [])
                if not callers:
                    continue  # nothing in the graph runs it
                if not all(self._is_plain_call(self.nodes[caller]) for caller in callers):
                    return False
                index = self.arguments[source]
                waiting += [(c[0], self.nodes[c].input[index]) for c in callers]
            elif source in self.nodes and self.nodes[source].op == "Identity":
                waiting.append((function, self.nodes[source].input[0]))
            elif source in self.nodes and self.nodes[source].op == "ReadVariableOp":
                values = self._assigned(function, _node_of(self.nodes[source].input[0]))
                if not values:
                    return False
                waiting += [(function, value) for value in values]
            else:
                return False
        return True

    def _assigned(self, function: str, handle: str) -> list[str]:
        """What is assigned to a variable; empty unless all of that is plain to see."""
        node = self.nodes.get((function, handle))
        if function or node is None or node.op != "VarHandleOp":
            return []
        shared = [n for n in self.nodes.values() if n.op == node.op and _shares(n, node)]
        users = [
            self.nodes[place]
            for place in self.bodies[""]
            if handle in map(_node_of, self.nodes[place].input)
        ]
        other = {user.op for user in users} - {
            "AssignVariableOp",
            "ReadVariableOp",
            "VarIsInitializedOp",
        }
        if len(shared) > 1 or other:
            return []
        return [user.input[1] for user in users if user.op == "AssignVariableOp"]

    def _running(self) -> set[_Place]:
        """The nodes that a server may run: what signatures, restoring and initializing need."""
        roots = {_node_of(self.meta_graph.saver_def.restore_op_name)}
        for signature in self.meta_graph.signature_def.values():
            roots |= {_node_of(info.name) for info in signature.outputs.values()}
        for key, values in self.meta_graph.collection_def.items():
            if key in _INIT_KEYS:
                roots |= {_node_of(name) for name in values.node_list.value}
        seen, waiting = set[_Place](), [("", root) for root in roots]
        while waiting:
            place = waiting.pop()
            if place in seen or place not in self.nodes:
                continue
            seen.add(place)
            node = self.nodes[place]
            waiting += [(place[0], _node_of(tensor)) for tensor in node.input]
            for called in self._called(node):
                waiting += self.bodies.get(called, [])
        return seen

    def _called(self, node: node_def_pb2.NodeDef) -> set[str]:
        """Names of the functions that a node may run."""
        names = {node.op} & set(self.bodies)
        for value in node.attr.values():
            if value.HasField("func"):
                names.add(value.func.name)
            names |= {function.name for function in value.list.func}
        return names

    def _is_plain_call(self, node: node_def_pb2.NodeDef) -> bool:
        """Whether the inputs of a node are the arguments of the function that it calls."""
        return node.op in ("PartitionedCall", "StatefulPartitionedCall") or node.op in self.bodies


def _is_harmless(op: str) -> bool:
    definition = op_def_registry.get(op)
    if definition is None:
        return False
    if definition.is_stateful:
        return _OWN_STATE.fullmatch(op) is not None
    return _REACHES_OUT.fullmatch(op) is None


def _shares(one: node_def_pb2.NodeDef, other: node_def_pb2.NodeDef) -> bool:
    return bool(one.attr["shared_name"].s == other.attr["shared_name"].s)


def _node_of(tensor: str) -> str:
    """The node of a tensor `node:0`, `node:output:0`, of a control input `^node`, or of a node."""
    return tensor.removeprefix("^").partition(":")[0]
