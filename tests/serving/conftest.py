"""The tiny models, written once a test process, and a server for each module that asks."""

import shutil
from pathlib import Path

import pytest

from cmdcm.core.config import ServingConfig
from cmdcm.serving.server import EmbeddedServer


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny/1`, `tiny/2`, `v1/1` and `examples/1` in a folder; tests copy and never change them."""
    from cmdcm.tests.serving.models import write_examples_model, write_tiny_model, write_v1_model

    root = tmp_path_factory.mktemp("exports")
    for version in (1, 2):
        write_tiny_model(root / "tiny" / str(version), version)
    (root / "v1").mkdir()
    write_v1_model(root / "v1" / "1")
    write_examples_model(root / "examples" / "1", 1)
    return root


@pytest.fixture
def base(exports: Path, tmp_path: Path) -> Path:
    """A base path with version 1 of the tiny model."""
    shutil.copytree(exports / "tiny" / "1", tmp_path / "base" / "1")
    return tmp_path / "base"


FAST_POLL = ServingConfig(port=0, rest_port=0, poll_seconds=0.05)


@pytest.fixture(scope="module")
def server(exports: Path):
    """A server of versions 1 and 2 of the tiny model, so of version 2."""
    with EmbeddedServer(exports / "tiny", "tiny", FAST_POLL) as running:
        yield running


@pytest.fixture(scope="module")
def v1_server(exports: Path):
    """A server of the TensorFlow 1 model."""
    with EmbeddedServer(exports / "v1", "v1", FAST_POLL) as running:
        yield running
