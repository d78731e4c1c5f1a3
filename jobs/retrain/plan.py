"""The steps of the job in order, and what else than inputs and settings determines each."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmdcm.core.config import ModelConfig
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import sha256
from cmdcm.core.locations import location
from cmdcm.jobs.retrain.snapshot import source_fingerprint
from cmdcm.jobs.retrain.steps import Context, Step, names

REFRESH = "refresh"
"""The step of delayed-feedback models alone."""

STEPS = (
    Step("snapshot", (), (), "cmdcm.jobs.retrain.step_snapshot", version=2),
    Step("check", ("snapshot",), ("calendar", "retrain"), "cmdcm.jobs.retrain.step_check"),
    Step(
        "features",
        ("snapshot", "check"),
        ("calendar", "labels", "features", "split"),  # says how its days are split
        "cmdcm.jobs.retrain.step_features",
    ),
    Step(
        "validate",
        ("features",),
        ("validation", "split"),
        "cmdcm.jobs.retrain.step_validate",
    ),
    Step(
        "train",
        ("features",),  # what `validate` finds is for the gate, and changes no weight
        ("seed", "model", "tables", "training", "calibration", "split"),
        "cmdcm.jobs.retrain.step_train",
    ),
    Step(
        REFRESH,
        ("snapshot", "features", "train"),
        ("seed", "model", "training", "stream", "calendar", "labels", "features"),
        "cmdcm.jobs.retrain.step_refresh",
    ),
    Step(
        "evaluate",
        ("features", "train", REFRESH),
        ("seed", "evaluation", "split"),
        "cmdcm.jobs.retrain.step_evaluate",
    ),
    Step(
        "gate",
        ("features", "validate", "train", REFRESH, "evaluate"),
        ("seed", "evaluation", "gate", "export", "split"),
        "cmdcm.jobs.retrain.step_gate",
    ),
    Step(
        "export",
        ("features", "train", REFRESH, "evaluate", "gate"),
        ("export",),
        "cmdcm.jobs.retrain.step_export",
        effect=True,
    ),
    Step("infra", ("export",), ("export", "rollout"), "cmdcm.jobs.retrain.step_infra"),
    Step(
        "register",
        ("export", "infra", "gate", "train", REFRESH, "features"),
        ("rollout",),  # whether there is a registry
        "cmdcm.jobs.retrain.step_register",
        effect=True,
    ),
    Step("canary", ("register",), ("rollout",), "cmdcm.jobs.retrain.step_canary", effect=True),
    Step("promote", ("canary",), ("rollout",), "cmdcm.jobs.retrain.step_promote", effect=True),
)
"""The steps, each after those that it needs."""


def steps_of(model: ModelConfig) -> tuple[Step, ...]:
    """Returns the steps of a model's job: `refresh` for delayed-feedback models alone."""
    if model.delayed_feedback:
        return STEPS
    return tuple(
        replace(step, needs=tuple(name for name in step.needs if name != REFRESH))
        for step in STEPS
        if step.name != REFRESH
    )


def until(name: str, model: ModelConfig) -> tuple[Step, ...]:
    """Returns the steps of a model's job up to one, all of them for an empty name."""
    steps = steps_of(model)
    if not name:
        return steps
    if name not in names(steps):
        raise ConfigError(
            f"--until {name}: there is no such step for {model.name}; there are {names(steps)}"
        )
    return steps[: names(steps).index(name) + 1]


def extra(step: Step, context: Context) -> dict[str, Any]:
    """Returns what else determines a step's result."""
    config, window = context.config, context.window
    values: Mapping[str, Any]
    match step.name:
        case "snapshot":
            values = {
                "source": source_fingerprint(location(config.retrain.events), window.last_day),
                "as_of_ms": window.as_of_ms,
                "timezone": window.calendar.timezone,
            }
        case "check":
            values = {"last_day": window.last_day}
        case "features":
            values = module_files(config.features.modules)
        case "validate":
            against = context.serving and context.serving["features"]
            same = against == context.done["features"].digest
            replay = request_logs(config.retrain.replay)
            missing = [file for file, stamp in replay.items() if stamp is None]
            if missing:
                raise ConfigError(
                    f"retrain.replay: {missing[0]} is no file. Name TFRecords of PredictionLog "
                    "that the server logged, or leave it empty to compare the canary on its "
                    "warm-up requests"
                )
            values = {"against": None if same else against, "requests": list(replay.values())}
        case "train":
            values = {"base": context.base and context.base["identity"]}
        case "refresh":
            values = {"as_of_ms": window.as_of_ms, **module_files(config.features.modules)}
        case "evaluate" | "gate":
            values = {
                "serving": context.serving and context.serving["identity"],
                "columns": list(config.gate.slice_columns),
            }
        case "export" | "register":
            values = {"output": config.retrain.output, "registry": config.tracking.uri}
        case "canary" | "promote":
            values = {
                "targets": list(config.retrain.targets),
                "from": context.serving and context.serving["identity"],
            }
        case _:
            values = {}
    return dict(values)


def request_logs(files: Sequence[str]) -> dict[str, list[int] | None]:
    """Returns size and time of change of request logs, None for one that is not there.

    A day's log is too large to read to look for changes.
    """
    found: dict[str, list[int] | None] = {}
    for file in files:
        stat = Path(file).stat() if Path(file).is_file() else None
        found[file] = stat and [stat.st_size, stat.st_mtime_ns]
    return found


def module_files(names: Sequence[str]) -> dict[str, str]:
    """Returns the SHA-256 of the files of modules with features of one's own.

    What a module imports does not count. What is missing is left out: its step tells.
    """
    found = {}
    for name in names:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # no parent of a dotted name, which is imported for it
            continue
        if spec is not None and spec.has_location and spec.origin:
            found[name] = sha256(Path(spec.origin))
    return found
