"""One loaded version of a model: a SavedModel, its signatures, and `predict`.

The SavedModel is loaded as TensorFlow Serving's C++ server loads it, into a session by
`tf.compat.v1.saved_model.load`, and is fed and fetched by the tensor names of its signatures. So
any valid SavedModel serves, written by TensorFlow 1 or 2; `tf.saved_model.load` fails on some.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.util import deprecation
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from cmdcm.core.errors import CmdcmError
from cmdcm.core.files import MANIFEST, verify_manifest
from cmdcm.serving.status import StatusError, from_exception, invalid_argument
from cmdcm.serving.tensors import data_type, from_protos

DEFAULT_SIGNATURE = "serving_default"
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_WARMUP_RECORDS = 1000
_MAX_CALLABLES = 64  # combinations of signature and output filter that stay prepared

# A model file is trusted as far as its graph is; this only bounds what a warm-up record may claim.
_MAX_WARMUP_BYTES = 1 << 30


class _Input(NamedTuple):
    """An input of a signature, unpacked once since reading protos is slow."""

    name: str
    tensor: str
    data_type: int
    shape: tuple[int, ...] | None  # -1 for a free dimension; None for a free rank
    default: np.ndarray | None


class Servable:
    """A loaded SavedModel that answers `predict`; safe to call from many threads.

    Attributes:
        name: Name of the model.
        version: Number of the version.
        signatures: The model's SignatureDefs by name.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: tf.compat.v1.Session,
        signatures: Mapping[str, meta_graph_pb2.SignatureDef],
    ):
        self.name = name
        self.version = version
        self.signatures = dict(signatures)
        self._session = session
        self._inputs = {key: _read_inputs(value) for key, value in self.signatures.items()}
        # A callable keeps feeds and fetches resolved: with fifty inputs a call costs 0.09 ms of
        # overhead, `session.run` 1.7 ms. Keras 2 runs its v1 functions through the same method.
        self._callable = functools.lru_cache(maxsize=_MAX_CALLABLES)(self._make_callable)

    @classmethod
    def load(cls, path: Path, name: str, version: int) -> "Servable":
        """Verifies, loads and warms up the version directory `path`.

        Raises:
            StatusError: The manifest does not match, the SavedModel cannot be loaded, or a
                warm-up request fails.
        """
        path = Path(path)
        try:
            if (path / MANIFEST).exists():
                _verify(path)
            graph = tf.Graph()
            session = tf.compat.v1.Session(graph=graph)
            try:
                with deprecation.silence(), graph.as_default():
                    meta_graph = tf.compat.v1.saved_model.load(
                        session, [tf.saved_model.SERVING], str(path)
                    )
                servable = cls(name, version, session, meta_graph.signature_def)
                servable._warm_up(path / WARMUP_FILE)
            except BaseException:
                session.close()
                raise
        except Exception as error:  # any fault of a model's files fails this version, not us
            status = from_exception(error)
            raise StatusError(status.code, f"version {version} of {name!r}: {status}") from error
        return servable

    def close(self) -> None:
        """Frees the model; no `predict` may be running."""
        self._callable.cache_clear()
        self._session.close()

    def signature(self, name: str) -> meta_graph_pb2.SignatureDef:
        """Returns a signature; the empty name means `serving_default`.

        Raises:
            StatusError: FAILED_PRECONDITION, there is none of that name.
        """
        found = self.signatures.get(name or DEFAULT_SIGNATURE)
        if found is None:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found. '
                f"The model has {sorted(self.signatures)}",
            )
        return found

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: Name of the signature; empty for `serving_default`.
            inputs: Array of each input; byte strings as arrays of objects.
            outputs: Names of the wanted outputs; empty for all.

        Raises:
            StatusError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for inputs
                or outputs that do not fit it, else the code of the TensorFlow error.
        """
        signature = self.signature(signature_name)
        signature_name = signature_name or DEFAULT_SIGNATURE
        fed = _check_inputs(self._inputs[signature_name], inputs)
        fetched = _check_outputs(signature, outputs)
        try:
            run = self._callable(signature_name, fetched)
            values = run(*fed)
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes bytes of the request, and Python could not decode it.
            raise invalid_argument(error.object.decode("utf-8", "backslashreplace")) from error
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise from_exception(error) from error
        return dict(zip(fetched, values, strict=True))

    def _make_callable(
        self, signature_name: str, outputs: tuple[str, ...]
    ) -> Callable[..., list[np.ndarray]]:
        signature = self.signatures[signature_name]
        options = config_pb2.CallableOptions(
            feed=[entry.tensor for entry in self._inputs[signature_name]],
            fetch=[signature.outputs[name].name for name in outputs],
        )
        return self._session._make_callable_from_options(options)

    def _warm_up(self, path: Path) -> None:
        if not path.exists():
            return
        records = 0
        for record in tf.data.TFRecordDataset(str(path)):
            records += 1
            if records > MAX_WARMUP_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}"
                )
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            except DecodeError as error:
                raise invalid_argument(f"Failed to parse warmup record {records}") from error
            if log.WhichOneof("log_type") != "predict_log":
                logging.warning(
                    "warm-up record %d of %s is a %s; only Predict is warmed up",
                    records,
                    path,
                    log.WhichOneof("log_type"),
                )
                continue
            try:
                self._replay(log.predict_log.request)
            except StatusError as error:
                raise StatusError(error.code, f"warm-up record {records}: {error}") from error
        logging.info("%r version %d: %d warm-up requests", self.name, self.version, records)

    def _replay(self, request: predict_pb2.PredictRequest) -> None:
        try:
            inputs = from_protos(request.inputs, _MAX_WARMUP_BYTES)
        except ValueError as error:
            raise invalid_argument(str(error)) from error
        self.predict(request.model_spec.signature_name, inputs, request.output_filter)


def _verify(path: Path) -> None:
    try:
        verify_manifest(path)
    except (CmdcmError, KeyError, TypeError, AttributeError) as error:
        raise StatusError(grpc.StatusCode.DATA_LOSS, f"manifest: {error}") from error


def _read_inputs(signature: meta_graph_pb2.SignatureDef) -> list[_Input]:
    """Returns a signature's inputs in the order of their names."""
    read = []
    for name, info in sorted(signature.inputs.items()):
        shape = info.tensor_shape
        sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
        default = signature.defaults.get(name)
        value = None if default is None else tf.make_ndarray(default)
        read.append(_Input(name, info.name, info.dtype, sizes, value))
    return read


def _check_inputs(expected: Sequence[_Input], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the arrays in the order of `expected`."""
    extra = sorted(set(inputs) - {entry.name for entry in expected})
    missing = [e.name for e in expected if e.name not in inputs and e.default is None]
    if missing or extra:
        raise invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(expected)}. "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    fed: list[np.ndarray] = []
    for entry in expected:
        array = inputs.get(entry.name, entry.default)
        assert array is not None  # noqa: S101 - it is not missing
        if data_type(array) != entry.data_type:
            raise invalid_argument(
                f"input {entry.name!r} should be {tf.as_dtype(entry.data_type).name}. "
                f"Received: {tf.as_dtype(data_type(array)).name}"
            )
        if entry.shape is not None and not _fits(array.shape, entry.shape):
            raise invalid_argument(
                f"input {entry.name!r} should have shape {_shape(entry.shape)}. "
                f"Received: {_shape(array.shape)}"
            )
        fed.append(array)
    return fed


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for wanted, size in zip(expected, shape, strict=True)
    )


def _check_outputs(
    signature: meta_graph_pb2.SignatureDef, outputs: Sequence[str]
) -> tuple[str, ...]:
    known = sorted(signature.outputs)
    for name in outputs:
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name}. "
                f"Outputs expected to be in the set {{{','.join(known)}}}."
            )
    if len(set(outputs)) != len(outputs):
        repeated = sorted({name for name in outputs if list(outputs).count(name) > 1})
        raise invalid_argument(f"duplicate output tensor alias: {','.join(repeated)}")
    return tuple(sorted(outputs) or known)


def _shape(sizes: Sequence[int]) -> str:
    return "[" + ",".join("?" if size < 0 else str(size) for size in sizes) + "]"
