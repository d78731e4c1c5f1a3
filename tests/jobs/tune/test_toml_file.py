"""Configurations as TOML: what is written is read back, alone and beside any preset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import Config, load_config, presets
from cmdcm.jobs.tune.toml_file import config_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def read(text, tmp_path, preset="default"):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, preset)


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_read_back(preset, tmp_path):
    config = load_config(preset=preset)
    assert read(config_toml(config), tmp_path) == config


def test_chosen_settings_are_written_even_if_they_are_the_default(tmp_path):
    text = config_toml(Config(), ["training.batch_size", "model.trunk_units"])
    config = read(text, tmp_path, "taobao")
    assert config.training.batch_size == Config().training.batch_size
    assert config.training.epochs == load_config(preset="taobao").training.epochs
    assert config_toml(Config()) == ""


def test_tables_in_tables_are_read_back(tmp_path):
    config = load_config(
        overrides=[
            "deploy.candidates.cpus=7",
            "events.kinds={'a b' = 'click', 'say \"x\"' = 'cart'}",
            "training.learning_rate=1e-7",
            "model.effect_modifiers=['a', 'b']",
            "split.test=[]",
        ]
    )
    assert read(config_toml(config), tmp_path) == config


@given(key=TEXT, value=TEXT, rate=st.floats(1e-300, 1e300))
def test_any_text_and_number_is_read_back(key, value, rate, tmp_path_factory):
    config = Config.model_validate(
        {
            "events": {"columns": {key: value}},
            "training": {"learning_rate": rate, "weight_column": value},
        }
    )
    assert read(config_toml(config), tmp_path_factory.mktemp("any")) == config
