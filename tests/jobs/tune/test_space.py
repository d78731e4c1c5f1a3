"""Spaces: what is read, what is refused at once, and how a configuration follows."""

import json

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import Config, load_config, presets
from cmdcm.core.errors import ConfigError
from cmdcm.jobs.tune.space import Choices, Range, load_space, setting, spaces

SPACE = """
[space]
"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"model.embedding_dim" = { low = 4, high = 16, step = 4 }
"model.propensity_clip" = { low = 0.01, high = 0.05, step = 0.02 }
"model.gate" = { choices = [true, false] }
"model.tower_units" = { choices = [[64], [128, 64]] }
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "space.toml"
        path.write_text(text)
        return str(path)

    return write


def test_dimensions_are_those_of_the_file(written):
    space = load_space(written(SPACE))
    assert space.dimensions == (
        Range("training.learning_rate", 1e-4, 1e-2, None, True),
        Range("model.embedding_dim", 4, 16, 4),
        Range("model.propensity_clip", 0.01, 0.05, 0.02),
        Choices("model.gate", (True, False)),
        Choices("model.tower_units", ((64,), (128, 64))),
    )


def test_suggestions_lie_in_the_space_and_make_configurations(written):
    space = load_space(written(SPACE))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    base, seen = load_config(overrides=["model.trunk_units=[7]", "seed=5"]), set()
    for _ in range(60):
        trial = study.ask()
        for dimension in space.dimensions:
            dimension.suggest(trial)
        config = space.config(base, trial.params)
        assert 1e-4 <= config.training.learning_rate <= 1e-2
        assert config.model.embedding_dim in (4, 8, 12, 16)
        assert round(config.model.propensity_clip, 9) in (0.01, 0.03, 0.05)
        seen.add((config.model.gate, config.model.tower_units))
        # What is not searched stays.
        assert (config.seed, config.model.trunk_units) == (5, (7,))
        assert space.params(config) == trial.params
    assert seen == {(g, t) for g in (True, False) for t in ((64,), (128, 64))}


def test_what_lies_outside_the_space_has_no_parameter(written):
    space = load_space(written(SPACE))
    base = load_config(overrides=["model.embedding_dim=6", "training.learning_rate=0.5"])
    assert space.params(base) == {"model.propensity_clip": 0.03, "model.gate": "true"}


def test_settings_that_exclude_each_other_are_named(written):
    text = '[space]\n"model.cross_fit_folds" = { low = 1, high = 3 }\n'
    space = load_space(written(text))
    dr = load_config(overrides=["model.estimator=dr"])
    assert space.config(dr, {"model.cross_fit_folds": 3}).model.cross_fit_folds == 3
    with pytest.raises(ConfigError, match="needs estimator = 'dr'"):
        space.config(Config(), {"model.cross_fit_folds": 3})


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ('"training.learning_rat" = {low=1, high=2}', "did you mean 'training.learning_rate'?"),
        ('"learning_rate" = {low=1, high=2}', "unknown setting"),
        ("training.learning_rate = {low=1, high=2}", "write the whole name in quotes"),
        ('"features.clicked_length" = {low=1, high=2}', "examples of its own"),
        ('"labels.attribution_days" = {low=1, high=2}', "examples of its own"),
        ('"events.max_rejected_share" = {low=0.1, high=0.2}', "examples of its own"),
        ('"simulate.events" = {low=1000, high=2000}', "examples of its own"),
        ('"split.test_share" = {low=0.1, high=0.2}', "cannot be searched: it does not change"),
        ('"calibration.share" = {low=0.1, high=0.2}', "cannot be searched: it does not change"),
        ('"seed" = {low=1, high=2}', "cannot be searched: it does not change"),
        ('"model.name" = {choices=["cmdcm", "esmm"]}', "models learn different labels"),
        ('"training.warm_start" = {choices=["", "a"]}', "knows later promotions"),
        ('"training.learning_rate" = {low=0.0, high=0.1}', "low: Input should be greater than 0"),
        ('"model.propensity_clip" = {low=0.1, high=0.5}', "high: Input should be less than 0.5"),
        ('"training.learning_rate" = {low="a", high=0.1}', "low: Input should be a valid number"),
        ('"training.learning_rate" = {low=0.1, high=nan}', "high: Input should be a finite number"),
        ('"training.epochs" = {low=1.5, high=4}', "low: Input should be a valid integer"),
        ('"training.epochs" = {low=true, high=4}', "low: Input should be a valid integer"),
        ('"training.epochs" = {low=4, high=4}', "low should be less than high"),
        ('"training.epochs" = {low=5, high=4}', "low should be less than high"),
        ('"training.epochs" = {low=1, high=4, step=2}', "low plus a multiple of step"),
        ('"training.epochs" = {low=1, high=4, step=1.5}', "step should be an integer"),
        ('"training.epochs" = {low=1, high=4, step=0}', "step should be an integer"),
        ('"training.epochs" = {low=1, high=4, step=9}', "from 0 to high - low"),
        ('"training.epochs" = {low=1, high=4, step=1, log=true}', "goes without step"),
        ('"model.cross_layers" = {low=0, high=4, log=true}', "log needs low > 0"),
        ('"model.cross_layers" = {low=0, high=4, log=1}', "log should be true or false"),
        ('"model.gate" = {low=0, high=1}', "is no number: give choices"),
        ('"model.tower_units" = {low=8, high=16}', "is no number: give choices"),
        ('"model.tower_units" = {choices=[[8], [0]]}', "choices: Input should be greater than 0"),
        ('"model.trunk_units" = {choices=[[8], []]}', "at least 1 item"),
        ('"model.estimator" = {choices=["dr", "dm"]}', "choices: Input should be 'naive'"),
        ('"model.gate" = {choices=[true, "no"]}', "choices: Input should be a valid boolean"),
        ('"model.gate" = {choices=[true, true]}', "choices should differ"),
        ('"model.gate" = {choices=[true]}', "at least two values"),
        ('"model.gate" = {choices=true}', "at least two values"),
        ('"training.epochs" = {low=1}', "Received: ['low']"),
        ('"training.epochs" = {low=1, high=2, stp=1}', "Received: ['high', 'low', 'stp']"),
        ('"training.epochs" = [1, 2]', "expected { low = ..., high = ... }"),
    ],
)
def test_a_faulty_setting_says_what_is_wrong(written, entry, fault):
    path = written(f"[space]\n{entry}\n")
    with pytest.raises(ConfigError) as error:
        load_space(path)
    assert fault in str(error.value)
    named = entry.partition(" =")[0]
    # Without quotes TOML takes the part before the point for a table's name.
    name = named.strip('"') if named.startswith('"') else named.partition(".")[0]
    assert str(error.value).startswith(f"space {path}: {name}: ")


def test_all_faults_are_named_at_once(written):
    path = written('[space]\n"model.gaet" = {choices=[true, false]}\n"seed" = {low=1, high=2}\n')
    with pytest.raises(ConfigError, match=r"model.gaet: unknown.*; seed: cannot"):
        load_space(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "should have one table"),
        ("[space]\n", "at least one setting"),
        ("[spaces]\n", "Received: ['spaces']"),
        (SPACE + "[more]\n", "Received: ['more', 'space']"),
        ("space = 3", "should have one table"),
        ("[space", "not valid TOML"),
    ],
)
def test_a_file_that_is_no_space(written, text, fault):
    with pytest.raises(ConfigError) as error:
        load_space(written(text))
    assert fault in str(error.value)


def test_an_unknown_space_names_the_built_in_ones():
    with pytest.raises(ConfigError, match=r"no_such.*the built-in spaces are \[.*'default'"):
        load_space("no_such")


@pytest.mark.parametrize("name", spaces())
@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_a_point_of_every_built_in_space(name, preset):
    space, config = load_space(name), load_config(preset=preset)
    assert len(space.params(config)) == len(space.dimensions)
    assert space.config(config, space.params(config)) == config


@given(
    low=st.integers(1, 50),
    step=st.integers(1, 9),
    count=st.integers(1, 9),
    value=st.integers(-5, 200),
)
def test_an_integer_is_in_a_range_if_it_is_one_of_its_values(low, step, count, value):
    values = [low + k * step for k in range(count + 1)]
    dimension = Range("training.epochs", low, values[-1], step)
    assert dimension.param(value) == (value if value in values else None)


@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=3), min_size=2, max_size=5))
def test_a_choice_survives_the_study(choices):
    dimension = Choices("model.trunk_units", tuple(map(tuple, choices)))
    for choice in dimension.values:
        param = dimension.param(choice)
        assert isinstance(param, str)
        assert tuple(dimension.value(param)) == choice
    assert dimension.param((301,)) is None


def test_a_space_as_plain_values_is_json(written):
    space = load_space(written(SPACE))
    plain = json.loads(json.dumps(space.to_json()))
    assert list(plain) == [dimension.name for dimension in space.dimensions]
    assert plain["model.tower_units"] == {"values": [[64], [128, 64]]}
    assert plain["model.embedding_dim"] == {"low": 4, "high": 16, "step": 4, "log": False}


def test_a_setting_is_found_by_its_name():
    assert setting(load_config(overrides=["model.gate=false"]), "model.gate") is False
