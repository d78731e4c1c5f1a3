"""The REST routes of a running embedded server, and JSON <-> tensors."""

import base64
import gzip
import http.client
import json
import socket
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import input_pb2, model_pb2

from cmdcm.core.config import ServingConfig
from cmdcm.serving.rest_examples import read_examples
from cmdcm.serving.rest_json import parse_request, read_inputs, write_outputs
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models
from cmdcm.tests.serving.stubs import wait_for


class Rest:
    """One kept-alive connection."""

    def __init__(self, port: int):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def send(self, method, path, body=None, headers=None) -> tuple[int, dict]:
        if isinstance(body, dict):
            body = json.dumps(body)
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())

    def predict(self, body, model="tiny") -> tuple[int, dict]:
        return self.send("POST", f"/v1/models/{model}:predict", body)


@pytest.fixture(scope="module")
def rest(server):
    made = Rest(server.rest_port)
    yield made
    made.connection.close()


@pytest.fixture(scope="module")
def v1_rest(v1_server):
    made = Rest(v1_server.rest_port)
    yield made
    made.connection.close()


def columns(count: int) -> dict[str, Any]:
    arrays = {**models.user_arrays(), **models.candidate_arrays(count)}
    return {
        name: json.loads(json.dumps(array.tolist(), default=lambda value: value.decode()))
        for name, array in arrays.items()
    }


def test_column_format(rest):
    code, answer = rest.predict({"signature_name": "score_candidates", "inputs": columns(4)})
    assert code == 200
    want = models.expected(models.user_arrays(), models.candidate_arrays(4), 2)
    assert set(answer["outputs"]) == set(want)
    for name, values in want.items():
        np.testing.assert_allclose(answer["outputs"][name], values, atol=1e-6)


def test_row_format(rest):
    row = {name: value[0] for name, value in columns(1).items()}
    code, answer = rest.predict({"signature_name": "score_candidates", "instances": [row]})
    assert code == 200
    want = models.expected(models.user_arrays(), models.candidate_arrays(1), 2)
    (prediction,) = answer["predictions"]
    assert prediction == pytest.approx({k: float(v[0]) for k, v in want.items()}, abs=1e-6)


def test_bytes_travel_as_b64(rest):
    example = {"b64": base64.b64encode(b"\xff").decode()}
    # The bytes arrive, and the graph says that they are no example.
    for body in ({"instances": [example]}, {"inputs": {"examples": [example, example]}}):
        code, answer = rest.predict(body)
        assert code == 400
        assert "input 'examples'" not in answer["error"]


def test_single_input_and_output_need_no_name(v1_rest):
    code, answer = v1_rest.predict({"instances": [[1, 1], [0, 2]]}, "v1")
    assert (code, answer) == (200, {"predictions": [[5.0], [6.0]]})
    code, answer = v1_rest.predict({"inputs": [[1, 1]]}, "v1")
    assert (code, answer) == (200, {"outputs": [[5.0]]})


def test_outputs_named_bytes_are_b64(v1_rest):
    request = {"signature_name": "lookup", "instances": ["green", {"b64": "/w=="}]}
    code, answer = v1_rest.predict(request, "v1")
    assert code == 200
    assert answer["predictions"] == [
        {"index": 1, "word_bytes": {"b64": base64.b64encode(b"green").decode()}},
        {"index": -1, "word_bytes": {"b64": "/w=="}},
    ]


def test_a_version_can_be_named(rest):
    body = {"signature_name": "score_candidates", "inputs": columns(1)}
    assert rest.send("POST", "/v1/models/tiny/versions/2:predict", body)[0] == 200
    assert rest.send("POST", "/v1/models/tiny/versions/1:predict", body)[0] == 404


def test_status(rest):
    entry = {
        "version": "2",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/2", "/V1/Models/tiny"):
        assert rest.send("GET", path) == (200, {"model_version_status": [entry]})


def test_metadata(rest):
    code, answer = rest.send("GET", "/v1/models/tiny/metadata")
    assert code == 200
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "2"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["examples"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/tiny/versions/77", 404),
        ("GET", "/v1/models/tiny/versions/99999999999999999999999", 400),
        ("GET", "/v1/models/tiny/labels/stable", 400),
        ("GET", "/v1/models/tiny/versions/two", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/tiny:predict", 400),
        ("GET", "/elsewhere", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v1/models/tiny/labels/stable:predict", 400),
        ("POST", "/v1/models/tiny:classify", 400),
        ("POST", "/v1/models/tiny:regress", 400),
        ("GET", "/v1/models/tiny/metadata/more", 400),
        ("POST", "/v1/models/tiny:guess", 400),
        ("POST", "/v1/models/tiny", 400),
        ("PUT", "/v1/models/tiny", 400),
        ("DELETE", "/v1/models/tiny", 400),
    ],
)
def test_routes_and_codes(rest, method, path, code):
    fresh = Rest(rest.port)
    got, answer = fresh.send(method, path, {"inputs": {}})
    fresh.connection.close()
    assert got == code
    assert set(answer) == {"error"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON Parse error"),
        ("{", "JSON Parse error"),
        (b"\xff\xfe", "JSON Parse error"),
        ("[" * 100_000, "JSON Parse error"),
        ("[]", "Is not object"),
        ({}, "exactly one of"),
        ({"inputs": {}, "instances": []}, "exactly one of"),
        ({"signature_name": 3, "inputs": {}}, "'signature_name' key must be a string"),
        ({"signature_name": "other", "inputs": {}}, "not found"),
        ({"instances": []}, "at least one element"),
        ({"instances": {}}, "expecting 'instances' to be a list"),
        ({"instances": [1]}, "not of expected type: string"),
        ({"instances": ["a", ["b"]]}, "list found at level 1"),
        ({"instances": ["a", {"examples": "b"}]}, "expecting object at item 0"),
        ({"instances": [{"b64": "?"}]}, "input 'examples'"),
        ({"inputs": "\ud800"}, "input 'examples'"),
        ({"inputs": {"examples": ["a"], "other": 1}}, "Sent extra: {other}"),
        ({"signature_name": "score_candidates", "inputs": [1]}, "expecting an object"),
        ({"signature_name": "score_candidates", "instances": [1]}, "expecting an object"),
        (
            {"signature_name": "score_candidates", "inputs": {**columns(1), "hour": [1.5]}},
            "JSON Value: 1.5 is not of expected type: int64",
        ),
        (
            {"signature_name": "score_candidates", "inputs": {**columns(1), "hour": [2**63]}},
            "not of expected type: int64",
        ),
        (
            {"signature_name": "score_candidates", "inputs": {**columns(1), "hour": [True]}},
            "JSON Value: true is not of expected type: int64",
        ),
        (
            {"signature_name": "score_candidates", "inputs": {**columns(1), "affinity": [[1]]}},
            "should have shape [?,2]",
        ),
    ],
)
def test_bodies_that_do_not_fit(rest, body, message):
    code, answer = rest.predict(body)
    assert code == 400
    assert message in answer["error"]


def test_a_body_above_the_limit_is_refused(exports):
    config = ServingConfig(port=0, rest_port=0, max_message_mb=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        rest = Rest(server.rest_port)
        code, answer = rest.send(
            "POST", "/v1/models/v1:predict", headers={"Content-Length": str(2 << 20)}
        )
        assert code == 429
        assert "larger than the limit" in answer["error"]
        assert rest.predict({"instances": [[1, 1]]}, "v1")[0] == 200
        refused = b'request_count{model_name="",status="RESOURCE_EXHAUSTED"} 1.0'
        assert refused in server.metrics.page()


def test_a_chunked_body(v1_rest):
    body = iter([b'{"instan', b'ces": [[1, 1]]}'])
    assert v1_rest.send("POST", "/v1/models/v1:predict", body) == (200, {"predictions": [[5.0]]})


def test_a_chunked_body_above_the_limit_is_refused(exports):
    config = ServingConfig(port=0, rest_port=0, max_message_mb=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        connection = Rest(server.rest_port).connection
        connection.putrequest("POST", "/v1/models/v1:predict")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        # One byte too many, and no end: the server answers to it, and closes on nothing unread.
        size = (1 << 20) + 1
        connection.send(b"%x\r\n" % size + b" " * size)
        assert connection.getresponse().status == 429


def test_gzip_both_ways(v1_rest):
    rows = [[1, 1]] * 1000
    body = gzip.compress(json.dumps({"instances": rows}).encode())
    v1_rest.connection.request(
        "POST",
        "/v1/models/v1:predict",
        body,
        {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"},
    )
    response = v1_rest.connection.getresponse()
    assert response.headers["Content-Encoding"] == "gzip"
    answer = json.loads(gzip.decompress(response.read()))
    assert answer == {"predictions": [[5.0]] * 1000}


@pytest.mark.parametrize(
    ("encoding", "body", "code", "message"),
    [
        ("gzip", b"{}", 400, "not gzip"),
        ("gzip", gzip.compress(b"{}")[:-1], 400, "ends too early"),
        ("gzip", gzip.compress(b" " * (65 << 20)), 429, "larger than the limit"),
        ("br", b"{}", 400, "Content-Encoding br is not supported"),
    ],
    # The names of tests are equal in all processes: gzip writes the time into a body.
    ids=["plain", "cut", "large", "brotli"],
)
def test_bodies_that_cannot_be_unpacked(rest, encoding, body, code, message):
    got, answer = rest.send("POST", "/v1/models/tiny:predict", body, {"Content-Encoding": encoding})
    assert got == code
    assert message in answer["error"]


def test_what_is_not_http_is_answered(rest):
    with socket.create_connection(("127.0.0.1", rest.port), timeout=20) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_request_that_takes_too_long(exports):
    config = ServingConfig(port=0, rest_port=0, rest_api_timeout_in_ms=200, rest_api_num_threads=1)
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        rest = Rest(server.rest_port)
        code, answer = rest.predict({"signature_name": "wait", "inputs": 1}, "v1")
        assert (code, answer) == (504, {"error": "Timed out after 200 ms"})
        # The only thread is still busy: this one expires before it is run.
        assert rest.predict({"instances": [[1, 1]]}, "v1")[0] == 504
        with server.models.use(model_pb2.ModelSpec(name="v1")) as servable:
            servable.predict("release", {"token": np.array(2, np.float32)})
        wait_for(lambda: rest.predict({"instances": [[1, 1]]}, "v1")[0] == 200)


def examples_rest(server, method, body) -> tuple[int, dict]:
    rest = Rest(server.rest_port)
    answer = rest.send("POST", f"/v1/models/examples:{method}", body)
    rest.connection.close()
    return answer


@pytest.fixture(scope="module")
def examples_server(exports):
    with EmbeddedServer(exports / "examples", "examples") as server:
        yield server


def test_classify_and_regress(examples_server):
    examples: list[dict[str, Any]] = [{"x": 0.5}, {"x": [2.0]}]
    body: dict[str, Any] = {"signature_name": "classify", "examples": examples}
    code, answer = examples_rest(examples_server, "classify", body)
    assert (code, answer) == (
        200,
        {"results": [[["a", 0.5], ["b", 5.0]], [["a", 2.0], ["b", 20.0]]]},
    )
    body = {"signature_name": "regress", "examples": examples}
    assert examples_rest(examples_server, "regress", body) == (200, {"results": [2.0, 5.0]})
    body = {"signature_name": "regress", "context": {"x": 0.25}, "examples": [{}, {"x": 1.0}]}
    assert examples_rest(examples_server, "regress", body) == (200, {"results": [1.5, 3.0]})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "expecting 'examples'"),
        ({"examples": []}, "expecting 'examples'"),
        ({"examples": [3]}, "element 0 of 'examples': Example must be JSON object"),
        ({"context": [], "examples": [{}]}, "context: Example must be JSON object"),
        ({"examples": [{}, {"x": [1.0, 2]}]}, "element 1 of 'examples': Feature: x: Unexpected"),
        ({"examples": [{"x": None}]}, "unexpected JSON type: NoneType"),
        ({"examples": [{"x": {"b64": "?"}}]}, "Feature: x"),
        ({"examples": [{"x": 2**63}]}, "is not an int64"),
        ({"examples": [{"x": "\ud800"}]}, "Feature: x"),
        ({"signature_name": "other", "examples": [{"x": 1.0}]}, "other"),
    ],
)
def test_examples_that_do_not_fit(examples_server, body, message):
    code, answer = examples_rest(examples_server, "regress", body)
    assert code == 400
    assert message in answer["error"]


def signature(**inputs) -> meta_graph_pb2.SignatureDef:
    made = meta_graph_pb2.SignatureDef()
    for name, dtype in inputs.items():
        made.inputs[name].dtype = dtype
    made.outputs["p"].dtype = 1
    return made


BOTH = signature(a=1, b=7)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "b64", "x"]), children, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"inputs": json_values, "instances": json_values}),
    st.sampled_from([BOTH, signature(a=1), signature(b=7), signature(a=9), signature(a=10)]),
)
def test_any_json_gives_tensors_or_invalid_argument(request_, wanted):
    try:
        inputs = read_inputs(parse_request(json.dumps(request_).encode()), wanted)
    except StatusError as error:
        assert error.code.name == "INVALID_ARGUMENT"
        return
    assert set(inputs) == set(wanted.inputs)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional={"examples": json_values, "context": json_values}))
def test_any_json_gives_examples_or_invalid_argument(request_):
    examples = input_pb2.Input()
    try:
        read_examples(json.dumps(request_).encode(), examples)
    except StatusError as error:
        assert error.code.name == "INVALID_ARGUMENT"
        return
    listed = getattr(examples, examples.WhichOneof("kind")).examples
    assert len(listed) == len(request_["examples"])
    for example, value in zip(listed, request_["examples"], strict=True):
        assert set(example.features.feature) == set(value)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1))
def test_floats_are_written_with_the_digits_of_their_precision(values):
    written = write_outputs({"inputs": 1}, {"p": np.array(values, np.float32)}, signature(a=1))
    back = json.loads(json.dumps(written))["outputs"]
    np.testing.assert_array_equal(np.array(back, np.float32), np.array(values, np.float32))
    assert write_outputs({"inputs": 1}, {"p": np.array([0.2], np.float32)}, signature())[
        "outputs"
    ] == [0.2]


def test_rows_need_a_common_number_of_rows():
    two = signature(a=1)
    two.outputs["q"].dtype = 1
    uneven = {"p": np.zeros(2, np.float32), "q": np.zeros(3, np.float32)}
    with pytest.raises(StatusError, match="inconsistent batch sizes"):
        write_outputs({"instances": []}, uneven, two)
    with pytest.raises(StatusError, match="no shape information"):
        write_outputs({"instances": []}, {"p": np.array(1, np.float32)}, signature())
    assert write_outputs({"inputs": []}, uneven, two)["outputs"]["q"] == [0, 0, 0]
