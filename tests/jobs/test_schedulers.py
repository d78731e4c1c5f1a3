"""The scheduler examples of the handbook: valid files that run a command which exists."""

import ast
import configparser
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cmdcm.core.config import load_config
from cmdcm.jobs.main import parse
from cmdcm.tests.checkout import ROOT

EXAMPLES = ROOT / "docs" / "schedulers"
JOB = ["retrain", "--promotion", "next", "--config", "/etc/cmdcm/production.toml"]
ANALYZE = shutil.which("systemd-analyze") or ""
NAME = "airflow_dag_example"
NO_SECOND_TRY = [2, 3, 4, 5, 8]


def unit(name: str) -> configparser.ConfigParser:
    """A systemd unit; a repeated key keeps its last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(EXAMPLES / name)
    return parser


def manifest(name: str) -> dict:
    return yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))


def test_the_command_exists():
    args = parse(["cmdcm", *JOB])
    assert (args.command, args.promotion) == ("retrain", "next")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> list[Path]:
    """What the handbook's production.toml has the job write into."""
    text = (ROOT / "docs" / "retraining.md").read_text(encoding="utf-8")
    [toml] = re.findall(r"```toml\n(# production\.toml.*?)```", text, re.DOTALL)
    file = tmp_path_factory.mktemp("production") / "production.toml"
    file.write_text(toml, encoding="utf-8")
    config = load_config(file)
    assert config.tracking.uri.startswith("sqlite:///")
    return [
        Path(config.retrain.work),
        Path(config.retrain.output),
        # The registry's file and that of the labels have journals, locks and logs beside them.
        Path(config.tracking.uri.removeprefix("sqlite:///")).parent,
        Path(config.serving.model_config_file).parent,
    ]


def writable(example: str) -> list[Path]:
    """Returns the folders that an example lets the job write into; the first is where it runs."""
    if example.endswith(".service"):
        service = unit(example)["Service"]
        return [Path(service["WorkingDirectory"]), *map(Path, service["ReadWritePaths"].split())]
    found = manifest(example)
    if found["kind"] == "CronJob":
        [container] = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    else:
        container = found["spec"]["workflowSpec"]["templates"][0]["container"]
    mounts = [Path(m["mountPath"]) for m in container["volumeMounts"] if not m.get("readOnly")]
    return [Path(container["workingDir"]), *mounts]


@pytest.mark.parametrize(
    "example", ["cmdcm-retrain.service", "kubernetes-cronjob.yaml", "argo-cronworkflow.yaml"]
)
def test_all_that_the_job_writes_lies_where_it_may_write(example, written):
    runs_in, *folders = writable(example)
    for path in (runs_in, *written):
        assert any(path.is_relative_to(folder) for folder in folders), path


def test_cron_runs_the_job_in_the_calendar_s_zone():
    lines = [
        line for line in (EXAMPLES / "crontab").read_text().splitlines() if not line.startswith("#")
    ]
    assert lines[0] == "CRON_TZ=Asia/Shanghai"
    assert lines[1].split()[:5] == ["30", "2", "*", "*", "*"]
    assert lines[1].split()[6:] == JOB


def test_systemd_runs_the_job_and_goes_on_after_a_pre_emption():
    service = unit("cmdcm-retrain.service")["Service"]
    assert service["ExecStart"].split()[1:] == JOB
    assert (service["RestartForceExitStatus"], service["SuccessExitStatus"]) == ("75", "8")
    assert unit("cmdcm-retrain.timer")["Timer"]["OnCalendar"].endswith("02:30:00 Asia/Shanghai")


@pytest.mark.skipif(not ANALYZE, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path):
    shutil.copy(EXAMPLES / "cmdcm-retrain.timer", tmp_path)
    text = (EXAMPLES / "cmdcm-retrain.service").read_text()
    # Verification wants a program that is there.
    (tmp_path / "cmdcm-retrain.service").write_text(text.replace("/opt/cmdcm/bin/cmdcm", "/bin/ls"))
    done = subprocess.run(
        [ANALYZE, "verify", "--recursive-errors=no", tmp_path / "cmdcm-retrain.timer"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cmdcm-retrain" not in done.stderr, done.stderr


def test_kubernetes_accepts_the_cron_job_and_it_retries_what_may_go_on():
    job = manifest("kubernetes-cronjob.yaml")
    kubernetes_validate.validate(job, "1.31", strict=True)
    spec = job["spec"]["jobTemplate"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert container["command"] == ["cmdcm", *JOB]
    by_code = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert by_code == {75: "Ignore"} | dict.fromkeys(NO_SECOND_TRY, "FailJob")
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def test_argo_s_workflow_is_complete():
    workflow = manifest("argo-cronworkflow.yaml")
    assert (workflow["apiVersion"], workflow["kind"]) == ("argoproj.io/v1alpha1", "CronWorkflow")
    spec = workflow["spec"]["workflowSpec"]
    [template] = spec["templates"]
    assert template["name"] == spec["entrypoint"]
    assert template["container"]["command"] == ["cmdcm", *JOB]
    [codes] = re.findall(r"in (\[.*?\])", template["retryStrategy"]["expression"])
    assert json.loads(codes) == NO_SECOND_TRY
    mounts = {mount["name"] for mount in template["container"]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}


class FailedError(Exception):
    """Airflow's exceptions in the test below."""


class FatalError(FailedError):
    pass


class SkippedError(FailedError):
    pass


@pytest.fixture
def dag(monkeypatch) -> Any:
    """The DAG's file with stand-ins for Airflow; `make check-airflow` takes the real one."""
    exceptions = SimpleNamespace(
        AirflowException=FailedError,
        AirflowFailException=FatalError,
        AirflowSkipException=SkippedError,
    )
    sdk = SimpleNamespace(
        dag=lambda **settings: lambda function: lambda: None,
        task=lambda **settings: lambda function: function,
    )
    modules: dict[str, Any] = {
        "pendulum": SimpleNamespace(datetime=lambda *args, **kwargs: None),
        "airflow": SimpleNamespace(exceptions=exceptions, sdk=sdk),
        "airflow.exceptions": exceptions,
        "airflow.sdk": sdk,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    path = EXAMPLES / "airflow_dag.py"
    spec = importlib.util.spec_from_loader(NAME, SourceFileLoader(NAME, str(path)))
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_airflow_s_task_retries_what_may_go_on(dag):
    assert dag.COMMAND[1:] == JOB
    dag.check(0)
    for code in NO_SECOND_TRY:
        with pytest.raises(SkippedError if code == 8 else FatalError):
            dag.check(code)
    for code in (1, 6, 7, 75, -9):
        with pytest.raises(FailedError) as error:
            dag.check(code)
        assert type(error.value) is FailedError


def test_airflow_s_task_runs_without_a_shell():
    tree = ast.parse((EXAMPLES / "airflow_dag.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "shell" not in {keyword.arg for call in calls for keyword in call.keywords}
