"""`cmdcm serve` and `cmdcm score`, as a shell runs them."""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmdcm.core.config import Config, ServingConfig, load_config
from cmdcm.core.errors import CmdcmError, ConfigError, DataError, ServingError
from cmdcm.jobs.commands import score, serve
from cmdcm.serving.binary import binary_command
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving import models
from cmdcm.tests.serving.rows import rows_table
from cmdcm.tests.serving.stubs import Stubs, candidates_request, failure

WAIT = 120
READY = re.compile(
    r"serving 'tiny' version 1: gRPC (127\.0\.0\.1:\d+), REST http://127\.0\.0\.1:\d+\n"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "base"
    models.write_tiny_model(path / "1", 1)
    return path


def parse(command, *flags) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(flag) for flag in flags])


def start(*flags) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "cmdcm.jobs.main", "serve", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_serve_and_score_from_end_to_end(base, tmp_path):
    flags = ["--model_base_path", base, "--model_name", "tiny", "--port", 0, "--rest_api_port", 0]
    process = start(*flags, "--embedded")
    watchdog = threading.Timer(WAIT, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        ready = READY.fullmatch(process.stdout.readline())
        assert ready is not None
        pq.write_table(rows_table([7, 7, 8]), tmp_path / "rows.parquet")
        args = parse(
            score,
            *["--target", ready[1], "--model_name", "tiny", "--model_base_path", base],
            *["--input", tmp_path / "rows.parquet", "--output", tmp_path / "scores.parquet"],
            *["--signature", "score_candidates", "--keep", "key", "--keep", "user_id"],
        )
        config = load_config(overrides=["serving.deadline_ms=20000"])
        assert score.run(args, config) == 0
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=WAIT)
        assert process.returncode == 0, errors
        assert rest == ""
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
    scores = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert scores["key"] == ["row 0", "row 1", "row 2"]
    assert scores["user_id"] == [7, 7, 8]
    item = {name: array[:2] for name, array in models.candidate_arrays(3).items()}
    want = models.expected(models.user_arrays(), item, 1)["p_conversion"]
    np.testing.assert_allclose(scores["p_conversion"][:2], want, atol=1e-6)


@pytest.fixture(scope="module")
def target(base):
    with EmbeddedServer(base, "cmdcm", ServingConfig(port=0, rest_port=-1)) as server:
        yield server.target


def test_score_prints_a_summary(base, target, tmp_path, capsys):
    pq.write_table(rows_table([7] * 12).drop_columns(["key"]), tmp_path / "rows.parquet")
    spec = base / "1" / "assets.extra" / "feature_spec.json"
    output = tmp_path / "scores.jsonl"
    args = parse(
        score,
        *["--target", target, "--spec", spec],
        *["--input", tmp_path / "rows.parquet", "--output", output],
    )
    config = load_config(overrides=["export.warmup_candidates=[5, 1]", "serving.deadline_ms=20000"])
    assert score.run(args, config) == 0
    printed = capsys.readouterr().out
    assert f"scored 12 rows in 3 requests to {target}" in printed
    assert "model 'cmdcm' version 1, signature serving_default" in printed
    assert re.search(r"latency p50 \d+\.\d ms, p99 \d+\.\d ms", printed)
    assert str(output) in printed
    assert len(output.read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        ([], ConfigError, "pass --spec FILE"),
        (["--spec", "gone.json"], DataError, "feature spec not found at gone.json"),
        (["--model_base_path", "gone"], DataError, "gone is not a directory"),
        (["--model_base_path", "."], DataError, "holds no exported version"),
    ],
)
def test_score_needs_the_models_features(tmp_path, monkeypatch, flags, kind, message):
    monkeypatch.chdir(tmp_path)
    args = parse(score, "--input", "rows.parquet", "--output", "scores.parquet", *flags)
    with pytest.raises(kind, match=message):
        score.run(args, Config())


def test_score_names_an_unknown_feature(base, target, tmp_path):
    table = rows_table([7]).drop_columns(["key"])
    names = ["itm_id" if name == "item_id" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), tmp_path / "rows.parquet")
    args = parse(
        score,
        *["--target", target, "--model_base_path", base],
        *["--input", tmp_path / "rows.parquet", "--output", tmp_path / "scores.parquet"],
    )
    with pytest.raises(CmdcmError, match=r"'itm_id' .*'item_id'"):
        score.run(args, Config())
    assert not (tmp_path / "scores.parquet").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("gone", "gone is not a directory"), (".", "no complete version folder")],
)
def test_serve_without_a_model(tmp_path, folder, message):
    args = parse(serve, "--model_base_path", tmp_path / folder, "--port", 0, "--embedded")
    with pytest.raises(ServingError, match=message):
        serve.run(args, Config())


def test_serve_with_a_port_that_is_none(tmp_path):
    args = parse(serve, "--model_base_path", tmp_path, "--port", 70000)
    with pytest.raises(ConfigError, match=r"flags of serve \(port\)(.|\n)*65535"):
        serve.run(args, Config())


def test_serve_needs_something_to_serve():
    with pytest.raises(ConfigError, match="set --model_base_path, or --model_config_file"):
        serve.run(parse(serve), Config())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batching_parameters_file", "b"], "enable_batching is not"),
        (["--port", 9, "--rest_api_port", 9], "port and rest_port are both 9"),
        (["--grpc_channel_arguments", "a=1,b"], "'b' is not key=value"),
    ],
)
def test_serve_with_flags_that_do_not_fit(tmp_path, flags, message):
    args = parse(serve, "--model_base_path", tmp_path, *flags)
    with pytest.raises(ConfigError, match=message):
        serve.run(args, Config())


# Of tensorflow_model_server; each in the form that its users write, with the setting it makes.
FLAGS = {
    "--port=9": ("port", 9),
    "--grpc_socket_path=/tmp/s": ("grpc_socket_path", "/tmp/s"),  # noqa: S108
    "--grpc_max_threads=3": ("grpc_max_threads", 3),
    "--grpc_channel_arguments=a=1": ("grpc_channel_arguments", "a=1"),
    "--ssl_config_file=f": ("ssl_config_file", "f"),
    "--rest_api_port=10": ("rest_port", 10),
    "--rest_api_timeout_in_ms=7": ("rest_api_timeout_in_ms", 7),
    "--rest_api_num_threads=2": ("rest_api_num_threads", 2),
    "--model_config_file=m": ("model_config_file", "m"),
    "--model_config_file_poll_wait_seconds=4": ("model_config_file_poll_wait_seconds", 4),
    "--file_system_poll_wait_seconds=5": ("poll_seconds", 5),
    "--monitoring_config_file=p": ("monitoring_config_file", "p"),
    "--enable_batching=true": ("enable_batching", True),
    "--enable_batching": ("enable_batching", True),
    "--enable_batching=false": ("enable_batching", False),
    "--batching_parameters_file=b": ("batching_parameters_file", "b"),
    "--max_num_load_retries=0": ("max_num_load_retries", 0),
    "--load_retry_interval_micros=6": ("load_retry_interval_micros", 6),
    "--allow_version_labels_for_unavailable_models=true": (
        "allow_version_labels_for_unavailable_models",
        True,
    ),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_are_settings(flag, monkeypatch, tmp_path):
    served = []
    monkeypatch.setattr(serve, "run_server", lambda config, *_, **__: served.append(config))
    needed = ["--enable_batching"] if "batching_parameters" in flag else []
    args = parse(serve, "--model_base_path", tmp_path, *needed, flag)
    assert serve.run(args, Config()) == 0
    name, value = FLAGS[flag]
    assert getattr(served[0], name) == value


def test_the_version_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(serve, "--version")
    assert caught.value.code == 0
    assert re.fullmatch(r"cmdcm \S+, TensorFlow 2\.21\.\d+\n", capsys.readouterr().out)


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """A stand-in for tensorflow_model_server on PATH."""
    path = tmp_path / "bin" / "tensorflow_model_server"
    path.parent.mkdir()
    path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    return path


def test_the_installed_binary_takes_the_place_of_the_process(base, binary, monkeypatch, caplog):
    class Replaced(BaseException):
        """What follows exec is never run."""

    def execv(path, arguments):
        raise Replaced(path, arguments)

    monkeypatch.setattr(os, "execv", execv)
    args = parse(serve, "--model_base_path", base, "--rest_api_port", -1)
    with caplog.at_level("WARNING", logger="absl"), pytest.raises(Replaced) as caught:
        serve.run(args, Config())
    assert caught.value.args == (
        str(binary),
        [
            str(binary),
            "--port=8500",
            "--rest_api_port=0",
            "--model_name=cmdcm",
            f"--model_base_path={base}",
            "--file_system_poll_wait_seconds=2",
            "--grpc_channel_arguments=grpc.max_receive_message_length=67108864,"
            "grpc.max_send_message_length=67108864",
        ],
    )
    assert "listens on all interfaces" in caplog.text


def test_a_url_goes_to_the_binary_as_it_is_and_the_embedded_server_names_it(binary, monkeypatch):
    class Replaced(BaseException):
        """What follows exec is never run."""

    def execv(path, arguments):
        raise Replaced(*arguments)

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(Replaced) as caught:
        serve.run(parse(serve, "--model_base_path=gs://b/m"), Config())
    assert "--model_base_path=gs://b/m" in caught.value.args
    with pytest.raises(ConfigError, match=r"gs://b/m is a URL.*reads folders alone"):
        serve.run(parse(serve, "--model_base_path=gs://b/m", "--embedded"), Config())


def test_the_installed_binary_cannot_choose_ports(base, binary):
    args = parse(serve, "--model_base_path", base, "--port", 0)
    with pytest.raises(ConfigError, match="cannot choose free ports"):
        serve.run(args, Config())


def test_all_flags_are_passed_on_to_the_binary(tmp_path):
    settings = {
        "model_config_file": "/m",
        "model_config_file_poll_wait_seconds": 0.2,
        "enable_batching": True,
        "batching_parameters_file": "/b",
        "ssl_config_file": "/s",
        "monitoring_config_file": "/p",
        "grpc_socket_path": "/u",
        "grpc_max_threads": 64,
        "grpc_channel_arguments": "a=1",
        "rest_api_timeout_in_ms": 5,
        "rest_api_num_threads": 6,
        "max_num_load_retries": 0,
        "load_retry_interval_micros": 7,
        "allow_version_labels_for_unavailable_models": True,
        "poll_seconds": 0,
    }
    command = binary_command("tms", ServingConfig(**settings), None, "ignored")
    assert set(command) == {
        "tms",
        "--port=8500",
        "--rest_api_port=8501",
        "--file_system_poll_wait_seconds=0",
        "--model_config_file=/m",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching=true",
        "--batching_parameters_file=/b",
        "--ssl_config_file=/s",
        "--monitoring_config_file=/p",
        "--grpc_socket_path=/u",
        "--grpc_max_threads=64",
        "--rest_api_timeout_in_ms=5",
        "--rest_api_num_threads=6",
        "--max_num_load_retries=0",
        "--load_retry_interval_micros=7",
        "--allow_version_labels_for_unavailable_models=true",
        "--grpc_channel_arguments=grpc.max_receive_message_length=67108864,"
        "grpc.max_send_message_length=67108864,a=1",
    }


def test_grpc_channel_arguments_reach_grpc(base):
    arguments = "grpc.max_receive_message_length=100,grpc.primary_user_agent=x"
    config = ServingConfig(port=0, rest_port=-1, grpc_channel_arguments=arguments)
    with EmbeddedServer(base, "tiny", config) as server:
        error = failure(Stubs(server.target).prediction.Predict, candidates_request())
    assert error.code().name == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])  # noqa: S104
def test_a_host_that_others_reach_is_warned_of(base, caplog, host, warned):
    config = ServingConfig(host=host, port=0, rest_port=-1, allow_plaintext=True)
    with caplog.at_level("WARNING", logger="absl"), EmbeddedServer(base, "tiny", config):
        pass
    assert ("without TLS" in caplog.text) == warned
