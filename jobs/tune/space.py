"""The space of a search: settings, each with its range or its choices.

A space is one TOML file. A key is a setting's SECTION.KEY, as for `--set`:

    [space]
    "training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
    "model.embedding_dim" = { low = 4, high = 16, step = 4 }
    "model.tower_units" = { choices = [[64], [128, 64]] }

Everything is checked against the configuration before the first trial.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError

from cmdcm.core.config import Config, Section
from cmdcm.core.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

SPACES = Path(__file__).parent / "spaces"

SEARCHED = ("model", "training")
"""Sections whose settings may be searched."""

_NEW_EXAMPLES = ("calendar", "events", "simulate", "labels", "features")

_REFUSED = {
    "model.name": "models learn different labels, so their losses cannot be compared. Tune each, "
    "and compare them with `cmdcm bench`",
    "training.warm_start": "a model that knows later promotions than a fold validates on makes "
    "the loss worthless",
}

Param = int | float | str
"""A setting's value as the study holds it: a number, or a choice as JSON."""


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included; an integer where the bounds are.

    Attributes:
        name: The setting.
        low: Lower bound.
        high: Upper bound.
        step: Distance of two neighbouring values; None for 1, or for all numbers in between.
        log: Draw from the logarithm.
    """

    name: str
    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False

    def suggest(self, trial: "Trial") -> Param:
        """Returns what the sampler suggests for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return trial.suggest_int(self.name, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def param(self, value: Any) -> Param | None:
        """Returns the parameter of a setting's value; None for one outside the range."""
        inside = self.low <= value <= self.high and _on_grid(value - self.low, self.step)
        return value if inside else None

    def value(self, param: Param) -> Any:
        """Returns the setting's value of a parameter."""
        return param


@dataclass(frozen=True)
class Choices:
    """One of several values, in no order.

    Attributes:
        name: The setting.
        values: The values.
    """

    name: str
    values: tuple[Any, ...]

    def suggest(self, trial: "Trial") -> Param:
        """Returns what the sampler suggests for a trial."""
        return trial.suggest_categorical(self.name, [json.dumps(value) for value in self.values])

    def param(self, value: Any) -> Param | None:
        """Returns the parameter of a setting's value; None for one that is no choice."""
        return json.dumps(value) if value in self.values else None

    def value(self, param: Param) -> Any:
        """Returns the setting's value of a parameter."""
        return json.loads(str(param))


Dimension = Range | Choices


@dataclass(frozen=True)
class Space:
    """The dimensions of a search, in the file's order."""

    dimensions: tuple[Dimension, ...]

    def params(self, config: Config) -> dict[str, Param]:
        """Returns the parameters of a configuration, without those that lie outside the space."""
        found = {d.name: d.param(setting(config, d.name)) for d in self.dimensions}
        return {name: param for name, param in found.items() if param is not None}

    def config(self, base: Config, params: Mapping[str, Param]) -> Config:
        """Returns the configuration `base` with the parameters of a trial.

        Raises:
            ConfigError: The settings exclude each other.
        """
        values = base.model_dump()
        for dimension in self.dimensions:
            if dimension.name in params:
                section, key = dimension.name.split(".")
                values[section][key] = dimension.value(params[dimension.name])
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            raise ConfigError("; ".join(fault["msg"] for fault in error.errors())) from error

    def to_json(self) -> dict[str, Any]:
        """Returns the space as plain values, by setting."""
        return {d.name: {k: v for k, v in vars(d).items() if k != "name"} for d in self.dimensions}


def spaces() -> list[str]:
    """Returns the names of the built-in spaces."""
    return sorted(path.stem for path in SPACES.glob("*.toml"))


def setting(config: Config, name: str) -> Any:
    """Returns the value of the setting SECTION.KEY.

    Example:
        >>> setting(Config(), "training.batch_size")
        1024
    """
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def load_space(source: str) -> Space:
    """Reads a space.

    Args:
        source: Name of a built-in space, or a TOML file.

    Raises:
        ConfigError: No such space, or one that is not valid; names every setting with its fault.
    """
    path = SPACES / f"{source}.toml" if source in spaces() else Path(source)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read space {source}: {error.strerror}; the built-in spaces are {spaces()}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"space {path} is not valid TOML: {error}") from error
    entries = tables.get("space")
    if set(tables) != {"space"} or not isinstance(entries, dict) or not entries:
        raise ConfigError(
            f"space {path} should have one table, [space], with at least one setting. "
            f"Received: {sorted(tables)}"
        )
    dimensions, faults = [], []
    for name, entry in entries.items():
        try:
            dimensions.append(_dimension(name, entry))
        except ConfigError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ConfigError(f"space {path}: {'; '.join(faults)}")
    return Space(tuple(dimensions))


def _dimension(name: str, entry: Any) -> Dimension:
    field = _field(name)
    if not isinstance(entry, dict):
        raise ConfigError("expected { low = ..., high = ... } or { choices = [...] }")
    if set(entry) == {"choices"}:
        return _choices(name, field, entry["choices"])
    if not {"low", "high"} <= set(entry) <= {"low", "high", "step", "log"}:
        raise ConfigError(
            "expected { low, high } with or without step or log, or { choices }. "
            f"Received: {sorted(entry)}"
        )
    return _range(name, field, **entry)


def _choices(name: str, field: Any, values: Any) -> Choices:
    if not isinstance(values, list) or len(values) < 2:
        raise ConfigError("choices should be a list of at least two values")
    valid = tuple(_valid(field, "choices", value) for value in values)
    if any(value in valid[:place] for place, value in enumerate(valid)):
        raise ConfigError(f"choices should differ. Received: {values}")
    return Choices(name, valid)


def _range(name: str, field: Any, low: Any, high: Any, step: Any = None, log: Any = False) -> Range:
    if field.annotation not in (int, float):
        raise ConfigError("is no number: give choices in place of low and high")
    low, high = _valid(field, "low", low), _valid(field, "high", high)
    if low >= high:
        raise ConfigError(f"low should be less than high. Received: {low} and {high}")
    if not isinstance(log, bool):
        raise ConfigError(f"log should be true or false. Received: {log!r}")
    if log and (step is not None or low <= 0):
        raise ConfigError("log needs low > 0 and goes without step")
    if step is None:
        return Range(name, low, high, None, log)
    number = int if field.annotation is int else (int, float)
    if isinstance(step, bool) or not isinstance(step, number) or not 0 < step <= high - low:
        kind = "an integer" if number is int else "a number"
        raise ConfigError(f"step should be {kind} from 0 to high - low. Received: {step!r}")
    if not _on_grid(high - low, step):
        raise ConfigError(f"high should be low plus a multiple of step. Received: step = {step}")
    return Range(name, low, high, step, log)


def _field(name: str) -> Any:
    """Returns pydantic's description of a setting that may be searched."""
    section, _, key = name.partition(".")
    fields = Config.model_fields
    if key and section in _NEW_EXAMPLES:
        raise ConfigError(
            "cannot be searched: each trial would need examples of its own. Make examples with "
            "`cmdcm features` for each value and tune on each of them"
        )
    if section in fields and section not in SEARCHED:
        raise ConfigError(
            "cannot be searched: it does not change the model that training yields, or it changes "
            f"what trials are compared on. The sections to search are {list(SEARCHED)}"
        )
    if name in _REFUSED:
        raise ConfigError(f"cannot be searched: {_REFUSED[name]}")
    known = {f"{s}.{k}": f for s in SEARCHED for k, f in _annotation(fields[s]).items()}
    if name not in known:
        if name in SEARCHED:
            raise ConfigError(f'is a section; write the whole name in quotes: "{name}.KEY" = ...')
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "expected SECTION.KEY"
        raise ConfigError(f"unknown setting; {hint}")
    return known[name]


def _annotation(field: Any) -> dict[str, Any]:
    section: type[Section] = field.annotation
    return section.model_fields


def _valid(field: Any, what: str, value: Any) -> Any:
    """Returns a value as the setting holds it; cross-checks with other settings come later."""
    adapter: TypeAdapter[Any] = TypeAdapter(
        Annotated[field.annotation, field], config=Section.model_config
    )
    try:
        # Only a list is converted: TOML has no tuples.
        return adapter.validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        faults = "; ".join(fault["msg"] for fault in error.errors())
        raise ConfigError(f"{what}: {faults}. Received: {value!r}") from error


def _on_grid(distance: float, step: float | None) -> bool:
    return step is None or abs(distance / step - round(distance / step)) < 1e-9
