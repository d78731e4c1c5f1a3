"""The gate: whether a trained model may be published, and why (docs/gate.md).

A model is compared with fixed bounds and, where one serves, with the serving model on the same test
clicks. Every check leaves a verdict with its figures; one that failed refuses the model. A person
may override a refusal by name and with a reason, and both stay with the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError, ExportError
from cmdcm.core.files import MANIFEST, read_json, sha256
from cmdcm.export.gate_quality import Quality
from cmdcm.export.gate_verdicts import Verdict
from cmdcm.model.bootstrap import UserBootstrap
from cmdcm.model.predictions import check_predictions

KIND = "gate"
GATE_FILE = "gate.json"


def gate(
    candidate: pl.DataFrame,
    serving: pl.DataFrame | None,
    config: Config,
    *,
    propensity_clip: float = 0.03,
    cost: Sequence[Verdict] = (),
    validation: Mapping[str, Any] | None = None,
    incomparable: str = "",
) -> dict[str, Any]:
    """Judges a candidate.

    Args:
        candidate: Its predictions on the test clicks, with the columns to slice by.
        serving: The serving model's on the same clicks; None on the first run, when the bounds of
            values alone apply.
        config: Its sections `gate` and `evaluation` (bootstrap), and the seed.
        propensity_clip: Lower bound of P(arm | x) in the candidate's weights.
        cost: Verdicts on size and speed.
        validation: A validation.json of the examples: skew and drift.
        incomparable: Why the serving model cannot be compared with, empty if it can.

    Returns:
        What gate.json holds: `accepted`, `first_run`, `reasons` (of the failed checks), `warnings`,
        `verdicts`, and the settings.

    Raises:
        DataError: Predictions that `check_predictions` refuses.
    """
    models = {"candidate": candidate} | ({} if serving is None else {"serving": serving})
    check_predictions(models)
    settings = config.evaluation
    boot = UserBootstrap(
        candidate["user_id"].to_numpy(), settings.bootstrap, config.seed, settings.confidence
    )
    quality = Quality(candidate, serving, config.gate, boot, propensity_clip)
    found = [*quality.verdicts(), *cost, *_validation(validation)]
    if incomparable:
        found.append(Verdict("serving_model", "fail", incomparable))
    elif serving is None:
        found.append(
            Verdict("serving_model", "skipped", "no serving model: bounds of values alone apply")
        )
    failed = [v.reason for v in found if v.outcome == "fail"]
    return {
        "kind": KIND,
        "accepted": not failed,
        "first_run": serving is None and not incomparable,
        "override": None,
        "reasons": failed,
        "warnings": [v.reason for v in found if v.outcome == "warn"],
        "verdicts": [v.to_json() for v in found],
        "data": {
            "rows": len(candidate),
            "users": boot.users,
            "first_day": str(candidate["day"].min()),
            "last_day": str(candidate["day"].max()),
            "promotions": candidate["promotion"].unique().sort().to_list(),
        },
        "settings": {
            "gate": config.gate.model_dump(mode="json"),
            "bootstrap": settings.bootstrap,
            "confidence": settings.confidence,
            "seed": config.seed,
        },
    }


def override(result: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
    """Accepts a refused model in a person's name.

    Raises:
        ExportError: The name or the reason is missing.
    """
    if not by.strip() or not reason.strip():
        raise ExportError("to override the gate give a name and a reason: --by NAME --reason TEXT")
    if result["accepted"]:
        return dict(result)
    return {**result, "accepted": True, "override": {"by": by, "reason": reason}}


def identity(model: Path) -> str:
    """Returns what tells a trained model's directory from others: the digest of its manifest."""
    return sha256(model / MANIFEST)


def load_gate(directory: Path) -> dict[str, Any]:
    """Reads what `cmdcm gate` wrote.

    Raises:
        DataError: It is missing or something else.
    """
    value = read_json(directory / GATE_FILE, "the gate's result")
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise DataError(f"{directory / GATE_FILE} does not hold a gate's result")
    return value


def check_accepted(result: Mapping[str, Any], model: Path) -> None:
    """Refuses to publish a model that the gate has not accepted.

    Raises:
        ExportError: It was refused, or another model was judged.
    """
    if result.get("model") != identity(model):
        raise ExportError(f"the gate judged another model than {model}; run cmdcm gate on it")
    if not result["accepted"]:
        raise ExportError(
            f"the gate refused {model}: {'; '.join(result['reasons'][:5])}; not published"
        )


def _validation(validation: Mapping[str, Any] | None) -> Iterator[Verdict]:
    """The verdicts of the examples' validation: drift, skew, maturity, leakage, schema."""
    if validation is None:
        yield Verdict("validation", "skipped", "the examples were not validated")
        return
    for anomaly in validation["anomalies"]:
        yield Verdict(
            f"validation: {anomaly['code']}",
            "fail" if anomaly["severity"] == "error" else "warn",
            anomaly["message"],
            slice=anomaly.get("feature") or "",
            estimate=_number(anomaly.get("value")),
            maximum=_number(anomaly.get("bound")),
        )
    for name, source in (("drift", "against"), ("skew", "requests")):
        if not validation[source]:
            yield Verdict(name, "skipped", f"{name} was not measured: nothing to compare with")
        elif all(anomaly["source"] != source for anomaly in validation["anomalies"]):
            yield Verdict(name, "pass", f"{name} is within the bounds of [validation]")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
