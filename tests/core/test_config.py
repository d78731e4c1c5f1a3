"""The configuration: who overrides whom, and faults named with their place."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from cmdcm.core import config as configuration
from cmdcm.core.config import Config, load_config, presets
from cmdcm.core.errors import ConfigError, DataError

SECTIONS = [
    value
    for value in vars(configuration).values()
    if isinstance(value, type)
    and issubclass(value, configuration.Section)
    and "Attributes:" in str(value.__doc__)
]


def fault(*overrides, **arguments) -> str:
    """The message of a configuration that is refused."""
    with pytest.raises(ConfigError) as error:
        load_config(overrides=overrides, **arguments)
    return str(error.value)


def test_the_default_preset_is_the_code_s_defaults():
    assert load_config() == Config()


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads(name):
    assert isinstance(load_config(preset=name), Config)


@pytest.mark.parametrize("section", SECTIONS)
def test_docstrings_list_every_setting_in_order(section):
    attributes = section.__doc__.partition("Attributes:")[2]
    assert re.findall(r"^ {8}(\w+):", attributes, re.MULTILINE) == list(section.model_fields)


def test_a_file_overrides_the_preset_and_set_overrides_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("seed = 7\n[training]\nepochs = 5\nbatch_size = 32\n")
    config = load_config(path, overrides=["training.epochs=2", "training.epochs=9"])
    assert (config.seed, config.training.batch_size, config.training.epochs) == (7, 32, 9)
    assert config.training.patience == Config().training.patience


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.name=esmm", "esmm"),
        ('model.name="esmm"', "esmm"),
        (" model.name = esmm ", "esmm"),
    ],
)
def test_a_bare_word_is_a_string(override, expected):
    assert load_config(overrides=[override]).model.name == expected


def test_values_have_toml_syntax():
    config = load_config(
        overrides=[
            "model.trunk_units=[8, 4]",
            "model.gate=false",
            "training.learning_rate=1e-2",
            "calendar.timezone=",
            "events.columns.user_id=uid",
            "events.columns.item_id=sku=1",
        ]
    )
    assert config.model.trunk_units == (8, 4)
    assert config.model.gate is False
    assert config.training.learning_rate == 0.01
    assert config.calendar.timezone == ""
    assert config.events.columns == {"user_id": "uid", "item_id": "sku=1"}


class TestFaults:
    def test_unknown_key_of_a_file(self, tmp_path):
        path = tmp_path / "run.toml"
        path.write_text("[training]\nbatchsize = 3\n")
        assert fault(path=path) == (
            f"{path}: unknown key 'training.batchsize'; did you mean 'batch_size'?"
        )

    def test_unknown_key_of_an_override(self):
        assert fault("trainning.epochs=3").startswith(
            "--set trainning.epochs=3: unknown key 'trainning'; did you mean 'training'?"
        )

    def test_unknown_key_without_a_likeness_lists_the_known_ones(self):
        assert "known are ['by', 'test'" in fault("split.zzz=1")

    def test_unknown_key_inside_a_list_of_tables(self):
        message = fault("calendar.promotions=[{nme='x'}]")
        assert "unknown key 'calendar.promotions.0.nme'; did you mean 'name'?" in message

    def test_wrong_type_names_key_place_and_value(self, tmp_path):
        path = tmp_path / "run.toml"
        path.write_text("[training]\nepochs = 'three'\n")
        message = fault(path=path)
        assert message.startswith(f"{path}: training.epochs: Input should be a valid integer")
        assert message.endswith("Received: 'three'")

    def test_the_override_is_blamed_where_it_replaced_the_file_s_value(self, tmp_path):
        path = tmp_path / "run.toml"
        path.write_text("[training]\nepochs = 3\npatience = 0\n")
        message = fault("training.epochs=-1", path=path)
        assert "--set training.epochs=-1: training.epochs: Input should be greater" in message
        assert f"{path}: training.patience: Input should be greater" in message

    def test_element_of_a_list(self):
        assert fault("split.test=[1]").startswith("--set split.test=[1]: split.test.0: ")

    def test_a_number_in_place_of_a_table(self):
        assert fault("training=3").startswith("--set training=3: training: ")

    @pytest.mark.parametrize("value", ["nan", "inf", "0", "-1e-3"])
    def test_numbers_that_make_no_sense(self, value):
        assert f"--set training.learning_rate={value}" in fault(f"training.learning_rate={value}")

    @pytest.mark.parametrize("windows", ["[]", "[24, 1]", "[1, 1]", "[0, 1]"])
    def test_windows_that_do_not_increase(self, windows):
        assert "windows_hours should be" in fault(f"features.windows_hours={windows}")

    def test_cart_rate_below_direct_rate(self):
        assert "cart_rate should exceed direct_rate" in fault("simulate.cart_rate=0.001")

    @pytest.mark.parametrize("override", ["seed", "", "=1", "training.=1", ".epochs=1", "a..b=1"])
    def test_malformed_override(self, override):
        assert fault(override) == f"--set {override}: expected section.key=value"

    def test_unknown_preset(self):
        assert "unknown preset 'x'; there are ['default'" in fault(preset="x")

    def test_files_that_cannot_be_read(self, tmp_path):
        path = tmp_path / "run.toml"
        assert fault(path=path) == f"cannot read configuration {path}: No such file or directory"
        assert "Is a directory" in fault(path=tmp_path)
        path.write_text("seed = \n")
        assert f"{path} is not valid TOML: Invalid value (at line 1" in fault(path=path)
        path.write_bytes(b"\xff")
        assert "not valid TOML" in fault(path=path)

    @given(st.text())
    @example("training.epochs=1\nseed=2")
    @example("calendar.promotions.0.name=x")
    def test_no_override_ends_in_another_error(self, text):
        try:
            load_config(overrides=[text])
        except ConfigError as error:
            assert text.strip() in str(error)


def test_a_configuration_is_frozen():
    config = load_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 2  # type: ignore[misc]


class TestSaved:
    def test_what_is_loaded_is_what_was_saved(self, tmp_path):
        config = load_config(
            overrides=[
                "seed=5",
                "split.test=['double11-2024']",
                "events.kinds.pv=click",
                "training.learning_rate=0.1",
                "calendar.promotions=[{name='a', kind='b', warmup_start='2024-01-01', "
                "pre_promotion_start='2024-01-02', promotion_start='2024-01-03', "
                "promotion_end='2024-01-04'}]",
            ]
        )
        config.save(tmp_path / "config.json")
        loaded = Config.load(tmp_path / "config.json")
        assert loaded == config
        assert loaded.calendar.promotions[0].promotion_end == "2024-01-04"

    def test_a_model_older_than_the_time_that_is_left_has_no_offset_for_it(self, tmp_path):
        config = load_config()
        assert config.model.horizon
        config.save(tmp_path / "config.json")
        assert Config.load(tmp_path / "config.json") == config
        written = json.loads((tmp_path / "config.json").read_text())
        del written["model"]["horizon"], written["calibration"]["levels"]
        (tmp_path / "config.json").write_text(json.dumps(written))
        older = Config.load(tmp_path / "config.json")
        assert not older.model.horizon
        assert not older.calibration.levels

    def test_a_key_of_another_version_is_named_with_the_file(self, tmp_path):
        path = tmp_path / "config.json"
        path.write_text('{"seed": 1, "training": {"epochz": 3}}')
        with pytest.raises(ConfigError, match=f"{path}: unknown key 'training.epochz'; did you"):
            Config.load(path)

    def test_a_missing_or_foreign_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match="configuration not found at"):
            Config.load(tmp_path / "config.json")
        (tmp_path / "config.json").write_text("[1]")
        with pytest.raises(ConfigError, match=r"config\.json: "):
            Config.load(tmp_path / "config.json")
