"""TensorFlow Serving's config protos that the package of generated stubs leaves out, and reading.

`SSLConfig` (config/ssl_config.proto), `MonitoringConfig` (config/monitoring_config.proto) and
`BatchingParameters` (servables/tensorflow/session_bundle_config.proto), under their own names and
field numbers, so that the files of a `tensorflow_model_server` are read as they are.
"""

from pathlib import Path
from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

from cmdcm.core.errors import ConfigError

_PACKAGE = "tensorflow.serving"
_TYPES = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
}

# Message -> fields in the order of their numbers, from 1. A type that is none of `_TYPES` is a
# message.
_MESSAGES = {
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": f"{_PACKAGE}.PrometheusConfig"},
    "BatchingParameters": {
        "max_batch_size": "google.protobuf.Int64Value",
        "batch_timeout_micros": "google.protobuf.Int64Value",
        "max_enqueued_batches": "google.protobuf.Int64Value",
        "num_batch_threads": "google.protobuf.Int64Value",
        "thread_pool_name": "google.protobuf.StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
    },
}

_M = TypeVar("_M", bound=Message)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="cmdcm/serving/config.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, (name, kind) in enumerate(fields.items(), start=1):
            field = message.field.add(name=name, number=number)
            repeated, _, kind = kind.rpartition(" ")
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type = field.TYPE_MESSAGE
                field.type_name = f".{kind}"
    return file


_POOL = descriptor_pool.DescriptorPool()  # of its own: a stub may come that has them, too
_POOL.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
_POOL.Add(_file())


def _message(name: str) -> type[Message]:
    descriptor = _POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    made: type[Message] = message_factory.GetMessageClass(descriptor)
    return made


SSLConfig = _message("SSLConfig")
MonitoringConfig = _message("MonitoringConfig")
BatchingParameters = _message("BatchingParameters")


def read_text_proto(path: Path, message: type[_M], what: str, *, secret: bool = False) -> _M:
    """Reads a message from a text proto file.

    Args:
        path: The file.
        message: Class of the message.
        what: What the file is called in errors, such as "SSL config file".
        secret: Show nothing of the contents in errors.

    Raises:
        ConfigError: Names the file, and the line or the field that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not text: {error}") from error
    parsed = message()
    try:
        text_format.Parse(text, parsed)
    except text_format.ParseError as error:
        place = f"{error.GetLine()}:{error.GetColumn()}" if secret else error
        raise ConfigError(
            f"{what} {path} is not a text proto of {message.DESCRIPTOR.name}: line {place}"
        ) from (None if secret else error)
    return parsed
