"""What is wrong, by the bounds of `[monitor]`: the same conditions as the alert rules have."""

from collections.abc import Iterator, Mapping
from typing import Any

from cmdcm.core.config import MonitorConfig
from cmdcm.jobs.monitor.calibration import ALL
from cmdcm.jobs.monitor.retraining import UNWELL

_HOUR_MS = 3_600_000


def findings(result: Mapping[str, Any], settings: MonitorConfig) -> list[dict[str, str]]:
    """Returns the alerts that a result fires, each with a text that says where and how much.

    Args:
        result: What `monitor` measured.
        settings: The bounds.
    """
    made = (_calibration, _scores, _inputs, _versions, _retraining, _times, _drift)
    return [
        {"alert": alert, "text": text} for part in made for alert, text in part(result, settings)
    ]


def _calibration(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    for group in result["calibration"]:
        whole = group["by"] == ALL
        low, high = (c.min_pcoc, c.max_pcoc) if whole else (c.slice_min_pcoc, c.slice_max_pcoc)
        least, most = group["lower"], group["upper"]
        if least <= high and (most is None or most >= low):
            continue
        place = "" if whole else f" where {group['by']} is {group['value']}"
        yield (
            "CmdcmCalibrationOff" if whole else "CmdcmSliceCalibrationOff",
            f"PCOC of {group['head']}{place} is {_ratio(group['pcoc'])} ({least:.2f} to "
            f"{_ratio(most)}), and should be from {low:g} to {high:g}",
        )


def _ratio(value: float | None) -> str:
    """Formats a ratio to what happened, of which there may be nothing."""
    return "infinite" if value is None else f"{value:.2f}"


def _scores(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    for entry in result["score_drift"]:
        if entry["psi"] > c.max_score_psi:
            yield "CmdcmScoreDrift", f"PSI of {entry['output']} is {entry['psi']:.2f} above chance"


def _drift(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    """One finding an input, whatever parts of it drift; the largest comes first."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for entry in result["input_drift"]:
        if entry["psi"] > c.max_input_psi:
            parts.setdefault(entry["name"].partition("[")[0], []).append(entry)
    for drifted in parts.values():
        more = f", and that of {len(drifted) - 1} other parts too much" if drifted[1:] else ""
        psi = f"PSI of {drifted[0]['name']} is {drifted[0]['psi']:.2f} above chance"
        yield "CmdcmInputDrift", f"{psi}{more}"


def _inputs(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    for entry in result["inputs"]:
        if entry["null_rate"] - entry["training_null_rate"] > c.max_null_rate_rise:
            yield (
                "CmdcmNullRate",
                f"{entry['name']} is missing in {entry['null_rate']:.1%}, and in "
                f"{entry['training_null_rate']:.1%} of the training data",
            )
        if entry["oov_rate"] is not None and entry["oov_rate"] > c.max_oov_rate:
            yield (
                "CmdcmUnknownValues",
                f"{entry['oov_rate']:.1%} of {entry['name']} are not in its vocabulary",
            )


def _versions(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    for entry in result["versions"]:
        age = entry["age_seconds"]
        if age is not None and age > 3600 * c.max_model_age_hours:
            yield "CmdcmModelOld", f"version {entry['version']} is {age / 3600:.0f} hours old"
        if entry["labels"] == [] and entry["share"] > c.max_unlabelled_share:
            yield (
                "CmdcmUnlabelledVersion",
                f"version {entry['version']} answers {entry['share']:.1%} and has no label",
            )
    for fault in result["registry_faults"] or ():
        yield "CmdcmRegistryDiffers", fault


def _retraining(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    decision = result["retraining"]
    if decision is None:
        return
    if decision["outcome"] in UNWELL:
        yield "CmdcmRetrainUnwell", f"the job ended {decision['outcome']}: {decision['reason']}"
    age = (result["now_ms"] - decision["time_ms"]) / _HOUR_MS
    if age > c.max_decision_age_hours:
        yield "CmdcmRetrainLate", f"the job last decided {age:.1f} hours ago"


def _times(result: Mapping[str, Any], c: MonitorConfig) -> Iterator[tuple[str, str]]:
    for alert, what, name, hours in (
        ("CmdcmEventsLate", "event", "last_event_ms", c.max_event_age_hours),
        ("CmdcmRequestsLate", "logged request", "last_request_ms", c.max_request_age_hours),
    ):
        if result[name] is not None:
            age = (result["now_ms"] - result[name]) / _HOUR_MS
            if age > hours:
                yield alert, f"the last {what} is {age:.1f} hours old"
