"""What the calls of the protocol do, whatever carried them: gRPC and REST share these handlers.

Each takes the request and returns the response, or raises a `StatusError` with the code and the
message of TensorFlow Serving.
"""

import contextlib
from typing import Any, Protocol

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from cmdcm.serving import inference
from cmdcm.serving.models import Models
from cmdcm.serving.servable import Servable
from cmdcm.serving.status import invalid_argument

SIGNATURE_DEF = "signature_def"
"""The one metadata field that TensorFlow Serving knows."""


class Handlers:
    """Answers the requests for a set of models.

    Args:
        models: The served models, started.
        max_bytes: The most memory that the inputs of one request may take.
    """

    def __init__(self, models: Models, max_bytes: int):
        self.models = models
        self.max_bytes = max_bytes

    def use(self, spec: model_pb2.ModelSpec) -> contextlib.AbstractContextManager[Servable]:
        """Returns the context of the servable that a ModelSpec means.

        Raises:
            StatusError: INVALID_ARGUMENT for no name or an unknown label, NOT_FOUND for an
                unknown model or version.
        """
        return self.models.use(spec)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers Predict."""
        with self.use(_spec_of(request)) as servable:
            return inference.predict(servable, request, self.max_bytes)

    def classify(
        self, request: classification_pb2.ClassificationRequest
    ) -> classification_pb2.ClassificationResponse:
        """Answers Classify."""
        with self.use(_spec_of(request)) as servable:
            return inference.classify(servable, request, self.max_bytes)

    def regress(
        self, request: regression_pb2.RegressionRequest
    ) -> regression_pb2.RegressionResponse:
        """Answers Regress."""
        with self.use(_spec_of(request)) as servable:
            return inference.regress(servable, request, self.max_bytes)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest
    ) -> inference_pb2.MultiInferenceResponse:
        """Answers MultiInference; the first task chooses model and version for all."""
        if not request.tasks:
            raise invalid_argument("Missing ModelSpec")
        with self.use(_spec_of(request.tasks[0])) as servable:
            return inference.multi_inference(servable, request, self.max_bytes)

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Answers GetModelMetadata with the signatures."""
        spec = _spec_of(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {name} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.use(spec) as servable:
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
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self.models.statuses(_spec_of(request)):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            entry.status.error_code = status.code.value[0]
            entry.status.error_message = status.message
        return response

    def handle_reload_config(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Answers HandleReloadConfigRequest: the given models replace the served ones.

        It answers once new models serve. New versions of models that were there before are
        loaded after the answer; GetModelStatus tells when they serve.

        Raises:
            StatusError: INVALID_ARGUMENT for a config that cannot be, FAILED_PRECONDITION for a
                label of a version that does not serve, UNKNOWN for a new model that cannot be
                loaded. The served models are those of before.
        """
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
                "ModelConfigList is currently supported"
            )
        self.models.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()  # OK, as TensorFlow Serving answers
        return response


class _HasModelSpec(Protocol):
    @property
    def model_spec(self) -> model_pb2.ModelSpec: ...

    def HasField(self, field_name: Any) -> bool: ...  # noqa: N802


def _spec_of(request: _HasModelSpec) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec
