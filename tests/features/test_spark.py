"""The Spark runner on two local cores, and by spark-submit on a cluster of two workers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from upath import UPath

from cmdcm.core.config import load_config
from cmdcm.core.errors import ConfigError, DataError, OutputError
from cmdcm.core.files import read_manifest, sha256, verify_manifest
from cmdcm.datasets.log import open_event_log
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.spark import build_dataset_on_spark, spark_session
from cmdcm.jobs.main import main, parse
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.conftest import SMALL, SmallWorld
from cmdcm.tests.features.spark_logs import LOGS, Stored, written

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Starts in half the time; compiles no further, which pays in jobs of minutes."""

needs_spark = pytest.mark.skipif(
    not (shutil.which("java") or os.environ.get("JAVA_HOME")), reason="Spark needs Java"
)


def tree(directory: Path) -> dict[str, str]:
    """SHA-256 of every file by name."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): sha256(path) for path in files}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Spark's package, with settings that keep everything on the loopback address."""
    pyspark = pytest.importorskip("pyspark")
    folder = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": JVM,
        "spark.executor.extraJavaOptions": JVM,
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    lines = [f"{name} {value}\n" for name, value in settings.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SPARK_CONF_DIR", str(folder))
        patched.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patched.setenv("SPARK_DAEMON_JAVA_OPTS", JVM)
        patched.setenv("PYSPARK_PYTHON", sys.executable)
        yield Path(pyspark.__file__).parent


@pytest.fixture(scope="module")
def spark(home: Path) -> "Iterator[SparkSession]":
    """Two threads, each with a Python worker."""
    session = spark_session("local[2]")
    yield session
    session.stop()


@needs_spark
@pytest.mark.slow
@pytest.mark.parametrize("name", LOGS)
def test_spark_and_the_local_runner_and_the_reference_agree(name, spark, tmp_path):
    stored = Stored.of(LOGS[name], tmp_path / "log")
    local, distributed = tmp_path / "local", tmp_path / "spark"
    build_dataset(stored.events, local, stored.config)
    manifest = build_dataset_on_spark(stored.events, distributed, stored.config, spark)
    assert manifest == read_manifest(local, EXAMPLES)
    assert tree(distributed) == tree(local)
    assert written(distributed) == stored.expected()
    assert len({Path(path).name for path in tree(local) if "/" in path}) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local", "log", "spark"]


@needs_spark
@pytest.mark.slow
def test_a_remote_target_needs_no_shared_directory(spark, tmp_path):
    stored = Stored.of(LOGS["skewed"], tmp_path / "log")
    build_dataset(stored.events, tmp_path / "local", stored.config)
    target = UPath((tmp_path / "remote").as_uri())
    assert not isinstance(target, Path)
    (tmp_path / "remote" / "2020-01-01").mkdir(parents=True)
    (tmp_path / "remote" / "2020-01-01" / "part-00000.tfrecord").write_text("of an older data set")
    with pytest.raises(OutputError, match="--overwrite"):
        build_dataset_on_spark(stored.events, target, stored.config, spark)
    with pytest.raises(ConfigError, match="only a local data set can be updated"):
        build_dataset_on_spark(stored.events, target, stored.config, spark, update=True)
    build_dataset_on_spark(stored.events, target, stored.config, spark, overwrite=True)
    assert tree(tmp_path / "remote") == tree(tmp_path / "local")


@needs_spark
@pytest.mark.slow
def test_an_error_of_an_executor_is_ours_and_publishes_nothing(spark, tmp_path):
    stored = Stored.of(LOGS["dense"], tmp_path / "log", files=1)
    (file,) = stored.events.files
    with pq.ParquetFile(file) as parquet:
        column = parquet.metadata.row_group(0).column(1)
    with file.open("r+b") as stream:  # item_id, which the driver does not read
        stream.seek(column.dictionary_page_offset or column.data_page_offset)
        stream.write(b"\xff" * 8)
    with pytest.raises(DataError) as caught:
        build_dataset_on_spark(stored.events, tmp_path / "out" / "examples", stored.config, spark)
    message = str(caught.value)
    assert message.startswith(f"{file} cannot be read as Parquet: ")
    assert "Traceback" not in message
    assert "SQLSTATE" not in message
    assert list((tmp_path / "out").iterdir()) == []


def test_without_pyspark_the_command_says_what_to_install(
    small_world, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    command = ["cmdcm", "features", "--runner", "spark", "--events", str(small_world.events)]
    assert main(parse([*command, "--output", str(tmp_path / "examples")])) == ConfigError.exit_code
    assert 'pip install "cmdcm[spark]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cluster(home: Path, tmp_path: Path) -> Iterator[str]:
    """A master and two workers, each of one core, as processes of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = [str(home / "bin" / "spark-class"), "org.apache.spark.deploy"]
    here = ["--host", "127.0.0.1", "--webui-port", "0"]
    url = f"spark://127.0.0.1:{port}"
    commands = [[daemon[0], f"{daemon[1]}.master.Master", *here, "--port", str(port)]]
    for n in range(2):
        worker = [daemon[0], f"{daemon[1]}.worker.Worker", url, *here, "--cores", "1"]
        commands.append([*worker, "--memory", "1g", "--work-dir", str(tmp_path / f"worker-{n}")])
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            running.append(subprocess.Popen(command))
            while not running[1:] and not listening(port):
                assert running[0].poll() is None
                time.sleep(0.1)
        yield url
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


def listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@needs_spark
@pytest.mark.slow
def test_spark_submit_to_a_standalone_cluster_of_two_workers(
    cluster: str, home: Path, small_world: SmallWorld, tmp_path: Path
):
    """As an operator runs it; relative paths, which workers in other directories have to find."""
    overrides = (*SMALL, "features.partitions=6")
    shutil.copytree(small_world.events, tmp_path / "events")
    events = open_event_log(tmp_path / "events")
    build_dataset(events, tmp_path / "local", load_config(overrides=overrides))
    (tmp_path / "history").mkdir()
    options = {
        "spark.executor.memory": "512m",
        "spark.scheduler.minRegisteredResourcesRatio": "1",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": (tmp_path / "history").as_uri(),
        "spark.eventLog.compress": "false",
    }
    command = [str(home / "bin" / "spark-submit"), "--master", cluster]
    for name, value in options.items():
        command += ["--conf", f"{name}={value}"]
    command += [str(ROOT / "jobs" / "main.py"), "features", "--runner", "spark"]
    command += ["--events", "events", "--output", "examples"]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " examples of " in done.stdout
    verify_manifest(tmp_path / "examples")
    assert tree(tmp_path / "examples") == tree(tmp_path / "local")
    logs = [path for path in (tmp_path / "history").rglob("*") if path.is_file()]
    events_of_spark = [json.loads(line) for path in logs for line in path.open() if line[0] == "{"]
    executors = {
        event["Task Info"]["Executor ID"]
        for event in events_of_spark
        if event["Event"] == "SparkListenerTaskEnd"
    }
    assert executors == {"0", "1"}
