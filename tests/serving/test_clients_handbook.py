"""docs/clients.md: its requests are sent as they stand there, through the official stubs alone."""

import json
import re
import runpy
import shlex

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, text_format
from tensorflow_serving.apis import predict_pb2

from cmdcm.core.config import ServingConfig
from cmdcm.serving.channels import SERVICE_CONFIG
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.serving import models
from cmdcm.tests.serving.stubs import WAIT, Stubs

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
WANT = models.expected(models.user_arrays(), models.candidate_arrays(3), 2)["p_conversion"]


def blocks(language: str, heading: str = "") -> list[str]:
    """The code blocks of a language, below a heading."""
    text = PAGE.partition(f"\n{heading}\n")[2] if heading else PAGE
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def stubs(exports):
    with EmbeddedServer(exports / "tiny", "cmdcm", ServingConfig(port=0, rest_port=-1)) as server:
        made = Stubs(server.target)
        yield made
        made.channel.close()


def ask(stubs, request) -> predict_pb2.PredictResponse:
    return stubs.prediction.Predict(request, timeout=WAIT)


def scores(answer) -> np.ndarray:
    assert list(answer.outputs) == ["p_conversion"]
    return tf.make_ndarray(answer.outputs["p_conversion"])


def test_the_user_once(stubs):
    request, answer = blocks("textproto", "### `score_candidates`: the user once")[:2]
    got = ask(stubs, text_format.Parse(request, predict_pb2.PredictRequest()))
    shown = text_format.Parse(answer, predict_pb2.PredictResponse())
    assert got.model_spec == shown.model_spec
    np.testing.assert_allclose(scores(got), scores(shown), atol=1e-6)
    np.testing.assert_allclose(scores(got), WANT, atol=1e-6)


def test_serialized_examples(stubs):
    example, request = blocks("textproto", "### `serving_default`: serialized examples")[:2]
    sent = text_format.Parse(request, predict_pb2.PredictRequest())
    (serialized,) = sent.inputs["examples"].string_val
    shown = text_format.Parse(example, tf.train.Example())
    assert tf.train.Example.FromString(serialized) == shown
    np.testing.assert_allclose(scores(ask(stubs, sent)), WANT[1:2], atol=1e-6)


def test_grpcurl(stubs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = blocks("python", "### grpcurl")
    (tmp_path / "protoset.py").write_text(script)
    runpy.run_path("protoset.py")
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (tmp_path / "predict.protoset").read_bytes()
    )
    # grpcurl reads the files in this form, and orders them by their imports itself.
    pool, left = descriptor_pool.DescriptorPool(), {file.name: file for file in files.file}
    while left:
        ready = [name for name, file in left.items() if not set(file.dependency) & left.keys()]
        assert ready, "an import is missing"
        for name in ready:
            pool.Add(left.pop(name))
    method = pool.FindServiceByName("tensorflow.serving.PredictionService").methods_by_name
    assert method["Predict"].input_type.full_name == "tensorflow.serving.PredictRequest"

    (command,) = (b for b in blocks("bash", "### grpcurl") if b.startswith("grpcurl"))
    words = shlex.split(command)
    assert words[-1] == "tensorflow.serving.PredictionService/Predict"
    sent = json_format.Parse(words[words.index("-d") + 1], predict_pb2.PredictRequest())
    np.testing.assert_allclose(scores(ask(stubs, sent)), WANT[1:2], atol=1e-6)


def test_the_service_config_is_the_clients():
    (config,) = blocks("json")
    assert json.loads(config) == SERVICE_CONFIG
