"""Aliases and labels: roll-outs move both, and what differs is told."""

import pytest

from cmdcm.core.config import load_config
from cmdcm.core.errors import OutputError, ServingError
from cmdcm.jobs.registry import aliases as module
from cmdcm.jobs.registry.aliases import Aliases, differences, follow
from cmdcm.jobs.registry.lineage import Lineage
from cmdcm.jobs.registry.registry import Registry
from cmdcm.jobs.rollout.config_file import ModelConfigFile
from cmdcm.jobs.rollout.rollout import Author, Rollout
from cmdcm.jobs.rollout.server import Server
from cmdcm.tests.jobs.registry.exports import export
from cmdcm.tests.jobs.rollout.test_rollout import SETTINGS
from cmdcm.tests.jobs.rollout.world import entries, serving, write_config
from cmdcm.tests.serving import models

pytest.importorskip("mlflow")

_MODELS = iter(range(1_000_000))


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('aliases') / 'mlflow.db'}"


def registered(uri: str, folder, *versions: int, model: str = "") -> Registry:
    registry = Registry(uri, model or f"model-{next(_MODELS)}")
    for version in versions:
        registry.register(export(folder, version), Lineage("cmdcm"))
    return registry


def aliases_of(registry: Registry) -> Aliases:
    return Aliases(load_config(overrides=[f'tracking.uri="{registry.uri}"']), registry.model)


def test_aliases_follow_the_labels(uri, tmp_path):
    registry = registered(uri, tmp_path, 1, 2)
    labels = {"stable": 1, "canary": 2}
    assert len(differences(registry, labels)) == 2
    assert follow(registry, labels) == {"champion": 1, "challenger": 2}
    assert differences(registry, labels) == []
    assert follow(registry, {"stable": 2, "previous": 1}) == {"champion": 2, "previous": 1}
    assert follow(registry, {"stable": 1}) == {"champion": 1}


def test_an_alias_never_names_another_version_than_the_label(uri, tmp_path):
    registry = registered(uri, tmp_path, 1)
    follow(registry, {"stable": 1})
    assert follow(registry, {"stable": 2}) == {}  # 2 is not registered
    (fault,) = differences(registry, {"stable": 2})
    assert "version 2, labelled 'stable', is not registered" in fault
    registry.set_alias("challenger", 1)  # by hand
    (fault,) = differences(registry, {})
    assert "'challenger' has version 1, and the label 'canary' has version none" in fault


def test_where_nothing_is_registered_there_is_nothing_to_keep_true(uri, tmp_path):
    for aliases in (
        aliases_of(Registry(uri, "nothing")),
        Aliases(load_config(overrides=[f'tracking.uri="sqlite:///{tmp_path}/x.db"']), "m"),
    ):
        aliases.check(2)
        assert aliases.follow({"stable": 2}) == {}
        assert aliases.faults({"stable": 2}) == []
    assert not (tmp_path / "x.db").exists()


def test_a_store_that_fails_stops_no_rollout_and_is_told(uri, tmp_path, monkeypatch):
    aliases = aliases_of(registered(uri, tmp_path, 1))

    def fail(*_):
        raise OutputError("the store is gone")

    monkeypatch.setattr(module.Registry, "versions", fail)
    aliases.check(2)
    assert aliases.follow({"stable": 2}) == {"registry_faults": ["the store is gone"]}
    assert aliases.faults({"stable": 2}) == ["the store is gone"]


@pytest.mark.slow
def test_a_rollout_moves_labels_and_aliases(uri, tmp_path):
    base = tmp_path / "base"
    for version in (1, 2, 3):
        models.write_tiny_model(base / str(version), version)
    path = write_config(tmp_path / "models.config", base, {"stable": 1}, 1)
    registry = registered(uri, tmp_path / "exports", 1, 2, model="tiny")
    with serving(path, count=1) as (server,), Server(server.target, "tiny") as target:
        file, author = ModelConfigFile(path, "tiny"), Author("ann")
        rollout = Rollout(file, [target], SETTINGS, author, aliases_of(registry))
        with pytest.raises(ServingError, match="version 3 of tiny is not registered"):
            rollout.canary(3)
        assert registry.aliases() == {"champion": 1}  # the labels, even so
        rollout.canary(2)
        assert registry.aliases() == {"champion": 1, "challenger": 2}
        rollout.promote()
        assert registry.aliases() == {"champion": 2, "previous": 1}
        assert rollout.faults() == []
        registry.set_alias("champion", 1)
        (fault,) = rollout.faults()
        assert "'champion' has version 1, and the label 'stable' has version 2" in fault
        rollout.rollback()
        assert registry.aliases() == {"champion": 1}
        assert rollout.faults() == []
    assert entries(path)[-1]["aliases"] == {"champion": 1}
