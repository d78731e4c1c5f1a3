"""The model card (Mitchell et al., FAT* 2019) of an export, as Markdown."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import cmdcm
from cmdcm.core.config import Config
from cmdcm.features.columns import labels_of
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.base import OUTPUTS, RankingModel

MODEL_CARD_FILE = "assets.extra/model_card.md"
TEMPLATES = Path(__file__).parent / "templates"


def model_card(
    model: RankingModel,
    config: Config,
    data: ExampleSet,
    evaluation: Mapping[str, Any] | None,
    differences: Mapping[str, float],
    checked: int,
) -> str:
    """Returns the card; it depends on the arguments alone, and says nothing of when or where.

    Args:
        model: The model.
        config: The export's configuration, with the model's and the training's settings.
        data: The examples that it was trained on.
        evaluation: An `evaluation.json` that has the model, if there is one.
        differences: Largest difference of each output to the model's.
        checked: Validation rows that they were measured on.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701 - Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("model_card.md.j2").render(
        config=config,
        version=cmdcm.__version__,
        promotions=sorted({day["promotion"] for day in data.manifest["days"].values()}),
        timezone=data.calendar.timezone,
        labels=labels_of(data.spec),
        parts=[_part(data, name) for name in ("train", "validation", "test")],
        note=data.split.note,
        **model.describe(),
        heads=_metrics(evaluation, config.model.name),
        calibration=model.calibration,
        outputs={name: unit for name, unit in OUTPUTS.items() if name in differences},
        bounds={name: _next_power_of_ten(value) for name, value in differences.items()},
        checked=checked,
    )


def _part(data: ExampleSet, name: str) -> dict[str, Any]:
    days = getattr(data.split, name)
    rows = data.total(name)
    return {
        "name": name,
        "first": days[0],
        "last": days[-1],
        "days": len(days),
        "rows": rows,
        "rates": {label: data.total(name, label) / max(rows, 1) for label in labels_of(data.spec)},
    }


def _metrics(evaluation: Mapping[str, Any] | None, model: str) -> list[dict[str, str]]:
    """The rows of the metrics' table: those of the model of this name, or of the only one."""
    models = (evaluation or {}).get("models", {})
    own = models.get(model) or (next(iter(models.values())) if len(models) == 1 else {})
    return [
        {"output": output, "metric": metric, **_interval(value)}
        for output, head in own.get("heads", {}).items()
        for metric, value in (head.get("metrics") or {}).items()
        if value is not None
    ]


def _interval(value: Any) -> dict[str, str]:
    values = value if isinstance(value, Mapping) else {"estimate": value}
    return {
        key: "" if values.get(key) is None else f"{values[key]:.5f}"
        for key in ("estimate", "lower", "upper")
    }


def _next_power_of_ten(value: float) -> float:
    """The digits of a rounding error differ from run to run; equal exports have equal cards."""
    return 10.0 ** math.ceil(math.log10(value)) if value > 0 else 0.0
