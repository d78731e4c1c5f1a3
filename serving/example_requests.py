"""Requests of serialized tf.train.Examples: the user's values repeated for every candidate."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cmdcm.features.encode import EncodedExamples, encode_examples
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.serving.requests import candidate_arrays, user_arrays


def serialized_examples(
    spec: FeatureSpec, user: Mapping[str, Any], candidates: Mapping[str, Any]
) -> list[bytes]:
    """Returns N candidates of one user as the signature `serving_default` takes them.

    Sequences are written without padding, as the training data has them.

    Args:
        spec: The model's features.
        user: As `requests.user_arrays` takes it.
        candidates: As `requests.candidate_arrays` takes them.

    Returns:
        N serialized tf.train.Examples.

    Raises:
        ServingError: Names the feature that is unknown, missing or does not fit.
    """
    (shared,) = _encoded(spec.user_inputs, user, user_arrays(spec, user))
    rows = _encoded(spec.candidate_inputs, candidates, candidate_arrays(spec, candidates))
    # Serialized messages one after the other are their merge, so that the user is encoded once.
    return [shared + row for row in rows]


def _encoded(
    features: Iterable[Feature], values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> EncodedExamples:
    """Encodes arrays [rows] or [rows, length]; of a sequence as many elements as `values` has."""
    columns = {}
    for feature in features:
        name, array = feature.name, arrays[feature.name]
        kind = pa.large_binary() if feature.dtype == "string" else None
        if feature.shape != "scalar":
            if feature.shape == "sequence":
                array = array[:, : np.shape(values[name])[-1]]
            offsets = np.arange(len(array) + 1) * array.shape[1]
            flat = pa.array(array.ravel(), kind)
            columns[name] = pa.LargeListArray.from_arrays(offsets, flat)
        else:
            columns[name] = pa.array(array, kind)
    return encode_examples(pa.table(columns))
