"""The table of docs/conformity.md, and those of its rows that no other test shows."""

import argparse
import ast
import functools
import re

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from cmdcm.jobs.commands import serve
from cmdcm.serving import rest
from cmdcm.serving.status import http_code
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.serving.hostile_requests import PREDICTION
from cmdcm.tests.serving.stubs import WAIT, Stubs

PAGE = (ROOT / "docs" / "conformity.md").read_text(encoding="utf-8")
_NAMED = re.compile(r"`(\w+/\w+\.py)::(\w+)(?:\[(.+)\])?`")


def rows() -> list[list[str]]:
    """The cells of all rows that name a test."""
    table, found = False, []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            table = False
        elif cells[-1].strip("| ") == "Test":
            table = True
        elif table and not line.startswith("|--"):
            found.append([cell.strip("| ") for cell in cells])
    return found


@functools.cache
def functions_of(file: str) -> dict[str, str]:
    """The source of each test function in a file; with that of the module for its cases."""
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    functions = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    return {function.name: text for function in functions if function.name.startswith("test")}


def subjects() -> str:
    return "\n".join(row[0] for row in rows())


def test_there_are_rows():
    assert len(rows()) > 80
    assert all(len(row) == 4 for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_named_tests_exist(row):
    named = _NAMED.fullmatch(row[-1])
    assert named is not None, f"no test in {row[-1]!r}"
    file, name, case = named.groups()
    tests = functions_of(file)
    assert name in tests
    assert case is None or f'"{case}"' in tests[name]


def flags() -> list[str]:
    parser = argparse.ArgumentParser(add_help=False)
    serve.add_arguments(parser)
    return [option for action in parser._actions for option in action.option_strings]


@pytest.mark.parametrize("flag", flags())
def test_every_flag_has_a_row(flag):
    assert f"`{flag}`" in subjects()


def methods() -> list[str]:
    files = (prediction_service_pb2, model_service_pb2, health_pb2)
    services = [s for file in files for s in file.DESCRIPTOR.services_by_name.values()]
    return [f"{service.name}.{method.name}" for service in services for method in service.methods]


@pytest.mark.parametrize("method", methods())
def test_every_method_has_a_row(method):
    assert f"`{method}`" in subjects()


@pytest.mark.parametrize("route", [*rest._APIS, *rest._GET_ROUTE.groupindex])
def test_every_rest_route_has_a_row(route):
    row = {"name": "NAME", "version": "/versions/N", "label": "/labels/L", "metadata": "/metadata"}
    assert row.get(route, f":{route}`") in subjects()


def codes() -> list[str]:
    """The codes that the server answers with; status.py alone names all, to translate them."""
    files = [file for file in (ROOT / "serving").glob("*.py") if file.name != "status.py"]
    found = re.findall(r"StatusCode\.([A-Z_]+)", "".join(f.read_text("utf-8") for f in files))
    return sorted({*found} - {"OK"})


@pytest.mark.parametrize("code", codes())
def test_every_code_has_a_row(code):
    assert any(code in row[1] or code in row[2] for row in rows())


@pytest.fixture(scope="module")
def stubs(server):
    return Stubs(server.target)


def test_health_can_be_watched(stubs):
    watched = stubs.health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()


def test_health_list_is_answered(stubs):
    try:
        listed = stubs.health.List(health_pb2.HealthListRequest(), timeout=WAIT)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    else:
        assert "tensorflow.serving.PredictionService" in listed.statuses


def test_bytes_that_are_no_proto(stubs):
    with pytest.raises(grpc.RpcError) as caught:
        stubs.channel.unary_unary(PREDICTION + "Predict")(b"\xff\xff", timeout=WAIT)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


def test_an_unknown_method(stubs):
    with pytest.raises(grpc.RpcError) as caught:
        stubs.channel.unary_unary(PREDICTION + "Guess")(b"", timeout=WAIT)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_codes_of_grpc_and_http():
    codes = grpc.StatusCode
    wanted = {
        400: [codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION, codes.OUT_OF_RANGE],
        404: [codes.NOT_FOUND],
        429: [codes.RESOURCE_EXHAUSTED],
        500: [codes.INTERNAL, codes.UNKNOWN, codes.DATA_LOSS],
        501: [codes.UNIMPLEMENTED],
        503: [codes.UNAVAILABLE],
        504: [codes.DEADLINE_EXCEEDED],
    }
    for number, listed in wanted.items():
        assert [http_code(code) for code in listed] == [number] * len(listed)
