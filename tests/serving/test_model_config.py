"""Model configs in text proto: what they mean, and what is said of those that mean nothing."""

import re
from pathlib import Path

import grpc
import hypothesis.strategies as st
import pytest
from google.protobuf import text_format
from hypothesis import given
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.errors import ConfigError
from cmdcm.serving.model_config import model_settings, read_model_config, single_model_config
from cmdcm.serving.status import StatusError
from cmdcm.tests.checkout import ROOT

GOOD = 'name: "a" base_path: "/models/a" model_platform: "tensorflow"'


def settings_of(*entries: str):
    text = "model_config_list {" + " ".join(f"config {{ {entry} }}" for entry in entries) + "}"
    return model_settings(text_format.Parse(text, ModelServerConfig()))


def test_names_paths_policies_and_labels(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(
        """
        # Two models.
        model_config_list {
          config {
            name: "ads"
            base_path: "/models/ads"
            model_platform: "tensorflow"
            model_version_policy { specific { versions: 3 versions: 7 } }
            version_labels { key: "stable" value: 3 }
            version_labels { key: "canary" value: 7 }
          }
          config { name: "old" base_path: "/models/old" model_type: TENSORFLOW }
        }
        """
    )
    models = model_settings(read_model_config(path))
    assert list(models) == ["ads", "old"]
    assert str(models["ads"].base_path) == "/models/ads"
    assert models["ads"].policy({1, 3, 7, 9}) == {3, 7}
    assert models["ads"].labels == {"stable": 3, "canary": 7}
    assert models["old"].policy({1, 3}) == {3}
    assert models["old"].labels == {}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", {10}),
        ("model_version_policy { latest { } }", {10}),
        ("model_version_policy { latest { num_versions: 2 } }", {9, 10}),
        ("model_version_policy { latest { num_versions: 20 } }", {1, 2, 9, 10}),
        ("model_version_policy { all { } }", {1, 2, 9, 10}),
        ("model_version_policy { specific { versions: [2, 9, 77] } }", {2, 9}),
        ("model_version_policy { specific { } }", set()),
    ],
)
def test_version_policies(policy, wanted):
    assert settings_of(f"{GOOD} {policy}")["a"].policy([1, 10, 9, 2]) == wanted


@given(
    st.sets(st.integers(0, 50)),
    st.integers(0, 60),
)
def test_latest_wants_the_highest_numbers(found, count):
    policy = settings_of(f"{GOOD} model_version_policy {{ latest {{ num_versions: {count} }} }}")
    wanted = policy["a"].policy(found)
    assert wanted <= found
    assert len(wanted) == min(max(count, 1), len(found))
    assert all(left < kept for left in found - wanted for kept in wanted)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('base_path: "/m" model_platform: "tensorflow"', r"config\[1\].name: a model needs a name"),
        (
            'name: "b" base_path: "m" model_platform: "tensorflow"',
            r"config\[1\].base_path: Expected model b to have an absolute path .*=m",
        ),
        ('name: "b" model_platform: "tensorflow"', r"config\[1\].base_path: .*absolute"),
        (
            'name: "b" base_path: "gs://bucket/m" model_platform: "tensorflow"',
            r"config\[1\].base_path: gs://bucket/m is not on a local file system",
        ),
        ('name: "b" base_path: "/m"', r"config\[1\].model_platform: Illegal setting neither"),
        (
            'name: "b" base_path: "/m" model_platform: "tensorflow" model_type: TENSORFLOW',
            r"config\[1\].model_platform: Illegal setting both",
        ),
        (
            'name: "b" base_path: "/m" model_platform: "onnx"',
            r"config\[1\].model_platform: Model b requests unsupported platform onnx",
        ),
        (
            'name: "b" base_path: "/m" model_type: OTHER',
            r"config\[1\].model_type: .* not supported",
        ),
        (GOOD, r"config\[1\].name: Illegal to list model a multiple times"),
        (
            'name: "b" base_path: "/m" model_platform: "tensorflow" version_labels { value: 1 }',
            r"config\[1\].version_labels: a label needs a name",
        ),
    ],
)
def test_entries_that_cannot_be(entry, message, tmp_path):
    with pytest.raises(StatusError, match=message) as caught:
        settings_of(GOOD, entry)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ config {{ {GOOD} }} config {{ {entry} }} }}")
    with pytest.raises(ConfigError, match=rf"models.config: .*{message}"):
        read_model_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model_config_list {\n  config { nam: 'x' }\n}", 'line 2:12 : .*no field named "nam"'),
        (b"model_config_list { config {", "models.config is not a text proto"),
        (b'{"model_config_list": {}}', "models.config is not a text proto"),
        (b"custom_model_config { }", "custom_model_config is not supported"),
        (b"\xff\xfe", "models.config is not text"),
    ],
)
def test_files_that_are_no_config(content, message, tmp_path):
    path = tmp_path / "models.config"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_model_config(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read model config file .*: No such file"):
        read_model_config(tmp_path / "models.config")


@given(st.binary(max_size=200) | st.text("modelcnfigst_{}:\"' 01\n", max_size=200).map(str.encode))
def test_any_bytes_are_a_config_or_a_config_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.config"
    path.write_bytes(content)
    try:
        read_model_config(path)
    except ConfigError as error:
        assert "any.config" in str(error)


def test_a_single_model_has_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (settings,) = model_settings(single_model_config("m", Path("out/models"))).values()
    assert settings.base_path == tmp_path / "out" / "models"
    assert settings.policy({1, 2}) == {2}


def test_the_config_in_the_handbook_is_one(tmp_path):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```pbtxt\n(.*?)```", text, re.DOTALL)
    (tmp_path / "models.config").write_text(block)
    models = model_settings(read_model_config(tmp_path / "models.config"))
    assert models["cmdcm"].policy({3, 4, 5}) == {3, 4}
    assert models["cmdcm"].labels == {"stable": 3, "canary": 4}
    assert models["baseline"].policy({1, 2}) == {2}
