"""A Grafana dashboard of the monitoring and of the servers, as JSON to import."""

from typing import Any

from cmdcm.core.config import Config

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
_M, _SERVING = "cmdcm_monitor", ":tensorflow:serving"


def dashboard(config: Config) -> dict[str, Any]:
    """Returns the dashboard: a panel a question, with the bounds of `[monitor]` as thresholds."""
    c = config.monitor
    p99 = "histogram_quantile({0}, sum by (le) (rate({1}:request_latency_bucket[5m])))"
    panels = [
        _panel("Alerts that the last run fired", f"{_M}_findings", "{{alert}}"),
        _panel("PCOC", f'{_M}_pcoc{{by="all"}}', "{{head}}", limits=(c.min_pcoc, c.max_pcoc)),
        _panel(
            "PCOC by slice", f'{_M}_pcoc{{by!="all"}}', "{{head}} {{by}}={{value}}",
            limits=(c.slice_min_pcoc, c.slice_max_pcoc),
        ),
        _panel("Log loss", f'{_M}_log_loss{{by="all"}}', "{{head}}"),
        _panel("Scores whose label is known", f'{_M}_labelled_rows{{by="all"}}', "{{head}}"),
        _panel("Mean score", f"{_M}_score_mean", "{{output}} version {{version}}"),
        _panel("Score PSI", f"{_M}_score_psi", "{{output}}", limits=(None, c.max_score_psi)),
        _panel(
            "Input PSI", f"topk(10, {_M}_input_psi)", "{{input}}", limits=(None, c.max_input_psi)
        ),
        _panel(
            "Null rate above training's", f"topk(10, {_M}_null_rate - {_M}_training_null_rate)",
            "{{input}}", "percentunit", (None, c.max_null_rate_rise),
        ),
        _panel(
            "Values not in the vocabulary", f"{_M}_oov_rate", "{{input}}", "percentunit",
            (None, c.max_oov_rate),
        ),
        _panel(
            "Traffic by version", f"{_M}_traffic_share", "version {{version}} ({{label}})",
            "percentunit",
        ),
        _panel(
            "Age of the versions", f"{_M}_model_age_seconds", "version {{version}}", "s",
            (None, 3600 * c.max_model_age_hours),
        ),
        _panel("Age of the events", f"time() - {_M}_last_event_timestamp_seconds", "events", "s"),
        _panel("Registry faults", f"{_M}_registry_faults", "faults", limits=(None, 0.5)),
        _panel(
            "Requests", f"sum by (status) (rate({_SERVING}:request_count[5m]))", "{{status}}",
            "reqps",
        ),
        _panel(
            "Latency", p99.format(0.99, _SERVING), "p99", "µs", (None, 1000 * c.max_latency_ms),
        ),
    ]  # fmt: skip
    for number, panel in enumerate(panels):
        x, y = number * _WIDTH % _COLUMNS, number * _WIDTH // _COLUMNS * _HEIGHT
        panel |= {"id": number + 1, "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y}}
    return {
        "uid": "cmdcm",
        "title": "cmdcm",
        "tags": ["cmdcm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": panels,
    }


def _panel(
    title: str,
    expr: str,
    legend: str,
    unit: str = "short",
    limits: tuple[float | None, float] | None = None,
) -> dict[str, Any]:
    """Returns a panel of one query; what is outside the limits is drawn on red."""
    defaults: dict[str, Any] = {"unit": unit}
    if limits:
        low, high = limits
        steps: list[dict[str, Any]] = [
            {"color": "red" if low is not None else "green", "value": None}
        ]
        if low is not None:
            steps.append({"color": "green", "value": low})
        defaults["thresholds"] = {
            "mode": "absolute", "steps": [*steps, {"color": "red", "value": high}],
        }  # fmt: skip
        defaults["custom"] = {"thresholdsStyle": {"mode": "area"}}
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": expr, "legendFormat": legend}],
    }
