"""The result as Prometheus metrics: as a registry, and as text for the node exporter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cmdcm.core.files import staged_file

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cmdcm_monitor_last_run_timestamp_seconds": ("When the monitoring last ran.", ()),
    "cmdcm_monitor_requests": ("Logged requests that were read.", ()),
    "cmdcm_monitor_rows": ("Scored candidates in them.", ()),
    "cmdcm_monitor_matched_clicks": ("Clicks that have a score.", ()),
    "cmdcm_monitor_last_request_timestamp_seconds": ("The last logged request.", ()),
    "cmdcm_monitor_last_event_timestamp_seconds": ("The last event of the log.", ()),
    "cmdcm_monitor_pcoc": ("Predicted over observed.", ("head", "by", "value")),
    "cmdcm_monitor_pcoc_lower": ("Lower bound of its interval.", ("head", "by", "value")),
    "cmdcm_monitor_pcoc_upper": ("Upper bound of its interval.", ("head", "by", "value")),
    "cmdcm_monitor_log_loss": ("Mean log loss in nats.", ("head", "by", "value")),
    "cmdcm_monitor_labelled_rows": ("Scores whose label is known.", ("head", "by", "value")),
    "cmdcm_monitor_score_mean": ("Mean score.", ("output", "version")),
    "cmdcm_monitor_score_psi": ("PSI against the reference, above chance.", ("output",)),
    "cmdcm_monitor_input_psi": ("PSI against the training data, above chance.", ("input",)),
    "cmdcm_monitor_null_rate": ("Share of values that are missing.", ("input",)),
    "cmdcm_monitor_training_null_rate": ("The same in the training data.", ("input",)),
    "cmdcm_monitor_oov_rate": ("Share of values not in the vocabulary.", ("input",)),
    "cmdcm_monitor_traffic_share": ("Share of the scores.", ("version", "label")),
    "cmdcm_monitor_model_age_seconds": ("Since the version was published.", ("version",)),
    "cmdcm_monitor_last_decision_timestamp_seconds": ("The retraining job's last.", ("outcome",)),
    "cmdcm_monitor_registry_faults": ("Differences of aliases and labels.", ()),
    "cmdcm_monitor_findings": ("Alerts that the last run fired.", ("alert",)),
}
"""Name -> what it is, and its labels; each has the label `model` besides. Those of hours are not
among the values of `by`: they would be series without an end."""


def metrics_of(result: Mapping[str, Any]) -> CollectorRegistry:
    """Returns the metrics."""
    registry = CollectorRegistry()
    gauges = {
        name: Gauge(name, text, ("model", *labels), registry=registry)
        for name, (text, labels) in METRICS.items()
    }

    def put(name: str, value: float | None, *labels: object) -> None:
        if value is not None:
            gauges[f"cmdcm_monitor_{name}"].labels(result["model"], *map(str, labels)).set(value)

    def seconds(time_ms: int | None) -> float | None:
        return None if time_ms is None else time_ms / 1000

    put("last_run_timestamp_seconds", seconds(result["now_ms"]))
    put("requests", result["requests"])
    put("rows", result["rows"])
    put("matched_clicks", result["matched"])
    put("last_request_timestamp_seconds", seconds(result["last_request_ms"]))
    put("last_event_timestamp_seconds", seconds(result["last_event_ms"]))
    for group in result["calibration"]:
        if group["by"] == "hour":
            continue
        labels = group["head"], group["by"], group["value"]
        put("pcoc", group["pcoc"], *labels)
        put("pcoc_lower", group["lower"], *labels)
        put("pcoc_upper", group["upper"], *labels)
        put("log_loss", group["log_loss"], *labels)
        put("labelled_rows", group["rows"], *labels)
    for entry in result["means"]:
        put("score_mean", entry["mean"], entry["output"], entry["version"])
    for entry in result["score_drift"]:
        put("score_psi", entry["psi"], entry["output"])
    for entry in result["input_drift"]:
        put("input_psi", entry["psi"], entry["name"])
    for entry in result["inputs"]:
        put("null_rate", entry["null_rate"], entry["name"])
        put("training_null_rate", entry["training_null_rate"], entry["name"])
        put("oov_rate", entry["oov_rate"], entry["name"])
    for entry in result["versions"]:
        label = "unknown" if entry["labels"] is None else ",".join(entry["labels"]) or "none"
        put("traffic_share", entry["share"], entry["version"], label)
        put("model_age_seconds", entry["age_seconds"], entry["version"])
    if decision := result["retraining"]:
        put("last_decision_timestamp_seconds", seconds(decision["time_ms"]), decision["outcome"])
    if result["registry_faults"] is not None:
        put("registry_faults", len(result["registry_faults"]))
    counts: dict[str, int] = {}
    for finding in result["findings"]:
        counts[finding["alert"]] = counts.get(finding["alert"], 0) + 1
    for alert, count in counts.items():
        put("findings", count, alert)
    return registry


def metrics_page(result: Mapping[str, Any]) -> bytes:
    """Returns the metrics in Prometheus' text format."""
    return generate_latest(metrics_of(result))


def write_textfile(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the metrics where the node exporter's textfile collector reads them, at once."""
    with staged_file(path) as staging:
        staging.write_bytes(metrics_page(result))
