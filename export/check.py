"""Infra validation: a staged version is loaded and scored as by a server, in a new process.

    python -m cmdcm.export.check DIRECTORY CHECKS

verifies the manifest and the trust of DIRECTORY, loads it into a session by the names of its
signatures, scores its warm-up requests, and compares its scores of the requests in CHECKS
(`requests`, a TFRecord of PredictionLog, and `expected.npz`) with the model's. No code of the model
is imported: what passes here loads anywhere.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from cmdcm.core.errors import CmdcmError, ExportError
from cmdcm.export.signatures import (
    CLASSIFY_SIGNATURE,
    EXAMPLES_SIGNATURE,
    REGRESS_SIGNATURE,
    REGRESSION,
)
from cmdcm.export.versions import check_version
from cmdcm.export.warmup import WARMUP_FILE, Arrays, Requests, write_requests
from cmdcm.features.tfrecord import read_records

Scores = Sequence[Mapping[str, np.ndarray]]
REQUESTS, EXPECTED = "requests", "expected.npz"


def differences(directory: Path, made: Requests, expected: Scores) -> dict[str, float]:
    """Scores requests with a SavedModel and compares.

    Args:
        directory: The SavedModel.
        made: Requests.
        expected: The outputs that the model itself gives to each.

    Returns:
        The largest absolute difference of each output over all requests.

    Raises:
        ExportError: A score is not finite.
    """
    largest: dict[str, float] = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
        for (signature, inputs), wanted in zip(made, expected, strict=True):
            answer = _run(session, loaded.signature_def[signature], inputs)
            if signature == EXAMPLES_SIGNATURE and REGRESSION in wanted:
                (examples,) = inputs.values()
                regressed, classified = (
                    _run(session, loaded.signature_def[name], {"inputs": examples})
                    for name in (REGRESS_SIGNATURE, CLASSIFY_SIGNATURE)
                )
                if not np.array_equal(regressed["outputs"], answer[REGRESSION]):
                    raise ExportError(f"{REGRESS_SIGNATURE} is not {REGRESSION}; not published")
                classes = [answer[name.decode()] for name in classified["classes"][0]]
                if not np.array_equal(classified["scores"], np.stack(classes, axis=1)):
                    raise ExportError(
                        f"{CLASSIFY_SIGNATURE} differs from {signature}; not published"
                    )
            for name, scores in answer.items():
                if not np.all(np.isfinite(scores)):
                    raise ExportError(
                        f"{signature} answers {name} that is not finite; not published"
                    )
                if name in wanted:
                    difference = float(np.max(np.abs(scores - wanted[name]), initial=0.0))
                    largest[name] = max(largest.get(name, 0.0), difference)
    return largest


def accept(largest: Mapping[str, float], limits: Mapping[str, float]) -> None:
    """Compares differences with their limits, by output.

    Raises:
        ExportError: One is beyond.
    """
    faults = [
        f"{name} differs by {largest[name]:.2g} from the model's, more than {limit:g}"
        for name, limit in limits.items()
        if largest[name] > limit
    ]
    if faults:
        raise ExportError(f"the export's {'; '.join(faults)}; not published")


def check_in_fresh_process(
    directory: Path, checks: Path, made: Requests, expected: Scores, limits: Mapping[str, float]
) -> None:
    """Runs this module on a complete version.

    Args:
        directory: The version.
        checks: An empty directory for the requests and the scores.
        made: Requests to compare.
        expected: The model's scores of each.
        limits: Largest absolute difference of each output.

    Raises:
        ExportError: The check failed; carries its last line.
    """
    write_requests(checks / REQUESTS, "check", made)
    arrays: dict[str, Any] = {f"limit/{name}": np.array(v) for name, v in limits.items()}
    arrays |= {f"{n}/{k}": v for n, scores in enumerate(expected) for k, v in scores.items()}
    np.savez(checks / EXPECTED, **arrays)
    command = [sys.executable, "-m", "cmdcm.export.check", str(directory), str(checks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout or done.stderr).strip().splitlines() or ["it ended without a word"]
        raise ExportError(
            f"the version failed its check in a fresh process, exit code {done.returncode}: "
            f"{lines[-1]}"
        )


def main(directory: Path, checks: Path) -> int:
    """Checks a version; returns the exit code."""
    try:
        check_version(directory, require_manifest=True)
        warmup = _requests(directory / WARMUP_FILE)
        made = _requests(checks / REQUESTS)
        with np.load(checks / EXPECTED, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        expected: list[dict[str, np.ndarray]] = [{} for _ in [*warmup, *made]]
        limits: dict[str, float] = {}
        for key, value in arrays.items():
            number, _, name = key.partition("/")
            if number == "limit":
                limits[name] = float(value)
            else:
                expected[len(warmup) + int(number)][name] = value
        accept(differences(directory, [*warmup, *made], expected), limits)
    except CmdcmError as error:
        print(error)
        return error.exit_code
    return 0


def _requests(path: Path) -> list[tuple[str, Arrays]]:
    made = []
    for record in read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        if inputs:  # else it is for classify or regress, which `differences` runs
            made.append((request.model_spec.signature_name, inputs))
    return made


def _run(
    session: tf.compat.v1.Session, signature: meta_graph_pb2.SignatureDef, inputs: Arrays
) -> dict[str, np.ndarray]:
    fetched = {name: info.name for name, info in signature.outputs.items()}
    fed = {signature.inputs[name].name: value for name, value in inputs.items()}
    answer: dict[str, np.ndarray] = session.run(fetched, fed)
    return answer


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
