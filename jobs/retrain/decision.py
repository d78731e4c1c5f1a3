"""What came of a job: its outcome, its exit code, and the page and record that say why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import ExportError, RetrainError
from cmdcm.core.files import read_json, staged_file, write_json
from cmdcm.jobs.retrain.window import Window

DECISION = "decision.json"
PAGE = "decision.html"

EXIT_CODES = {
    "promoted": 0,
    "published": 0,
    "unchanged": 0,
    "stopped": 0,
    "refused": ExportError.exit_code,
    "held": RetrainError.exit_code,
    "frozen": RetrainError.exit_code,
    "late": RetrainError.exit_code,
}
"""Exit code of each outcome; a `failed` job has that of its error."""

FRESH = ("promoted", "published")
"""Outcomes after which a new model serves."""

FINAL = (*FRESH, "unchanged", "refused")
"""Outcomes that the same request has again, as long as nothing it depends on has changed."""


@dataclass(frozen=True)
class Decision:
    """What came of a job.

    Attributes:
        outcome: `promoted`; `published` (no servers to promote it on are configured); `unchanged`
            (nothing new is known: the serving model is this one); `refused` by the gate; `held`
            (somebody took this very model back); `frozen`; `late`; `failed`; or `stopped` at the
            step that was asked for.
        reason: Why, in a sentence.
        exit_code: For scripts.
        folder: Where decision.json and decision.html are.
        version: The published version, if there is one.
        record: What decision.json holds.
        reused: Whether an earlier run had decided.
    """

    outcome: str
    reason: str
    exit_code: int
    folder: Path
    version: int | None
    record: Mapping[str, Any] = field(repr=False)
    reused: bool = False


def decision_folder(config: Config, window: Window) -> Path:
    """Returns where the decision of a promotion and an as-of instant is kept."""
    instant = datetime.fromtimestamp(window.as_of_ms / 1000, UTC)
    name = f"{window.promotion.name}-{instant:%Y%m%dT%H%MZ}"
    return Path(config.retrain.work).resolve() / "decisions" / name


def decided(folder: Path, key: str, serving: Mapping[str, Any] | None) -> Decision | None:
    """Returns what an earlier run decided, if it would be decided so again.

    A roll-out counts while its model serves: after a roll-back it is no longer so.
    """
    if not (folder / DECISION).exists():
        return None
    record = read_json(folder / DECISION, "decision")
    final = record["outcome"] in FINAL or record["outcome"] == "stopped"
    now = serving and serving["identity"]
    as_then = [record["candidate"]]
    if record["outcome"] not in FRESH:
        as_then.append(record["serving"])
    if not final or record["key"] != key or now not in as_then:
        return None
    return _decision(record, folder, reused=True)


def decide(folder: Path, record: Mapping[str, Any]) -> Decision:
    """Writes a decision's record and page; the page of an earlier run is kept as `decision-N.html`.

    A second try often fails of something else, and the cause is on the page of the first.
    """
    # Loads matplotlib, which a run that finds its decision does not need.
    from cmdcm.jobs.retrain.page import page

    if (folder / PAGE).exists():
        number = len(list(folder.glob("decision-*.html"))) + 1
        (folder / PAGE).rename(folder / f"decision-{number}.html")
    with staged_file(folder / PAGE) as staging:
        staging.write_text(page(record), encoding="utf-8")
    with staged_file(folder / DECISION) as staging:  # last: with it all of this is done
        write_json(staging, dict(record))
    return _decision(record, folder)


def _decision(record: Mapping[str, Any], folder: Path, *, reused: bool = False) -> Decision:
    return Decision(
        record["outcome"],
        record["reason"],
        record["exit_code"],
        folder,
        record["version"],
        record,
        reused,
    )
