"""The deployment files in use: the embedded server with the flags of each group's container."""

import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest

from cmdcm.core.config import ServingConfig
from cmdcm.jobs.commands import serve
from cmdcm.jobs.rollout.config_file import ModelConfigFile
from cmdcm.jobs.rollout.server import Server
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.status import StatusError
from cmdcm.tests.jobs.deployment.files import flags, pod, write
from cmdcm.tests.jobs.rollout.world import answered
from cmdcm.tests.jobs.test_serve import parse
from cmdcm.tests.serving import models
from cmdcm.tests.serving.stubs import candidates_request


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A deployment of versions 3 and 4 of the tiny model, with paths of this machine."""
    root = tmp_path_factory.mktemp("tiny")
    for version in (3, 4):
        models.write_tiny_model(root / "base" / str(version), version)
    out = write(root / "out", "export.name=tiny", base=str(root / "base"))
    file = out / "config" / "models.config"
    file.write_text(file.read_text().replace("/models/tiny", str(root / "base")))
    return out


def embedded(tiny: Path, name: str) -> EmbeddedServer:
    """The embedded server with the flags of a group's command, but for ports and folders."""
    command = pod(tiny, name)["containers"][0]["command"]
    known = {k: v.replace("/config/", f"{tiny}/config/") for k, v in flags(command).items()}
    args = vars(parse(serve, *(f"--{flag}={value}" for flag, value in known.items())))
    given = {k: v for k, v in args.items() if k in ServingConfig.model_fields and v is not None}
    return EmbeddedServer(config=ServingConfig(**{**given, "port": 0, "rest_port": 0}))


def test_each_group_answers_its_signature(tiny):
    with embedded(tiny, "candidates") as server:
        assert answered(server.target, "stable") == 3
        assert answered(server.target, "canary") == 4
    with embedded(tiny, "examples") as server, Server(server.target, "tiny") as admin:
        assert admin.labelled("stable") == 3
        with pytest.raises(StatusError, match="equal 0th-dimension size") as caught:
            admin.scores(candidates_request(), 3, "p_conversion")
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_the_probe_is_answered_while_the_stable_version_serves(tiny):
    path = pod(tiny, "candidates")["containers"][0]["readinessProbe"]["httpGet"]["path"]
    with embedded(tiny, "candidates") as server, Server(server.target, "tiny") as admin:
        url = f"http://{server.rest_target}{path}"
        assert urllib.request.urlopen(url, timeout=20).status == 200
        config = ModelConfigFile(tiny / "config" / "models.config", "tiny").read()
        config.model_config_list.config[0].version_labels.pop("stable")
        admin.reload(config)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=20)
