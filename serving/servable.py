"""One loaded version of a model: a SavedModel, its signatures, and `predict`.

The SavedModel is in a session, as in TensorFlow Serving's C++ server, and is fed and fetched by
the tensor names of its signatures. So any valid SavedModel serves, written by TensorFlow 1 or 2;
`tf.saved_model.load` fails on some.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from cmdcm.serving.signature_inputs import SignatureInputs
from cmdcm.serving.status import StatusError, from_exception, invalid_argument

DEFAULT_SIGNATURE = "serving_default"
_MAX_CALLABLES = 64  # combinations of signature and output filter that stay prepared

Runner = Callable[[str, Sequence[np.ndarray], tuple[str, ...]], Sequence[np.ndarray]]
"""Runs a signature: its name, the arrays of its inputs in the order of their names, and the names
of the wanted outputs; returns the arrays of these outputs. Raises TensorFlow's errors."""


class Servable:
    """A loaded SavedModel that answers `predict`; safe to call from many threads.

    Args:
        name: Name of the model.
        version: Number of the version.
        session: Holds the restored graph; the servable closes it.
        signatures: The model's SignatureDefs by name.

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
        self._inputs = {key: SignatureInputs(value) for key, value in self.signatures.items()}
        self._outputs = {key: tuple(sorted(value.outputs)) for key, value in signatures.items()}
        # A callable keeps feeds and fetches resolved: with fifty inputs a call costs 0.09 ms of
        # overhead, `session.run` 1.7 ms. Keras 2 runs its v1 functions through the same method.
        self._callable = functools.lru_cache(maxsize=_MAX_CALLABLES)(self._make_callable)
        self._runner: Runner = self.run

    def run_by(self, runner: Runner) -> None:
        """Has `predict` run signatures by `runner`, such as a batcher of `run`, and not at once."""
        self._runner = runner

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
        self.signature(signature_name)
        signature_name = signature_name or DEFAULT_SIGNATURE
        fed = self._inputs[signature_name].fed(inputs)
        known = self._outputs[signature_name]
        fetched = _check_outputs(known, outputs) if outputs else known
        try:
            values = self._runner(signature_name, fed, fetched)
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes bytes of the request, and Python could not decode it.
            raise invalid_argument(error.object.decode("utf-8", "backslashreplace")) from error
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise from_exception(error) from error
        return dict(zip(fetched, values, strict=True))

    def run(
        self, signature_name: str, fed: Sequence[np.ndarray], outputs: tuple[str, ...]
    ) -> Sequence[np.ndarray]:
        """Runs the graph for one signature at once; a `Runner`. The arrays must fit."""
        values = self._callable(signature_name, outputs)(*fed)
        # TensorFlow answers a single string as bytes, and all else as arrays.
        return [np.array(v, np.object_) if isinstance(v, bytes) else v for v in values]

    def _make_callable(
        self, signature_name: str, outputs: tuple[str, ...]
    ) -> Callable[..., list[np.ndarray]]:
        signature = self.signatures[signature_name]
        options = config_pb2.CallableOptions(
            feed=self._inputs[signature_name].tensors,
            fetch=[signature.outputs[name].name for name in outputs],
        )
        return self._session._make_callable_from_options(options)


def _check_outputs(known: Sequence[str], outputs: Sequence[str]) -> tuple[str, ...]:
    for name in outputs:
        if name not in known:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name}. "
                f"Outputs expected to be in the set {{{','.join(known)}}}."
            )
    if len(set(outputs)) != len(outputs):
        repeated = sorted({name for name in outputs if list(outputs).count(name) > 1})
        raise invalid_argument(f"duplicate output tensor alias: {','.join(repeated)}")
    return tuple(sorted(outputs))
