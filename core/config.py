"""Contract 5, the configuration: typed, frozen, validated at construction.

One TOML file configures a whole run; each table of it is one class of `cmdcm.core.settings`. A
named preset (`core/presets/NAME.toml`) gives the start, a file overrides it, `--set key=value`
overrides both. Every artefact carries the configuration that made it as `config.json`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError

from cmdcm.core.errors import ConfigError
from cmdcm.core.files import read_json, write_json
from cmdcm.core.settings.base import Section
from cmdcm.core.settings.data import (
    CalendarConfig,
    EventsConfig,
    FeaturesConfig,
    LabelsConfig,
    PromotionConfig,
    SplitConfig,
    ValidationConfig,
)
from cmdcm.core.settings.deployment import DeployConfig, RolloutConfig, ServerGroupConfig
from cmdcm.core.settings.evaluation import AbtestConfig, EvaluationConfig
from cmdcm.core.settings.gate import GateBounds, GateConfig
from cmdcm.core.settings.model import ModelConfig
from cmdcm.core.settings.monitoring import MonitorConfig
from cmdcm.core.settings.retrain import RetrainConfig
from cmdcm.core.settings.serving import ExportConfig, ServingConfig
from cmdcm.core.settings.simulation import SimulateConfig
from cmdcm.core.settings.streaming import StreamConfig
from cmdcm.core.settings.tables import TablesConfig
from cmdcm.core.settings.training import CalibrationConfig, TrackingConfig, TrainingConfig

__all__ = [
    "PRESETS",
    "AbtestConfig",
    "CalendarConfig",
    "CalibrationConfig",
    "Config",
    "DeployConfig",
    "EvaluationConfig",
    "EventsConfig",
    "ExportConfig",
    "FeaturesConfig",
    "GateBounds",
    "GateConfig",
    "LabelsConfig",
    "ModelConfig",
    "MonitorConfig",
    "PromotionConfig",
    "RetrainConfig",
    "RolloutConfig",
    "Section",
    "ServerGroupConfig",
    "ServingConfig",
    "SimulateConfig",
    "SplitConfig",
    "StreamConfig",
    "TablesConfig",
    "TrackingConfig",
    "TrainingConfig",
    "ValidationConfig",
    "load_config",
    "presets",
]

PRESETS = Path(__file__).parent / "presets"


class Config(Section):
    """The whole configuration; `seed` is the one source of randomness."""

    seed: int = Field(1, ge=0)
    calendar: CalendarConfig = CalendarConfig()
    events: EventsConfig = EventsConfig()
    simulate: SimulateConfig = SimulateConfig()
    labels: LabelsConfig = LabelsConfig()
    features: FeaturesConfig = FeaturesConfig()
    validation: ValidationConfig = ValidationConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    tables: TablesConfig = TablesConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    stream: StreamConfig = StreamConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    abtest: AbtestConfig = AbtestConfig()
    gate: GateConfig = GateConfig()
    export: ExportConfig = ExportConfig()
    serving: ServingConfig = ServingConfig()
    deploy: DeployConfig = DeployConfig()
    rollout: RolloutConfig = RolloutConfig()
    monitor: MonitorConfig = MonitorConfig()
    retrain: RetrainConfig = RetrainConfig()

    def save(self, path: Path) -> None:
        """Writes the configuration as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Reads a configuration that `save` wrote beside an artefact, perhaps of an older cmdcm."""
        values = read_json(path, "configuration")
        for name, section in (("model", ModelConfig), ("calibration", CalibrationConfig)):
            if isinstance(values, dict) and isinstance(values.get(name), dict):
                values = {**values, name: section.stored(values[name])}
        return _validate(values, {}, str(path))


def presets() -> list[str]:
    """Returns the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(
    path: Path | None = None, preset: str = "default", overrides: Iterable[str] = ()
) -> Config:
    """Builds the configuration: preset, then file, then `key=value` overrides.

    Args:
        path: A TOML file, or None.
        preset: Name of a preset.
        overrides: `section.key=value` strings; values in TOML syntax, a bare word is a string.

    Raises:
        ConfigError: Names the key, the place it came from and what was expected.

    Example:
        >>> load_config(overrides=["training.batch_size=64"]).training.batch_size
        64
    """
    if preset not in presets():
        raise ConfigError(f"unknown preset {preset!r}; there are {presets()}")
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    sources: list[tuple[dict[str, Any], str]] = [
        (_read_toml(PRESETS / f"{preset}.toml"), f"preset {preset!r}")
    ]
    if path is not None:
        sources.append((_read_toml(Path(path)), str(path)))
    for override in overrides:
        sources.append((_parse_override(override), f"--set {override}"))
    for source, place in sources:
        _merge(values, source, place, places)
    return _validate(values, places, "configuration")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not valid TOML: {error}") from error


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    nested: dict[str, Any] = {parts[-1]: value}
    for part in reversed(parts[:-1]):
        nested = {part: nested}
    return nested


def _merge(
    target: dict[str, Any],
    source: Mapping[str, Any],
    place: str,
    places: dict[str, str],
    prefix: str = "",
) -> None:
    for key, value in source.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict):
            _merge(target.setdefault(key, {}), value, place, places, f"{name}.")
        else:
            target[key] = value
        places[name] = place


def _validate(values: Mapping[str, Any], places: Mapping[str, str], default: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            location = [str(part) for part in fault["loc"]]
            key = ".".join(location)
            place = next(
                (
                    places[".".join(location[:n])]
                    for n in range(len(location), 0, -1)
                    if ".".join(location[:n]) in places
                ),
                default,
            )
            if fault["type"] == "extra_forbidden":
                faults.append(f"{place}: unknown key {key!r}{_suggest(location)}")
            else:
                faults.append(f"{place}: {key}: {fault['msg']}. Received: {fault['input']!r}")
        raise ConfigError("; ".join(faults)) from error


def _suggest(location: list[str]) -> str:
    section: Any = Config
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        # An index leads into a tuple of tables: its element's type.
        section = field.annotation if field else next(iter(get_args(section)), None)
    known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(location[-1], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {known}"
