"""Models, versions and labels of a running server, changed by requests, files and folders."""

import shutil
import threading

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ServingError
from cmdcm.core.files import MANIFEST, write_manifest
from cmdcm.serving.inference import CLASSIFY_METHOD, REGRESS_METHOD
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving.conftest import FAST_POLL
from cmdcm.tests.serving.models import write_banned_model
from cmdcm.tests.serving.stubs import (
    WAIT,
    Stubs,
    candidates_request,
    failure,
    metadata_request,
    status_request,
    wait_for,
)

Code = grpc.StatusCode
ALL = "model_version_policy { all {} }"


def reload_request(**models) -> model_management_pb2.ReloadConfigRequest:
    """A request for the named models: (base path, rest of the entry)."""
    entries = [
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {rest} }}'
        for name, (path, rest) in models.items()
    ]
    text = "config { model_config_list { " + " ".join(entries) + " } }"
    return text_format.Parse(text, model_management_pb2.ReloadConfigRequest())


def labels(**versions) -> str:
    return " ".join(
        f'version_labels {{ key: "{name}" value: {n} }}' for name, n in versions.items()
    )


def reload(stubs, **models) -> None:
    answer = stubs.model.HandleReloadConfigRequest(reload_request(**models), timeout=WAIT)
    assert answer.HasField("status")
    assert (answer.status.error_code, answer.status.error_message) == (0, "")


def version_of(stubs, **spec) -> int:
    answer = stubs.prediction.Predict(candidates_request(**spec), timeout=WAIT)
    version = answer.model_spec.version.value
    assert set(answer.outputs["cart_effect"].float_val) == {float(version)}
    return version


@pytest.fixture
def running(exports):
    """A server of `tiny`, version 2; the folder has versions 1 and 2."""
    with EmbeddedServer(exports / "tiny", "tiny", FAST_POLL) as server:
        made = Stubs(server.target)
        yield made
        made.channel.close()


def test_a_canary_is_labelled_promoted_and_rolled_back(running, exports):
    base = exports / "tiny"
    reload(running, tiny=(base, ALL))
    wait_for(lambda: running.states() == {1: "AVAILABLE", 2: "AVAILABLE"})
    reload(running, tiny=(base, ALL + labels(stable=1, canary=2)))
    assert version_of(running, label="stable") == 1
    assert version_of(running, label="canary") == 2
    assert version_of(running) == 2
    reload(running, tiny=(base, ALL + labels(stable=2)))
    assert version_of(running, label="stable") == 2
    error = failure(running.prediction.Predict, candidates_request(label="canary"))
    assert error.code() == Code.INVALID_ARGUMENT
    assert error.details() == "Unrecognized servable version label: canary"
    reload(running, tiny=(base, "model_version_policy { specific { versions: 1 } }"))
    wait_for(lambda: running.states() == {1: "AVAILABLE", 2: "END"})
    assert version_of(running) == 1


def test_status_and_metadata_of_a_label(running, exports):
    reload(running, tiny=(exports / "tiny", labels(stable=2)))
    request = status_request("tiny")
    request.model_spec.version_label = "stable"
    (status,) = running.model.GetModelStatus(request, timeout=WAIT).model_version_status
    assert status.version == 2
    metadata = metadata_request("tiny", "signature_def")
    metadata.model_spec.version_label = "stable"
    answer = running.prediction.GetModelMetadata(metadata, timeout=WAIT)
    assert answer.model_spec.version.value == 2
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert "score_candidates" in signatures.signature_def
    request.model_spec.version_label = metadata.model_spec.version_label = "other"
    assert failure(running.model.GetModelStatus, request).code() == Code.INVALID_ARGUMENT
    error = failure(running.prediction.GetModelMetadata, metadata)
    assert error.code() == Code.INVALID_ARGUMENT


def test_models_come_and_go(running, exports):
    reload(running, tiny=(exports / "tiny", ""), v1=(exports / "v1", ""))
    assert running.states("v1") == {1: "AVAILABLE"}
    reload(running, v1=(exports / "v1", ""))
    assert failure(running.prediction.Predict, candidates_request()).code() == Code.NOT_FOUND
    wait_for(lambda: running.states() == {2: "END"})
    assert running.states("v1") == {1: "AVAILABLE"}


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (model_management_pb2.ReloadConfigRequest(), Code.INVALID_ARGUMENT, "Only ModelConfigList"),
        (
            text_format.Parse(
                "config { custom_model_config {} }", model_management_pb2.ReloadConfigRequest()
            ),
            Code.INVALID_ARGUMENT,
            "Only ModelConfigList",
        ),
        (reload_request(tiny=("relative", "")), Code.INVALID_ARGUMENT, "absolute path"),
        (
            reload_request(tiny=("/nowhere", labels(stable=1))),
            Code.FAILED_PRECONDITION,
            "assign label to version 1 of model tiny, which is not currently available",
        ),
        (reload_request(other=("/nowhere", "")), Code.UNKNOWN, "did not become available"),
    ],
)
def test_reload_requests_that_change_nothing(running, request_, code, message):
    error = failure(running.model.HandleReloadConfigRequest, request_)
    assert error.code() == code
    assert message in error.details()
    assert version_of(running) == 2


def test_a_config_file_serves_several_models_and_is_followed(exports, tmp_path):
    path = tmp_path / "models.config"

    def write(**models) -> None:
        path.write_text(text_format.MessageToString(reload_request(**models).config))

    write(tiny=(exports / "tiny", ALL), v1=(exports / "v1", ""))
    config = ServingConfig(
        port=0,
        rest_port=-1,
        poll_seconds=0.05,
        model_config_file=str(path),
        model_config_file_poll_wait_seconds=0.05,
    )
    with EmbeddedServer(config=config) as server:
        stubs = Stubs(server.target)
        assert stubs.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
        assert stubs.states("v1") == {1: "AVAILABLE"}
        write(tiny=(exports / "tiny", ALL + labels(stable=1)))
        wait_for(lambda: stubs.states("v1") == {1: "END"})
        assert version_of(stubs, label="stable") == 1


def test_labels_at_the_start_need_leave(exports, tmp_path):
    path = tmp_path / "models.config"
    request = reload_request(tiny=(exports / "tiny", labels(stable=2)))
    path.write_text(text_format.MessageToString(request.config))
    config = {"port": 0, "rest_port": -1, "model_config_file": str(path)}
    with pytest.raises(ServingError, match="allow_version_labels_for_unavailable_models"):
        EmbeddedServer(config=ServingConfig(**config)).start()
    allowed = ServingConfig(**config, allow_version_labels_for_unavailable_models=True)
    with EmbeddedServer(config=allowed) as server:
        assert version_of(Stubs(server.target), label="stable") == 2


def write_faulty(fault: str, source, target) -> None:
    """Writes a version that must not serve."""
    if fault == "op-banned":
        write_banned_model(target)
        write_manifest(target, {"kind": "export"})
        return
    shutil.copytree(source, target)
    variables = next(target.glob("variables/variables.data*"))
    match fault:
        case "tampered":
            content = bytearray(variables.read_bytes())
            content[0] ^= 1
            variables.write_bytes(content)
        case "truncated":
            variables.write_bytes(variables.read_bytes()[:-3])
        case "corrupted":
            (target / "saved_model.pb").write_bytes(b"\x0a\xff not a model")
            write_manifest(target, {"kind": "export"})
        case "incomplete":
            variables.unlink()
        case "unlisted":
            (target / "assets" / "more.txt").parent.mkdir(exist_ok=True)
            (target / "assets" / "more.txt").write_text("more")
        case "damaged manifest":
            (target / MANIFEST).write_text("{")


@pytest.mark.parametrize(
    "fault",
    [
        "tampered",
        "truncated",
        "corrupted",
        "incomplete",
        "unlisted",
        "damaged manifest",
        "op-banned",
    ],
)
def test_a_faulty_version_never_serves_and_the_old_one_goes_on(base, exports, fault):
    with EmbeddedServer(base, "tiny", FAST_POLL) as server:
        stubs = Stubs(server.target)
        write_faulty(fault, exports / "tiny" / "2", base / ".staging")
        (base / ".staging").rename(base / "2")
        wait_for(lambda: stubs.states() == {1: "AVAILABLE", 2: "END"})
        (status, _) = stubs.model.GetModelStatus(
            status_request("tiny"), timeout=WAIT
        ).model_version_status
        assert status.status.error_code != 0
        assert "version 2 of 'tiny'" in status.status.error_message
        assert version_of(stubs) == 1
        assert failure(stubs.prediction.Predict, candidates_request(version=2)).code() == (
            Code.NOT_FOUND
        )
        shutil.rmtree(base / "2")  # once put right it serves
        shutil.copytree(exports / "tiny" / "2", base / "2")
        wait_for(lambda: stubs.states()[2] == "AVAILABLE")
        assert version_of(stubs) == 2


def test_labels_and_policies_move_under_traffic_without_a_failed_request(running, exports):
    base = exports / "tiny"
    reload(running, tiny=(base, ALL))
    wait_for(lambda: running.states() == {1: "AVAILABLE", 2: "AVAILABLE"})
    reload(running, tiny=(base, ALL + labels(stable=1)))
    stop = threading.Event()
    seen, failures = set(), []

    def call() -> None:
        while not stop.is_set():
            try:
                seen.add(version_of(running, label="stable"))
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(12):
        stable = 1 + turn % 2
        reload(running, tiny=(base, ALL + labels(stable=stable)))
        others = {"v1": (exports / "v1", "")} if turn % 4 == 0 else {}
        reload(running, tiny=(base, ALL + labels(stable=stable)), **others)
        wait_for(lambda version=stable: seen == {1, 2} or version in seen or failures)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert seen == {1, 2}


def test_classify_regress_and_multi_inference(exports):
    with EmbeddedServer(exports / "examples", "examples", FAST_POLL) as server:
        stubs = Stubs(server.target).prediction
        classify = classification_pb2.ClassificationRequest()
        classify.model_spec.name = "examples"
        classify.model_spec.signature_name = "classify"
        classify.input.example_list.examples.add().CopyFrom(example(1.5))
        (row,) = stubs.Classify(classify, timeout=WAIT).result.classifications
        assert [(c.label, c.score) for c in row.classes] == [("a", 1.5), ("b", 15.0)]

        regress = regression_pb2.RegressionRequest(input=classify.input)
        regress.model_spec.name = "examples"
        regress.model_spec.signature_name = "regress"
        (value,) = stubs.Regress(regress, timeout=WAIT).result.regressions
        assert value.value == 4.0

        multi = inference_pb2.MultiInferenceRequest(input=classify.input)
        multi.tasks.add(method_name=CLASSIFY_METHOD, model_spec=classify.model_spec)
        multi.tasks.add(method_name=REGRESS_METHOD, model_spec=regress.model_spec)
        first, second = stubs.MultiInference(multi, timeout=WAIT).results
        assert first.classification_result.classifications[0] == row
        assert second.regression_result.regressions[0] == value

        del classify.input.example_list.examples[:]
        assert failure(stubs.Classify, classify).code() == Code.INVALID_ARGUMENT


def example(x: float) -> tf.train.Example:
    made = tf.train.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made
