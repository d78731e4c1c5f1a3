"""Decoder of serialized tf.train.Examples: the compiled twin of `input.parse_examples`.

Both give the same tensors (`tests/features/test_decode.py`). Training and scoring of data sets use
this one, which takes half the processor time; serving uses the other: a SavedModel holds
TensorFlow's operations alone and cannot call into Python.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmdcm.core.errors import DataError
from cmdcm.features.encode import entry_prefix
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.unwire import put_strings, read_examples
from cmdcm.features.wire import BYTES, FLOAT, INT64
from cmdcm.features.wire_values import (
    FINE,
    MALFORMED,
    SCALAR,
    SEQUENCE,
    SLACK,
    TARGET,
    VECTOR,
    WRONG_KIND,
)

Columns = dict[str, Any]
"""Columns by name: int64 or float32 [examples] or [examples, length]; `Strings` for strings."""

_KINDS = {"int64": INT64, "float32": FLOAT, "string": BYTES}
_SHAPES = {"scalar": SCALAR, "vector": VECTOR, "sequence": SEQUENCE}
_ALIGNMENT = 64  # bytes, of the memory of TensorFlow's tensors
_STRING_VALUE = 0x42  # tag of TensorProto.string_val


class Strings:
    """A column of strings, compact.

    Attributes:
        index: int64 [examples] or [examples, length]; each string's number in `proto`.
        proto: The strings as a serialized TensorProto, the column's default first.
    """

    def __init__(self, spans: np.ndarray, shape: tuple[int, ...], default: bytes):
        """Takes the strings from the spans, int64 [cells, 2], that `read_examples` wrote."""
        self.index = np.empty(len(spans), np.int64)
        present = spans[:, 1] >= 0
        bound = 11 * len(spans) + int(spans[present, 1].sum())
        out = np.empty(bound, np.uint8)
        size = put_strings(spans, _STRING_VALUE, self.index, out)
        self.index = self.index.reshape(shape)
        # dtype = DT_STRING, shape of one dimension.
        count = _varint(1 + int(np.count_nonzero(present)))
        dim = b"\x12" + _varint(len(count) + 1) + b"\x08" + count
        self.proto = b"".join(
            (
                b"\x08\x07\x12" + _varint(len(dim)) + dim,
                bytes([_STRING_VALUE]) + _varint(len(default)) + default,
                out[:size].tobytes(),
            )
        )


class Decoder:
    """Decodes examples into the columns of some features.

    Args:
        spec: The columns of the examples, in the order in which their writer put them: other
            orders, and other columns, are read too, but slower.
        features: What to decode.

    Example:
        >>> from cmdcm.features.encode import encode_examples
        >>> import pyarrow as pa
        >>> carts = Feature(name="carts", dtype="int64", side="user", shape="sequence", length=2)
        >>> spec = FeatureSpec(features=(carts,))
        >>> encoded = encode_examples(pa.table({"carts": [[7], [], [1, 2, 3], None]}))
        >>> Decoder(spec, [carts]).decode(list(encoded))["carts"].tolist()
        [[7, 0], [0, 0], [1, 2], [0, 0]]
    """

    def __init__(self, spec: FeatureSpec, features: Sequence[Feature]):
        self.features = tuple(features)
        self._known = spec.features
        self._prefixes = [entry_prefix(feature.name) for feature in self._known]
        self._place = {feature.name: place for place, feature in enumerate(self._known)}
        self._columns = np.zeros(len(self._known), TARGET)
        for column, feature, prefix in zip(self._columns, self._known, self._prefixes, strict=True):
            column["kind"], column["shape"] = _KINDS[feature.dtype], _SHAPES[feature.shape]
            column["length"], column["default"] = feature.length, _default_bits(feature)
            column["prefix"], column["prefix_size"] = prefix.ctypes.data, len(prefix) - 8
            column["key_size"] = len(feature.name.encode())

    def decode(self, examples: Sequence[bytes]) -> Columns:
        """Decodes a sequence of serialized examples."""
        ends = np.cumsum([0, *map(len, examples)])
        data = np.frombuffer(b"".join(examples) + bytes(SLACK), np.uint8)
        return self.decode_memory(data.ctypes.data + ends[:-1], data.ctypes.data + ends[1:])

    def decode_memory(self, starts: np.ndarray, stops: np.ndarray) -> Columns:
        """Decodes examples in memory.

        Args:
            starts: int64 [examples], address of each example.
            stops: int64 [examples], address after it; `wire_values.SLACK` bytes more can be read.

        Returns:
            The features' columns, in their order.

        Raises:
            DataError: Bytes that are no tf.train.Example; or a feature whose values do not have
                the type or, a scalar or vector, the number of the spec: names the feature.
        """
        columns = self._columns.copy()
        made = {feature.name: _allocate(feature, len(starts)) for feature in self.features}
        for name, array in made.items():
            columns[self._place[name]]["out"] = array.ctypes.data
        status, row, place, found = read_examples(starts, stops, columns)
        if status != FINE:
            raise DataError(self._fault(status, row, place, found))
        return {
            feature.name: Strings(
                made[feature.name].reshape(-1, 2),
                _shape(feature, len(starts)),
                str(feature.default).encode(),
            )
            if feature.dtype == "string"
            else made[feature.name]
            for feature in self.features
        }

    def _fault(self, status: int, row: int, place: int, found: int) -> str:
        if status == MALFORMED:
            where = f" (feature {self._known[place].name!r})" if place >= 0 else ""
            return f"record {row} of a batch is no tf.train.Example{where}: its bytes are malformed"
        feature = self._known[place]
        if status == WRONG_KIND:
            kinds = {kind: dtype for dtype, kind in _KINDS.items()}
            problem = f"has {kinds[found]} values, expected {feature.dtype}"
        else:
            problem = f"has {found} values, expected {feature.length}"
        return (
            f"an example does not have the columns of its spec: feature {feature.name!r} {problem}"
        )


def _default_bits(feature: Feature) -> int:
    if feature.dtype == "float32":
        return int(np.array(feature.default, np.float32).view(np.uint32))
    return 0 if feature.dtype == "string" else int(feature.default)


def _shape(feature: Feature, count: int) -> tuple[int, ...]:
    return (count,) if feature.shape == "scalar" else (count, feature.length)


def _allocate(feature: Feature, count: int) -> np.ndarray:
    """Returns uninitialised, aligned memory for a column; for strings, of their spans."""
    shape = _shape(feature, count)
    if feature.dtype == "string":
        shape = (*shape, 2)
    dtype = np.dtype("float32" if feature.dtype == "float32" else "int64")
    size = int(np.prod(shape)) * dtype.itemsize
    return aligned_memory(size).view(dtype).reshape(shape)


def aligned_memory(size: int) -> np.ndarray:
    """Returns uninitialised memory, uint8 [size], that TensorFlow takes over without a copy."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size]


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
