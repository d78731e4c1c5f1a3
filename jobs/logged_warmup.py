"""Logged requests as warm-up of an export: what callers really send."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from cmdcm.core.errors import DataError
from cmdcm.export.signatures import (
    CANDIDATES_SIGNATURE,
    EXAMPLES_INPUT,
    EXAMPLES_SIGNATURE,
    candidates_specs,
)
from cmdcm.export.warmup import MAX_LOGGED, Arrays
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.prediction_logs import read_logs


def read_warmup(files: Sequence[Path], spec: FeatureSpec) -> list[tuple[str, Arrays]]:
    """Returns the first logged Predict requests that fit a model, `MAX_LOGGED` at most.

    Args:
        files: TFRecords of PredictionLog, plain or gzip.
        spec: The model's features; requests for others are passed over.

    Returns:
        Pairs of signature and inputs.

    Raises:
        DataError: A file cannot be read, or no request fits.
    """
    made = []
    for log in read_logs(files):
        request = log.predict_log.request
        signature = request.model_spec.signature_name or EXAMPLES_SIGNATURE
        try:
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            fits = _fits(signature, inputs, spec)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError):
            continue  # no tensors, or no examples of this model
        if fits:
            made.append((signature, inputs))
        if len(made) == MAX_LOGGED:
            break
    if not made:
        raise DataError(f"no request with the model's features in {', '.join(map(str, files))}")
    return made


def _fits(signature: str, inputs: Arrays, spec: FeatureSpec) -> bool:
    if signature == EXAMPLES_SIGNATURE:
        if list(inputs) != [EXAMPLES_INPUT]:
            return False
        examples = inputs[EXAMPLES_INPUT]
        if examples.ndim != 1 or not len(examples):
            return False
        parse_examples(tf.constant(examples), spec.inputs)  # or it raises
        return True
    specs = candidates_specs(spec)
    if signature != CANDIDATES_SIGNATURE or set(inputs) != set(specs):
        return False
    rows = {inputs[f.name].shape[:1] for f in spec.candidate_inputs}
    return (
        len(rows) == 1
        and rows.isdisjoint({(), (0,)})
        and all(
            tf.as_dtype(inputs[name].dtype) == wanted.dtype
            and wanted.shape.is_compatible_with(inputs[name].shape)
            for name, wanted in specs.items()
        )
    )
