"""The config protos, and the options that are read from them."""

import re

import pytest
from google.protobuf import text_format

from cmdcm.core.errors import ConfigError
from cmdcm.serving.batching_options import BatchingOptions, read_batching_options
from cmdcm.serving.config_protos import (
    BatchingParameters,
    MonitoringConfig,
    SSLConfig,
    read_text_proto,
)
from cmdcm.serving.metrics import PROMETHEUS_PATH, prometheus_path
from cmdcm.tests.checkout import ROOT

BATCHING = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 50 }
num_batch_threads { value: 3 }
thread_pool_name { value: "pool" }
allowed_batch_sizes: 32
allowed_batch_sizes: 128
"""


def test_fields_have_the_numbers_of_tensorflow_serving():
    # Written by hand from the .proto files: field number << 3 | wire type, length, value.
    ssl = SSLConfig(server_key="k", server_cert="c", custom_ca="a", client_verify=True)
    assert ssl.SerializeToString() == b"\x0a\x01k\x12\x01c\x1a\x01a\x20\x01"
    monitoring = text_format.Parse(
        'prometheus_config { enable: true path: "/m" }', MonitoringConfig()
    )
    assert monitoring.SerializeToString() == b"\x0a\x06\x08\x01\x12\x02/m"
    batching = text_format.Parse(BATCHING, BatchingParameters())
    assert batching.SerializeToString() == (
        b"\x0a\x03\x08\x80\x01\x12\x03\x08\xd0\x0f\x1a\x02\x08\x32\x22\x02\x08\x03"
        b"\x2a\x06\x0a\x04pool\x32\x03\x20\x80\x01"
    )
    assert BatchingParameters.DESCRIPTOR.full_name == "tensorflow.serving.BatchingParameters"


def test_batching_options(tmp_path):
    file = tmp_path / "batching.txt"
    file.write_text(BATCHING)
    assert read_batching_options(file) == BatchingOptions(128, 2000, 50, 3, (32, 128), "pool")
    file.write_text("")
    assert read_batching_options(file) == BatchingOptions()
    assert (BatchingOptions().max_batch_size, BatchingOptions().max_enqueued_batches) == (1000, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size should be at least 1. Received: 0"),
        ("num_batch_threads { value: -1 }", "num_batch_threads should be at least 1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros should not be negative"),
        ("allowed_batch_sizes: [4, 2]", "must be monotonically increasing"),
        ("allowed_batch_sizes: [0, 1000]", "must be monotonically increasing"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]",
            "must match max_batch_size; last entry was 4; expected 8",
        ),
        ("pad_variable_length_inputs: true", "pad_variable_length_inputs is not supported"),
        ("max_batch: 3", "not a text proto of BatchingParameters: line 1:1"),
    ],
)
def test_batching_options_that_cannot_be(tmp_path, text, message):
    file = tmp_path / "batching.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_batching_options(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", None),
        ("prometheus_config { enable: false }", None),
        ("prometheus_config { enable: true }", PROMETHEUS_PATH),
        ('prometheus_config { enable: true path: "/m" }', "/m"),
    ],
)
def test_monitoring_config(tmp_path, text, path):
    file = tmp_path / "monitoring.txt"
    file.write_text(text)
    assert prometheus_path(file) == path
    assert prometheus_path(None) is None


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the file .*gone: No such file"):
        read_text_proto(tmp_path / "gone", SSLConfig, "the file")
    (tmp_path / "binary").write_bytes(b"\xff\xff")
    with pytest.raises(ConfigError, match="is not text"):
        read_text_proto(tmp_path / "binary", SSLConfig, "the file")


def test_a_secret_is_not_shown(tmp_path):
    (tmp_path / "ssl").write_text('client_verify: false\nserver_key: "hidden" oops')
    with pytest.raises(ConfigError, match="line 2:") as caught:
        read_text_proto(tmp_path / "ssl", SSLConfig, "the file", secret=True)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_configs_in_the_handbook(tmp_path):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    ssl, batching = re.findall(r"```prototext\n(.*?)```", text, re.DOTALL)
    assert text_format.Parse(ssl, SSLConfig()).client_verify
    (tmp_path / "batching.txt").write_text(batching)
    assert read_batching_options(tmp_path / "batching.txt").allowed_batch_sizes == (64, 512)
