"""What the retraining job last decided: a model that serves does not tell whether the job ran."""

from datetime import datetime
from pathlib import Path
from typing import Any

from cmdcm.core.files import read_json
from cmdcm.jobs.retrain.decision import DECISION

UNWELL = ("failed", "refused", "late")
"""Outcomes that somebody should look into; `frozen` and `held` are meant."""


def last_decision(work: Path | None, now_ms: int) -> dict[str, Any] | None:
    """Returns a job's latest decision: `outcome`, `reason`, `promotion`, `time_ms`.

    A run that was asked to stop at a step decided nothing. None where there is no decision.

    Args:
        work: `retrain.work`; None where nobody retrains.
        now_ms: Later decisions are not looked at, UTC ms.
    """
    found = []
    for file in sorted((work / "decisions").glob(f"*/{DECISION}")) if work else ():
        record = read_json(file, "decision")
        time_ms = round(datetime.fromisoformat(record["decided"]).timestamp() * 1000)
        if record["outcome"] != "stopped" and time_ms <= now_ms:
            found.append(
                {
                    "outcome": record["outcome"],
                    "reason": record["reason"],
                    "promotion": record["window"]["promotion"],
                    "time_ms": time_ms,
                }
            )
    return max(found, key=lambda decision: decision["time_ms"], default=None)
