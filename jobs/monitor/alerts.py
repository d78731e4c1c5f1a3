"""Alert rules for Prometheus, on the metrics of the monitoring and of the servers."""

import json
from dataclasses import dataclass

from cmdcm.core.config import Config
from cmdcm.jobs.monitor.retraining import UNWELL

MONITORING, SERVERS = "docs/monitoring.md#alerts", "docs/runbook.md#alerts"

_SERVING = ":tensorflow:serving"
_LOADS = ":tensorflow:cc:saved_model:load_attempt_count"


@dataclass(frozen=True)
class Alert:
    """One rule.

    Attributes:
        name: Its name.
        expr: The condition, in PromQL.
        wait: How long it has to hold, as Prometheus writes durations.
        severity: `page` or `ticket`.
        summary: What happened, with Prometheus' templates.
        runbook: Where it says what to do.
    """

    name: str
    expr: str
    wait: str
    severity: str
    summary: str
    runbook: str = MONITORING


def alerts(config: Config) -> dict[str, list[Alert]]:
    """Returns the rules by group, with the bounds of `[monitor]`."""
    return {"cmdcm-model": _model_alerts(config), "cmdcm-serving": _server_alerts(config)}


def alert_rules(config: Config) -> str:
    """Returns the rule file for Prometheus' `rule_files`."""
    lines = ["# Written by cmdcm monitor from the bounds of [monitor].", "groups:"]
    for group, rules in alerts(config).items():
        lines += [f"  - name: {group}", "    rules:"]
        for rule in rules:
            lines += [
                f"      - alert: {rule.name}",
                f"        expr: {_quoted(rule.expr)}",
                f"        for: {rule.wait}",
                f"        labels: {{severity: {rule.severity}}}",
                "        annotations:",
                f"          summary: {_quoted(rule.summary)}",
                f"          runbook: {_quoted(rule.runbook)}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Returns a text as a string of JSON, which is one of YAML, too."""
    return json.dumps(text, ensure_ascii=False)


def _model_alerts(config: Config) -> list[Alert]:
    c, m = config.monitor, "cmdcm_monitor"
    group = "{{ $labels.head }} where {{ $labels.by }} is {{ $labels.value }}"
    return [
        Alert(
            "CmdcmCalibrationOff",
            f'{m}_pcoc_lower{{by="all"}} > {c.max_pcoc:g} or '
            f'{m}_pcoc_upper{{by="all"}} < {c.min_pcoc:g}',
            "0m", "page", "PCOC of {{ $labels.head }} is off, with its whole interval",
        ),
        Alert(
            "CmdcmSliceCalibrationOff",
            f'{m}_pcoc_lower{{by!="all"}} > {c.slice_max_pcoc:g} or '
            f'{m}_pcoc_upper{{by!="all"}} < {c.slice_min_pcoc:g}',
            "0m", "ticket", f"PCOC of {group} is off, with its whole interval",
        ),
        Alert(
            "CmdcmInputDrift", f"{m}_input_psi > {c.max_input_psi:g}", "0m", "ticket",
            "{{ $labels.input }} is not as in training: PSI {{ $value }} above chance",
        ),
        Alert(
            "CmdcmScoreDrift", f"{m}_score_psi > {c.max_score_psi:g}", "0m", "page",
            "{{ $labels.output }} is not as in the reference: PSI {{ $value }} above chance",
        ),
        Alert(
            "CmdcmNullRate",
            f"{m}_null_rate - {m}_training_null_rate > {c.max_null_rate_rise:g}",
            "0m", "page", "{{ $labels.input }} is missing more often than in training",
        ),
        Alert(
            "CmdcmUnknownValues", f"{m}_oov_rate > {c.max_oov_rate:g}", "0m", "ticket",
            "{{ $labels.input }} has values that the model does not know",
        ),
        Alert(
            "CmdcmModelOld",
            f"{m}_model_age_seconds > {3600 * c.max_model_age_hours:g}", "0m", "ticket",
            "version {{ $labels.version }} answers traffic, {{ humanizeDuration $value }} old",
        ),
        Alert(
            "CmdcmRetrainUnwell",
            f'{m}_last_decision_timestamp_seconds{{outcome=~"{"|".join(UNWELL)}"}} > 0',
            "0m", "ticket", "the retraining job last ended {{ $labels.outcome }}",
        ),
        Alert(
            "CmdcmRetrainLate",
            f"time() - {m}_last_decision_timestamp_seconds > {3600 * c.max_decision_age_hours:g}",
            "0m", "ticket", "the retraining job decided nothing for {{ humanizeDuration $value }}",
        ),
        Alert(
            "CmdcmUnlabelledVersion",
            f'{m}_traffic_share{{label="none"}} > {c.max_unlabelled_share:g}', "0m", "page",
            "version {{ $labels.version }} answers traffic and has no label",
        ),
        Alert(
            "CmdcmRegistryDiffers", f"{m}_registry_faults > 0", "0m", "ticket",
            "the registry's aliases are not where the labels are",
        ),
        Alert(
            "CmdcmEventsLate",
            f"time() - {m}_last_event_timestamp_seconds > {3600 * c.max_event_age_hours:g}",
            "0m", "ticket", "no event for {{ humanizeDuration $value }}: labels do not arrive",
        ),
        Alert(
            "CmdcmRequestsLate",
            f"time() - {m}_last_request_timestamp_seconds > {3600 * c.max_request_age_hours:g}",
            "0m", "ticket", "no logged request for {{ humanizeDuration $value }}",
        ),
        Alert(
            "CmdcmMonitoringSilent",
            f"time() - {m}_last_run_timestamp_seconds > {3600 * c.max_silence_hours:g} or "
            f"absent({m}_last_run_timestamp_seconds)",
            "10m", "ticket", "cmdcm monitor does not run",
        ),
    ]  # fmt: skip


def _server_alerts(config: Config) -> list[Alert]:
    c, count = config.monitor, f"{_SERVING}:request_count"
    refused = 'status=~"RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED"'
    unknown = 'status=~"NOT_FOUND|INVALID_ARGUMENT"'
    queue_us = 10 * config.deploy.batch_timeout_micros

    def p99(metric: str, label: str) -> str:
        return (
            f"histogram_quantile(0.99, sum by ({label}, le) (rate({_SERVING}:{metric}_bucket[5m])))"
        )

    return [
        Alert(
            "CmdcmRequestsFail",
            f'sum by (model_name, status) (rate({count}{{status!="OK",model_name!=""}}[5m])) / '
            f"on (model_name) group_left () sum by (model_name) (rate({count}[5m])) > "
            f"{c.max_failed_share:g}",
            "2m", "page", "{{ $value | humanizePercentage }} are {{ $labels.status }}", SERVERS,
        ),
        Alert(
            "CmdcmCallsRefused",
            f'sum(rate({count}{{{refused},model_name=""}}[5m])) / sum(rate({count}[5m])) > '
            f"{c.max_failed_share:g}",
            "2m", "page", "{{ $value | humanizePercentage }} of all calls are refused", SERVERS,
        ),
        Alert(
            "CmdcmUnknownModel",
            f'sum by (status) (rate({count}{{{unknown},model_name=""}}[15m])) > 0',
            "15m", "ticket", "a caller asks for a model that is not here", SERVERS,
        ),
        Alert(
            "CmdcmServingSlow",
            f"{p99('request_latency', 'model_name')} > {1000 * c.max_latency_ms:g}",
            "5m", "page", "p99 is {{ $value }} microseconds", SERVERS,
        ),
        Alert(
            "CmdcmServingQueue",
            f"{p99('batching_session:queuing_latency', 'thread_pool_name')} > {queue_us:g}",
            "5m", "ticket", "requests wait {{ $value }} microseconds for a batch", SERVERS,
        ),
        Alert(
            "CmdcmLoadFailed",
            f'sum by (model_path) (increase({_LOADS}{{status!="success"}}[15m])) > 0',
            "0m", "page", "{{ $labels.model_path }} cannot be loaded", SERVERS,
        ),
        Alert(
            "CmdcmServingSilent",
            f"absent({count}) or sum by (model_name) (rate({count}[10m])) == 0",
            "10m", "page", "no request is answered", SERVERS,
        ),
    ]  # fmt: skip
