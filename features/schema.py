"""schema.pbtxt: the feature spec as a schema of TensorFlow Metadata, for tools of that family.

| schema                       | from the spec                                                    |
|------------------------------|------------------------------------------------------------------|
| type                         | dtype                                                            |
| shape                        | scalar: no dimension; vector: one of `length`                    |
| value_count                  | sequence: 0 to `length` values                                   |
| presence                     | labels in every example; any other column in one at least        |
| int_domain, string_domain    | `identity` encoding: below `buckets`; `vocabulary`               |
| annotation                   | tag: the side and the encoding; comment: the description         |
| environments                 | labels and meta columns are not in SERVING                       |
| tensor_representation_group  | how to parse: dense with the default, or ragged for a sequence   |
"""

from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from cmdcm.core.errors import DataError
from cmdcm.features.spec import Feature, FeatureSpec

TRAINING, SERVING = "TRAINING", "SERVING"
"""Environments of the schema."""

_TYPES = {
    "int64": schema_pb2.FeatureType.INT,
    "float32": schema_pb2.FeatureType.FLOAT,
    "string": schema_pb2.FeatureType.BYTES,
}


def schema_proto(spec: FeatureSpec) -> schema_pb2.Schema:
    """Returns the spec as a schema.

    Example:
        >>> count = Feature(name="hour", dtype="int64", side="context")
        >>> schema_proto(FeatureSpec(features=(count,))).feature[0].annotation.tag
        ['side:context', 'encoding:none']
    """
    schema = schema_pb2.Schema(default_environment=[TRAINING, SERVING])
    representations = schema.tensor_representation_group[""].tensor_representation
    for feature in spec.features:
        schema.feature.append(_feature(feature))
        representations[feature.name].CopyFrom(_representation(feature))
    return schema


def _feature(feature: Feature) -> schema_pb2.Feature:
    proto = schema_pb2.Feature(name=feature.name, type=_TYPES[feature.dtype])
    proto.presence.min_count = 1
    if feature.side == "label":
        proto.presence.min_fraction = 1.0
    if feature.shape == "sequence":
        proto.value_count.min = 0
        proto.value_count.max = feature.length
    else:
        proto.shape.SetInParent()
        if feature.shape == "vector":
            proto.shape.dim.add(size=feature.length)
    if feature.encoding == "identity":
        proto.int_domain.min = 0
        proto.int_domain.max = feature.buckets - 1
        proto.int_domain.is_categorical = True
    if feature.encoding == "vocabulary" and feature.dtype == "string":
        proto.string_domain.name = feature.name
        proto.string_domain.value.extend(feature.vocabulary)
    proto.annotation.tag.extend([f"side:{feature.side}", f"encoding:{feature.encoding}"])
    if feature.description:
        proto.annotation.comment.append(feature.description)
    if not feature.is_input:
        proto.not_in_environment.append(SERVING)
    return proto


def _representation(feature: Feature) -> schema_pb2.TensorRepresentation:
    proto = schema_pb2.TensorRepresentation()
    if feature.shape == "sequence":
        proto.ragged_tensor.feature_path.step.append(feature.name)
        return proto
    dense = proto.dense_tensor
    dense.column_name = feature.name
    dense.shape.SetInParent()
    if feature.shape == "vector":
        dense.shape.dim.add(size=feature.length)
    if feature.dtype == "int64":
        dense.default_value.int_value = int(feature.default)
    elif feature.dtype == "float32":
        dense.default_value.float_value = float(feature.default)
    else:
        dense.default_value.bytes_value = str(feature.default).encode()
    return proto


def write_schema(path: Path, spec: FeatureSpec) -> None:
    """Writes the spec's schema as a text proto."""
    path.write_text(text_format.MessageToString(schema_proto(spec), as_utf8=True), "utf-8")


def read_schema(path: Path) -> schema_pb2.Schema:
    """Reads a schema's text proto.

    Raises:
        DataError: The file is missing or is no schema.
    """
    try:
        return text_format.Parse(Path(path).read_text("utf-8"), schema_pb2.Schema())
    except OSError as error:
        raise DataError(f"cannot read schema {path}: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a schema: {error}") from error
