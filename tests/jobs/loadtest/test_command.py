"""`cmdcm loadtest` against a loopback server, and its report."""

import argparse
import json
import math
import os

import numpy as np
import pytest

from cmdcm.core.config import load_config
from cmdcm.core.errors import ConfigError
from cmdcm.jobs.commands import loadtest
from cmdcm.jobs.loadtest import report
from cmdcm.jobs.loadtest.cpu import CpuMeter
from cmdcm.jobs.loadtest.driver import Calls
from cmdcm.jobs.loadtest.saturation import Saturation
from cmdcm.jobs.loadtest.statistics import summarize
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models

CONFIG = load_config(overrides=["serving.deadline_ms=20000"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("loadtest") / "base"
    models.write_tiny_model(path / "1", 1)
    return path


@pytest.fixture(scope="module")
def server(base):
    with EmbeddedServer(base, "tiny") as running:
        yield running


def run(server, base, output, *flags, config=CONFIG) -> int:
    parser = argparse.ArgumentParser()
    loadtest.add_arguments(parser)
    given = ["--target", server.target, "--model_name", "tiny", "--model_base_path", base]
    given += ["--output", output, "--seconds", 0.6, "--warmup", 0.2, *flags]
    return loadtest.run(parser.parse_args([str(flag) for flag in given]), config)


def test_both_loops_and_both_signatures(server, base, tmp_path, capsys):
    flags: list[object] = ["--signature", "score_candidates", "serving_default"]
    flags += ["--mix", "3:1,7:1"]
    flags += ["--rate", 50, "--arrivals", "constant", "--clients", 2, "--server_pid", os.getpid()]
    assert run(server, base, tmp_path / "out", *flags) == 0
    found = json.loads((tmp_path / "out" / "loadtest.json").read_text())
    assert found["settings"]["mix"] == {"3": 1, "7": 1}
    names = [result["name"] for result in found["results"]]
    assert names == [
        "score_candidates, 50 calls/s",
        "score_candidates, 2 clients",
        "serving_default, 50 calls/s",
        "serving_default, 2 clients",
    ]
    for result in found["results"]:
        assert result["errors"] == {}
        assert 0 < result["latency_ms"]["50"] <= result["latency_ms"]["100"]
        assert result["latency_ms_by_candidates"].keys() == {"3", "7"}
        assert result["client_cpu_ms"] > 0
    opened = found["results"][0]
    assert (opened["calls"], opened["rate"]) == (20, 50)  # of 30 in 0.6 s, without the warm-up
    assert opened["offered_per_second"] == pytest.approx(50)
    printed = capsys.readouterr().out
    for name in names:
        assert name in printed
    assert "in a closed loop" in printed
    svg = (tmp_path / "out" / "loadtest.svg").read_text()
    assert "<svg" in svg and svg.endswith("</svg>\n")
    assert (tmp_path / "out" / "loadtest.txt").read_text() in printed


def test_the_search_for_the_limit(server, base, tmp_path, capsys):
    flags: list[object] = ["--saturate", 60, "--mix", "3", "--arrivals", "constant"]
    assert run(server, base, tmp_path / "out", *flags, "--max_p99_ms", 1e-6) == 0
    found = json.loads((tmp_path / "out" / "loadtest.json").read_text())
    rates = [result["rate"] for result in found["results"]]
    assert rates == [
        60,
        60,
        40,
        40,
    ]  # below 33 there are less than 20 calls
    assert found["saturation"]["score_candidates"] == {"sustained": None, "broken": 40}
    assert (
        "highest rate within the bounds none found, lowest beyond 40.0" in capsys.readouterr().out
    )


def test_a_wrong_server_is_one_error(server, base, tmp_path):
    with pytest.raises(StatusError, match="NOT_FOUND"):
        run(server, base, tmp_path / "out", "--rate", 10, "--model_name", "other")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "set --rate"),
        (["--clients", 0], "--clients should be positive"),
        (["--rate", 10, "--warmup", 1], r"warm-up of 1 s leaves nothing of a test of 0\.6 s"),
        (["--rate", 10, "--mix", "x"], "mix 'x'"),
        (["--rate", -1], "rate and seconds should be positive"),
        (["--rate", 10, "--private_key", "key.pem"], "both private_key and certificate_chain"),
        (["--rate", 10, "--server_pid", 2**30], "--server_pid 1073741824: no such process"),
    ],
)
def test_flags_that_cannot_be_used(server, base, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        run(server, base, tmp_path / "out", *flags)


def test_cpu_time_is_that_of_the_process():
    meter = CpuMeter(os.getpid())
    while meter.client() < 0.1:
        pass
    server = meter.server()
    assert server is not None
    assert 0.05 <= server <= meter.client() + 0.05  # the kernel counts in hundredths of a second
    assert CpuMeter(None).server() is None


def summary(codes, milliseconds, sizes=None):
    due = np.arange(len(codes)) / len(codes)
    calls = Calls(due, due, due + np.array(milliseconds) / 1e3, np.array(codes))
    sizes = np.ones(len(codes), int) if sizes is None else np.array(sizes)
    return summarize(calls, sizes, warmup=0.0, seconds=1.0)


def test_the_table_says_what_failed_and_where_the_limit_is():
    good = summary(["OK"] * 4, [1, 2, 3, 4], sizes=[5, 5, 9, 9])
    bad = summary(["OK", "OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"], [1, 2, 3, 4])
    found = report.table(
        [
            report.Result("good", "s", {"rate": 4}, good),
            report.Result("bad", "s", {"rate": 4}, bad),
        ],
        {"s": Saturation((), 4.0, None)},
    ).splitlines()
    assert found[0].split()[:2] == ["measurement", "calls/s"]
    assert found[1].split()[:9] == [
        *("good", "4.0", "4.0", "0", "2.00", "4.00", "4.00", "4.00", "4.00")
    ]
    assert found[2].split() == ["N", "=", "5", "2.0", "1.00", *["2.00"] * 4]
    assert "1 DEADLINE_EXCEEDED, 1 UNAVAILABLE" in found[4]
    assert found[4].split()[-6:] == ["failed"] * 4 + ["0.00", "–"]
    assert found[5] == "s: highest rate within the bounds 4.0 calls/s, lowest beyond none found"


def test_a_test_without_an_answer_has_a_report(tmp_path):
    nothing = summary(["UNAVAILABLE"] * 3, [1, 1, 1])
    report.write_report(tmp_path, {}, [report.Result("none", "s", {"rate": 3}, nothing)], {})
    found = json.loads((tmp_path / "loadtest.json").read_text())["results"][0]
    assert set(found["latency_ms"].values()) == {None}
    assert math.isfinite(found["send_delay_p99_ms"])
