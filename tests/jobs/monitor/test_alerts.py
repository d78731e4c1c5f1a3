"""Alert rules and dashboard: every metric that they name exists, and promtool takes the rules."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from cmdcm.core.config import load_config
from cmdcm.jobs.monitor.alerts import alert_rules, alerts
from cmdcm.jobs.monitor.dashboard import dashboard
from cmdcm.jobs.monitor.prometheus import METRICS
from cmdcm.serving.metrics import Metrics
from cmdcm.tests.checkout import ROOT

CONFIG = load_config()
NAMED = re.compile(r"(?:cmdcm_monitor|:tensorflow)[\w:]*")
RULES = [rule for group in alerts(CONFIG).values() for rule in group]


def served_metrics() -> set[str]:
    """The series of a server that has done everything once."""
    metrics = Metrics()
    metrics.request("m", "Predict", "GRPC", "OK", 0.001)
    metrics.queuing("p", 0.001)
    metrics.batch("p", 1)
    metrics.load(ROOT, 1.0, loaded=True)
    return {line.split(b"{")[0].decode() for line in metrics.page().splitlines()}


EXISTING = {*METRICS, *served_metrics()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_metric_of_a_rule_exists(rule):
    named = set(NAMED.findall(rule.expr))
    assert named
    assert named <= EXISTING


def test_the_rule_file_is_yaml_of_prometheus():
    groups = yaml.safe_load(alert_rules(CONFIG))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == [rule.name for rule in RULES]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule, made in zip(rules, RULES, strict=True):
        assert rule["expr"] == made.expr
        assert rule["annotations"]["summary"] == made.summary
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_bounds_are_the_configurations():
    text = alert_rules(load_config(overrides=["monitor.max_pcoc=1.5", "monitor.max_oov_rate=0.5"]))
    assert '{by=\\"all\\"} > 1.5' in text
    assert "cmdcm_monitor_oov_rate > 0.5" in text


def test_every_alert_and_its_runbook_are_documented():
    pages = {}
    for rule in RULES:
        name = rule.runbook.partition("#")[0]
        pages[name] = (ROOT / name).read_text(encoding="utf-8")
        assert f"`{rule.name}`" in pages[name], rule.name


def test_every_metric_of_the_dashboard_exists_and_no_panel_overlaps():
    made = json.loads(json.dumps(dashboard(CONFIG)))
    named = {m for panel in made["panels"] for m in NAMED.findall(panel["targets"][0]["expr"])}
    assert named <= EXISTING
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in made["panels"]]
    assert len(set(places)) == len({p["id"] for p in made["panels"]}) == len(made["panels"])


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian and Ubuntu: apt-get install prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules(tmp_path):
    (tmp_path / "alerts.yaml").write_text(alert_rules(CONFIG))
    promtool("check", "rules", str(tmp_path / "alerts.yaml"))


def test_promtool_sees_the_alerts_fire(tmp_path):
    (tmp_path / "alerts.yaml").write_text(alert_rules(CONFIG))
    model = 'model="cmdcm"'
    group = f'{model},head="direct",by="all",value="all"'
    series = {
        f"cmdcm_monitor_pcoc_lower{{{group}}}": "1.06",
        f"cmdcm_monitor_pcoc_upper{{{group}}}": "1.2",
        f'cmdcm_monitor_null_rate{{{model},input="price"}}': "0.2",
        f'cmdcm_monitor_training_null_rate{{{model},input="price"}}': "0.01",
        f'cmdcm_monitor_null_rate{{{model},input="user_id"}}': "0.02",
        f'cmdcm_monitor_training_null_rate{{{model},input="user_id"}}': "0.01",
        f'cmdcm_monitor_traffic_share{{{model},version="3",label="none"}}': "0.2",
        f'cmdcm_monitor_traffic_share{{{model},version="4",label="stable"}}': "0.8",
    }
    labels = {"model": "cmdcm", "severity": "page"}
    fired = {
        "CmdcmCalibrationOff": {**labels, "head": "direct", "by": "all", "value": "all"},
        "CmdcmNullRate": {**labels, "input": "price"},
        "CmdcmUnlabelledVersion": {**labels, "version": "3", "label": "none"},
        "CmdcmRegistryDiffers": None,
    }
    summaries = {rule.name: rule for rule in RULES}
    texts = {"head": "direct", "input": "price", "version": "3"}

    def summary(name: str) -> str:
        text = summaries[name].summary
        return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: texts[found[1]], text)

    expected = [
        {
            "eval_time": "1m",
            "alertname": name,
            "exp_alerts": []
            if values is None
            else [
                {
                    "exp_labels": values,
                    "exp_annotations": {
                        "summary": summary(name),
                        "runbook": summaries[name].runbook,
                    },
                }
            ],
        }
        for name, values in fired.items()
    ]
    test = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": f"{v}x5"} for s, v in series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


@pytest.mark.parametrize(
    ("model", "status", "fires"),
    [
        ("", "NOT_FOUND", "CmdcmUnknownModel"),
        ("", "RESOURCE_EXHAUSTED", "CmdcmCallsRefused"),
        ("cmdcm", "NOT_FOUND", "CmdcmRequestsFail"),
    ],
)
def test_a_wrong_name_is_a_ticket_and_failing_calls_are_a_page(tmp_path, model, status, fires):
    (tmp_path / "alerts.yaml").write_text(alert_rules(CONFIG))
    count = ":tensorflow:serving:request_count"
    series = {("cmdcm", "OK"): "0+900x40", (model, status): "0+100x40"}
    by_status = {"status": status} if fires != "CmdcmCallsRefused" else {}
    by_model = {"model_name": model} if fires == "CmdcmRequestsFail" else {}
    names = ("CmdcmUnknownModel", "CmdcmCallsRefused", "CmdcmRequestsFail")
    rules = {rule.name: rule for rule in RULES}
    assert [rules[name].severity for name in names] == ["ticket", "page", "page"]
    summary = rules[fires].summary.replace("{{ $value | humanizePercentage }}", "10%")
    fired = {
        "exp_labels": {**by_model, **by_status, "severity": rules[fires].severity},
        "exp_annotations": {
            "summary": summary.replace("{{ $labels.status }}", status),
            "runbook": rules[fires].runbook,
        },
    }
    test = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'{count}{{model_name="{m}",status="{s}"}}', "values": values}
                    for (m, s), values in series.items()
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "35m",
                        "alertname": name,
                        "exp_alerts": [fired] if name == fires else [],
                    }
                    for name in names
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
