"""The inputs of a signature: which arrays may be fed, and in which order."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from cmdcm.serving.status import invalid_argument
from cmdcm.serving.tensors import data_type

_KEPT = 256  # combinations of types and shapes that are known to fit


class _Input(NamedTuple):
    """An input of a signature, unpacked once since reading protos is slow."""

    name: str
    tensor: str
    data_type: int
    shape: tuple[int, ...] | None  # -1 for a free dimension; None for a free rank
    default: np.ndarray | None


class SignatureInputs:
    """The inputs of one signature, in the order of their names.

    Args:
        signature: The SignatureDef.

    Attributes:
        tensors: Names of the tensors to feed.
    """

    def __init__(self, signature: meta_graph_pb2.SignatureDef):
        self._inputs = [
            _Input(
                name,
                info.name,
                info.dtype,
                None
                if info.tensor_shape.unknown_rank
                else tuple(dim.size for dim in info.tensor_shape.dim),
                tf.make_ndarray(signature.defaults[name]) if name in signature.defaults else None,
            )
            for name, info in sorted(signature.inputs.items())
        ]
        self.tensors = [entry.tensor for entry in self._inputs]
        self._names = {entry.name: None for entry in self._inputs}
        # What fitted once fits again: of a request of fifty inputs these checks took 0.05 ms.
        self._check_kinds = functools.lru_cache(_KEPT)(self._check)

    def fed(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the arrays to feed, in the order of `tensors`.

        Args:
            inputs: Arrays by name; those with a default may be missing.

        Raises:
            StatusError: INVALID_ARGUMENT, an array is missing, unknown, or has another type or
                shape than the signature.
        """
        if inputs.keys() != self._names.keys():
            inputs = self._with_defaults(inputs)
        arrays = [inputs[name] for name in self._names]
        self._check_kinds(tuple([a.dtype for a in arrays]), tuple([a.shape for a in arrays]))
        return arrays

    def _with_defaults(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        extra = sorted(set(inputs) - set(self._names))
        missing = [e.name for e in self._inputs if e.name not in inputs and e.default is None]
        if missing or extra:
            raise invalid_argument(
                f"input size does not match signature: {len(inputs)}!={len(self._inputs)}. "
                f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
            )
        defaults = {e.name: e.default for e in self._inputs if e.default is not None}
        return {**defaults, **inputs}

    def _check(self, dtypes: Sequence[np.dtype], shapes: Sequence[tuple[int, ...]]) -> None:
        for entry, dtype, shape in zip(self._inputs, dtypes, shapes, strict=True):
            if data_type(dtype) != entry.data_type:
                raise invalid_argument(
                    f"input {entry.name!r} should be {tf.as_dtype(entry.data_type).name}. "
                    f"Received: {tf.as_dtype(data_type(dtype)).name}"
                )
            if entry.shape is not None and not _fits(shape, entry.shape):
                raise invalid_argument(
                    f"input {entry.name!r} should have shape {_text(entry.shape)}. "
                    f"Received: {_text(shape)}"
                )


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _text(sizes: Sequence[int]) -> str:
    return "[" + ",".join("?" if size < 0 else str(size) for size in sizes) + "]"
