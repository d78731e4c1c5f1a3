"""What a bench compares: models, worlds or logs, seeds.

A plan is one TOML file:

    title = "What each module is worth"
    baseline = "cmdcm"                       # the model that the others are compared with
    seeds = [1, 2, 3, 4, 5]
    set = ["simulate.events=2_000_000"]      # overrides of every configuration

    tune = 20                                # trials of a search for each model and world
    space = "zoo"                            # of `cmdcm tune`

    [worlds.taobao]                          # simulated, from a preset
    preset = "world_taobao"

    [worlds.shop]                            # or a log of one's own
    preset = "default"
    events = "out/shop/events"

    [models.cmdcm]                           # one set of overrides a model

    [models.no_gate]
    set = ["model.gate=false"]

    [models.ceiling]                         # learns the simulator's probabilities, not outcomes
    set = ["model.name=single_task"]
    truth = true

    [models.adapted]                         # goes on from another model's trial, with its settings
    set = ["model.name=hdr"]
    base = "plain"
"""

import tomllib
from pathlib import Path

from pydantic import Field, PositiveInt, ValidationError, model_validator

from cmdcm.core.config import Config, Section, load_config, presets
from cmdcm.core.errors import ConfigError

PLANS = Path(__file__).parent / "plans"

RESERVED = ("oracle",)
"""Names that the results give to rows of their own."""


class WorldPlan(Section):
    """One world or log.

    Attributes:
        preset: Preset of its configuration.
        events: An event log to use; empty to simulate one a seed.
        set: Overrides.
    """

    preset: str = "default"
    events: str = ""
    set: tuple[str, ...] = ()


class ModelPlan(Section):
    """One model.

    Attributes:
        set: Overrides that make it.
        worlds: The worlds that it is trained in; empty for all.
        space: What is searched for it, if not the plan's space.
        truth: Train it on the true probabilities of conversion (`jobs/bench/ceiling.py`); it is
            left out where they are not known. For models whose heads learn `conversion` alone.
        base: The model whose trial it is started from (`training.warm_start`); its overrides come
            before those of `set`. Empty for none.
    """

    set: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ()
    space: str = ""
    truth: bool = False
    base: str = ""


class Plan(Section):
    """See the module.

    Attributes:
        title: Title of the results.
        baseline: The model that the others are compared with.
        seeds: Each draws its own world and its own initial weights.
        set: Overrides of every configuration, before those of world and model.
        overrides: Overrides of the command line, after those of the world, before the model's.
        tune: Trials of a search for each model in each world (`jobs/bench/tuning.py`); 0 for none.
        space: What is searched: a built-in space of `cmdcm tune`, or a TOML file.
        worlds: World by name.
        models: Model by name.
    """

    title: str
    baseline: str
    seeds: tuple[PositiveInt, ...] = Field(min_length=1)
    set: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    tune: int = Field(0, ge=0)
    space: str = "zoo"
    worlds: dict[str, WorldPlan] = Field(min_length=1)
    models: dict[str, ModelPlan] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        if self.baseline not in self.models:
            raise ValueError(f"baseline {self.baseline!r} is none of the models")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds should differ")
        for name in (*self.worlds, *self.models):
            if not name.replace("_", "").isalnum() or name in RESERVED:
                raise ValueError(f"a name should be letters, digits and _: {name!r} cannot be one")
        for name, model in self.models.items():
            unknown = sorted(set(model.worlds) - set(self.worlds))
            if unknown:
                raise ValueError(f"models.{name}.worlds: there is no world {unknown}")
        if self.models[self.baseline].worlds or self.models[self.baseline].truth:
            raise ValueError("the baseline should be trained in all worlds")
        for name, model in self.models.items():
            chosen = [text.split("=")[1].strip() for text in model.set if "model.name" in text]
            if model.truth and chosen != ["single_task"]:
                raise ValueError(
                    f"models.{name}: the truth teaches conversion alone; add model.name=single_task"
                )
            if model.base:
                self._check_base(name)
        return self

    def _check_base(self, name: str) -> None:
        model, chain = self.models[name], [name]
        while base := self.models[chain[-1]].base:
            if base not in self.models:
                raise ValueError(f"models.{chain[-1]}.base: there is no model {base!r}")
            chain.append(base)
            if base in chain[:-1]:
                raise ValueError(f"models.{name}.base: a circle, {' <- '.join(chain)}")
        for world in self.worlds:
            if name in self.models_in(world) and model.base not in self.models_in(world):
                raise ValueError(f"models.{name}.base: {model.base} is not trained in {world}")
        if model.space:
            raise ValueError(f"models.{name}.space: it takes what the search of its base found")

    def config(self, world: str, seed: int, model: str) -> Config:
        """Returns the configuration of one trial.

        Raises:
            ConfigError: An override or preset that cannot be used.
        """
        place, of_model = self.worlds[world], self._overrides(model)
        overrides = (*self.set, *place.set, *self.overrides, *of_model, f"seed={seed}")
        return load_config(preset=place.preset, overrides=overrides)

    def _overrides(self, model: str) -> tuple[str, ...]:
        base = self.models[model].base
        return (*(self._overrides(base) if base else ()), *self.models[model].set)

    def models_in(self, world: str) -> list[str]:
        """Returns the names of the models that are trained in a world."""
        log = bool(self.worlds[world].events)
        return [
            name
            for name, model in self.models.items()
            if (not model.worlds or world in model.worlds) and not (model.truth and log)
        ]


def plans() -> list[str]:
    """Returns the names of the built-in plans."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def load_plan(
    source: str,
    *,
    seeds: int = 0,
    tune: int | None = None,
    overrides: tuple[str, ...] = (),
    logs: dict[str, Path] | None = None,
    worlds: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
) -> Plan:
    """Reads a plan.

    Args:
        source: Name of a built-in plan, or a TOML file.
        seeds: With n > 0 the seeds are 1 to n.
        tune: Trials of each search; None for the plan's.
        overrides: They count more than those of the plan and of its worlds.
        logs: Event logs by name; each becomes a world, of the preset of that name if there is one.
        worlds: Worlds to keep; empty for all.
        models: Models to keep beside the baseline and those that they start from; empty for all.

    Raises:
        ConfigError: No such plan, or one that is not valid; names place and fault.
    """
    path = PLANS / f"{source}.toml" if source in plans() else Path(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read plan {source}: {error.strerror}; the built-in plans are {plans()}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"plan {path} is not valid TOML: {error}") from error
    if seeds:
        values["seeds"] = list(range(1, seeds + 1))
    if tune is not None:
        values["tune"] = tune
    values["overrides"] = overrides
    for name, events in (logs or {}).items():
        preset = name if name in presets() else "default"
        values.setdefault("worlds", {})[name] = {"preset": preset, "events": str(events)}
    if models:
        there = values.get("models", {})
        unknown = sorted(set(models) - set(there))
        if unknown:
            raise ConfigError(f"plan {source} has no model {unknown}; it has {[*there]}")
        kept = {values.get("baseline"), *models}
        kept |= {there[name].get("base") for name in models}
        values["models"] = {name: model for name, model in there.items() if name in kept}
    if worlds:
        unknown = sorted(set(worlds) - set(values.get("worlds", {})))
        if unknown:
            raise ConfigError(f"plan {source} has no world {unknown}; it has {[*values['worlds']]}")
        values["worlds"] = {name: values["worlds"][name] for name in worlds}
        for model in values.get("models", {}).values():
            if model.get("worlds"):
                # A model of other worlds alone has nothing to do here.
                model["worlds"] = [name for name in model["worlds"] if name in worlds] or [""]
        values["models"] = {
            name: model for name, model in values["models"].items() if model.get("worlds") != [""]
        }
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'plan'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigError(f"plan {path}: {faults}") from error
