"""Where a version comes from: data, settings, code, measures, decisions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_json, read_manifest, sha256
from cmdcm.core.redaction import redact
from cmdcm.core.revision import code_revision
from cmdcm.features.plan import EXAMPLES
from cmdcm.model.mlflow_run import tracked_run
from cmdcm.model.trained import MODEL, load_history


@dataclass(frozen=True)
class Lineage:
    """What a version was made of; all of it is text, numbers, lists and tables of JSON.

    Attributes:
        model: Name of the network.
        data: By part of the split, `first` and `last` day, the number of `days`, and `rows`.
        examples: Directory of the examples.
        examples_sha256: SHA-256 of their manifest, which has that of every file; empty if it is
            not there any more.
        config: The configuration of the training.
        code_revision: Commit, or version of the package.
        metrics: By name; `validation/...` of the best epoch, `test/HEAD/METRIC` of an evaluation.
        parent: What the training was started from; empty for nothing.
        training_run: Run of the training in the same MLflow store; empty for none.
        promotion: Promotion that the version is for.
        as_of: Instant, ISO, after which nothing was known when it was made.
        decision: What the gate said, or another reason for it.
    """

    model: str
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: str = ""
    examples_sha256: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    code_revision: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parent: str = ""
    training_run: str = ""
    promotion: str = ""
    as_of: str = ""
    decision: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON can hold it, without credentials."""
        return dict(redact(asdict(self)))

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "Lineage":
        """Returns what `as_dict` gave; fields of a later version are passed over.

        Raises:
            DataError: It is no lineage.
        """
        if not isinstance(values, dict) or not isinstance(values.get("model"), str):
            raise DataError(f"{where} holds no lineage; was the version registered by cmdcm?")
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def lineage_of(
    trained: Path,
    *,
    evaluation: Mapping[str, Any] | None = None,
    evaluated_as: str = "",
    promotion: str = "",
    as_of: str = "",
    decision: Mapping[str, Any] | None = None,
) -> Lineage:
    """Returns the lineage of a trained model.

    Args:
        trained: `RUN/model`.
        evaluation: An evaluation that has the model.
        evaluated_as: The model's name in it; by default the network's, or its only one.
        promotion: Promotion that it is for.
        as_of: Instant after which nothing was known.
        decision: What the gate said.

    Raises:
        DataError: A file of the model is missing or malformed, or the evaluation lacks the model.
    """
    manifest = read_manifest(trained, MODEL)
    config = Config.load(trained / "config.json")
    examples = Path(manifest["examples"])
    checksum = ""
    if examples.is_dir():
        read_manifest(examples, EXAMPLES)
        checksum = sha256(examples / "manifest.json")
    data = {
        part: {
            "first": days[0],
            "last": days[-1],
            "days": len(days),
            **({"rows": manifest["rows"][part]} if part in manifest["rows"] else {}),
        }
        for part, days in manifest["split"].items()
        if days
    }
    metrics = _best_epoch(trained)
    if evaluation is not None:
        metrics |= _test_metrics(evaluation, evaluated_as or config.model.name)
    return Lineage(
        model=config.model.name,
        data=data,
        examples=str(examples),
        examples_sha256=checksum,
        config=config.model_dump(mode="json"),
        code_revision=code_revision(),
        metrics=metrics,
        parent=config.training.warm_start,
        training_run=tracked_run(trained.parent, config.tracking.uri) or "",
        promotion=promotion,
        as_of=as_of,
        decision=dict(decision or {}),
    )


def read_lineage(path: Path) -> Lineage:
    """Reads a lineage from a file."""
    return Lineage.from_dict(read_json(path, "lineage"), str(path))


def _best_epoch(trained: Path) -> dict[str, float]:
    best = min(load_history(trained), key=lambda record: record["val_log_loss_conversion"])
    prefix = "val_"
    return {
        f"validation/{name.removeprefix(prefix)}": value
        for name, value in best.items()
        if name.startswith(prefix) and value == value
    }


def _test_metrics(evaluation: Mapping[str, Any], name: str) -> dict[str, float]:
    models = evaluation["models"]
    if name not in models:
        if len(models) > 1:
            raise DataError(f"the evaluation has no model {name!r}; it has {sorted(models)}")
        name = next(iter(models))
    return {
        f"test/{head}/{metric}": float(interval["estimate"])
        for head, values in models[name]["heads"].items()
        for metric, interval in values["metrics"].items()
        if interval.get("estimate") is not None
    }
