"""Published versions and trained models, as the registry sees them."""

from collections.abc import Mapping
from pathlib import Path

from cmdcm.core.config import Config, load_config
from cmdcm.core.files import write_json, write_manifest

DAYS = ["2024-10-20", "2024-10-21", "2024-10-22"]


def export(base: Path, number: int, content: str = "graph") -> Path:
    """Writes a version that has a manifest and no model."""
    folder = base / str(number)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text(content)
    write_manifest(folder, {"kind": "export", "model": "cmdcm"})
    return folder


def trained(output: Path, loss: float = 0.125, overrides: tuple[str, ...] = ()) -> Path:
    """Writes a trained model that has no weights, and the manifest of its examples."""
    examples = output / "examples"
    examples.mkdir(parents=True)
    write_manifest(examples, {"kind": "examples", "days": {}})
    model = output / "run" / "model"
    model.mkdir(parents=True)
    config: Config = load_config(overrides=overrides)
    config.save(model / "config.json")
    history = [
        {"epoch": 1.0, "loss": 0.3, "val_log_loss_conversion": loss, "val_auc_direct": 0.75},
        {"epoch": 2.0, "loss": 0.2, "val_log_loss_conversion": loss + 0.1, "val_auc_direct": 0.8},
    ]
    write_json(model / "history.json", history)
    write_manifest(
        model,
        {
            "kind": "model",
            "name": "cmdcm",
            "split": {"train": DAYS[:2], "validation": DAYS[2:], "test": []},
            "rows": {"train": 20, "validation": 10},
            "examples": str(examples),
        },
    )
    return model


def evaluation(metrics: Mapping[str, float | None], name: str = "cmdcm") -> dict:
    values = {metric: {"estimate": value} for metric, value in metrics.items()}
    return {"models": {name: {"heads": {"conversion": {"metrics": values}}}}}
