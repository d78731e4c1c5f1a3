"""Small logs, fake steps and a clock, so that the job's control flow is tested in milliseconds."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import ServingError
from cmdcm.jobs.retrain import plan, steps
from cmdcm.jobs.retrain.served import adopt, write_lineage

PROMOTION, AS_OF = "b-2024", "2024-06-10"
CALENDAR: dict[str, Any] = {
    "calendar": {
        "timezone": "Asia/Shanghai",
        "promotions": [
            {
                "name": name,
                "kind": "own",
                "warmup_start": f"{month}-01",
                "pre_promotion_start": f"{month}-05",
                "promotion_start": f"{month}-20",
                "promotion_end": f"{month}-21",
            }
            for name, month in (("a-2024", "2024-03"), (PROMOTION, "2024-06"))
        ],
    }
}


def events(rows: list[tuple[str, str, str, str]]) -> pa.Table:
    """Events of (user, item, kind, UTC time), as one's own Parquet holds them."""
    users, items, kinds, times = zip(*rows, strict=True)
    stamps = [datetime.fromisoformat(t).replace(tzinfo=UTC) for t in times]
    return pa.table(
        {
            "user_id": pa.array(users),
            "item_id": pa.array(items),
            "kind": pa.array(kinds),
            "timestamp": pa.array(stamps, pa.timestamp("ms", tz="UTC")),
        }
    )


def config_of(folder: Path, **retrain: Any) -> Config:
    """A configuration whose source and results are in a folder."""
    source = folder / "source.parquet"
    if not source.exists():
        pq.write_table(events([("u", "i", "click", "2024-06-01T00:00")]), source)
    places = {"events": str(source), "work": str(folder / "work"), "output": str(folder / "served")}
    config = load_config()
    calendar = config.calendar.model_validate(CALENDAR["calendar"])
    settings = config.retrain.model_copy(update={**places, **retrain})
    return config.model_copy(update={"calendar": calendar, "retrain": settings})


class Clock:
    """A clock that tests set."""

    def __init__(self, instant: str = "2024-06-10T01:00") -> None:
        self.now = datetime.fromisoformat(instant).replace(tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeSteps:
    """Stands in for the steps' modules: counts runs, and does what tests say.

    Attributes:
        ran: Names of the steps that ran, in order.
        hooks: Step -> called before its summary is made; may raise.
        model: Digest of the trained model.
        refreshed: Digest of the refreshed model, of which there is one for some models alone.
        features: Digest of the examples.
        accepted: What the gate says.
    """

    ran: list[str] = field(default_factory=list)
    hooks: dict[str, Any] = field(default_factory=dict)
    model: str = "model-1"
    refreshed: str = ""
    features: str = "features-1"
    accepted: bool = True

    def install(self, monkeypatch: Any) -> "FakeSteps":
        def load(name: str) -> SimpleNamespace:
            step = name.rpartition("step_")[2]
            return SimpleNamespace(run=lambda context, output: self.run(step, context, output))

        monkeypatch.setattr(steps, "importlib", SimpleNamespace(import_module=load))
        return self

    def run(self, step: str, context: Any, output: Path) -> dict[str, Any]:
        self.ran.append(step)
        if step in self.hooks:
            self.hooks[step](context, output)
        interval = {"estimate": 0.5, "lower": 0.4, "upper": 0.6}
        summaries: dict[str, dict[str, Any]] = {
            "features": {
                "digest": self.features,
                "split": {p: ["2024-03-05", "2024-03-19"] for p in ("train", "validation", "test")},
            },
            "train": {"digest": self.model},
            "refresh": {"digest": self.refreshed},
            "evaluate": {
                "digest": self.model,
                "rows": 10,
                "metrics": {"auc": interval},
                "against_serving": {"auc": interval} if context.serving else {},
            },
            "gate": {
                "digest": f"{self.model}{self.accepted}",
                "accepted": self.accepted,
                "reasons": [] if self.accepted else ["pcoc conversion is 2"],
            },
        }
        summary = summaries.get(step, {"digest": step})
        if step in ("export", "register", "promote"):
            model = context.candidate.digest
            number = int(model.rpartition("-")[2])
            summary = {"digest": f"{model}/{number}", "version": number}
            known = {
                "version": number,
                "model": "nowhere",
                "identity": model,
                "trained": {"model": "trained", "identity": self.model},
                "features": self.features,
                "examples": "nowhere",
                "base": dict(context.base) if context.base else None,
                "promotion": context.window.promotion.name,
                "as_of": context.window.observed_until(),
            }
            if step == "register":
                write_lineage(context.work, known)
            if step == "promote":
                context.check()
                adopt(context.work, known)
        return summary


def down(context: Any, output: Path) -> None:
    """A hook: the servers cannot be reached."""
    raise ServingError("127.0.0.1:1 cannot be reached")


ALL = steps.names(plan.steps_of(load_config().model))


def kinds_of(path: Path) -> pl.DataFrame:
    """The events of a snapshot."""
    return pl.read_parquet(path / "*.parquet")
