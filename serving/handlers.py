"""What the calls of the protocol do, whatever carried them: gRPC and REST share these handlers.

Messages and codes follow TensorFlow Serving's `predict_util.cc`, `get_model_status_impl.cc` and
`get_model_metadata_impl.cc`.
"""

import contextlib
from collections.abc import Mapping

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from cmdcm.serving.servable import DEFAULT_SIGNATURE, Servable
from cmdcm.serving.status import invalid_argument, not_found
from cmdcm.serving.tensors import from_protos, to_proto
from cmdcm.serving.versions import ModelVersions

SIGNATURE_DEF = "signature_def"
"""The one metadata field that TensorFlow Serving knows."""


class Handlers:
    """Answers the requests for a set of models.

    Args:
        models: The models by name.
        max_bytes: The most memory that the inputs of one request may take.
    """

    def __init__(self, models: Mapping[str, ModelVersions], max_bytes: int):
        self.models = models
        self.max_bytes = max_bytes

    def use(self, spec: model_pb2.ModelSpec) -> contextlib.AbstractContextManager[Servable]:
        """Returns the context of the servable that a ModelSpec means.

        Raises:
            StatusError: INVALID_ARGUMENT for no name or an unknown label, NOT_FOUND for an
                unknown model or version.
        """
        versions = self._model(spec)
        _refuse_label(spec)
        return versions.use(spec.version.value if spec.HasField("version") else None)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers Predict; the answer echoes the resolved name, version and signature."""
        _check_spec(request)
        with self.use(request.model_spec) as servable:
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            servable.signature(signature_name)  # before the inputs are unpacked
            try:
                inputs = from_protos(request.inputs, self.max_bytes)
            except ValueError as error:
                raise invalid_argument(str(error)) from error
            outputs = servable.predict(signature_name, inputs, request.output_filter)
            response = predict_pb2.PredictResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = signature_name
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(to_proto(array, typed=True))
        return response

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Answers GetModelMetadata with the signatures."""
        _check_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {name} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.use(request.model_spec) as servable:
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Answers GetModelStatus for one version, or for all of them, newest first."""
        _check_spec(request)
        spec = request.model_spec
        versions = self._model(spec)
        _refuse_label(spec)
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in versions.statuses(spec.version.value if spec.HasField("version") else None):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            entry.status.error_code = status.code.value[0]
            entry.status.error_message = status.message
        return response

    def _model(self, spec: model_pb2.ModelSpec) -> ModelVersions:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        versions = self.models.get(spec.name)
        if versions is None:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return versions


def _check_spec(
    request: predict_pb2.PredictRequest
    | get_model_metadata_pb2.GetModelMetadataRequest
    | get_model_status_pb2.GetModelStatusRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _refuse_label(spec: model_pb2.ModelSpec) -> None:
    if spec.WhichOneof("version_choice") == "version_label":
        raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
