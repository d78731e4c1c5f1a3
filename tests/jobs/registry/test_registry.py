"""The registry: what is registered, under which number, with which lineage and aliases."""

import json
from pathlib import Path

import pytest

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import sha256
from cmdcm.core.revision import code_revision
from cmdcm.jobs.registry.lineage import Lineage, lineage_of
from cmdcm.jobs.registry.registry import Registry
from cmdcm.tests.jobs.registry.exports import evaluation, export, trained

pytest.importorskip("mlflow")

_MODELS = iter(range(1_000_000))


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


@pytest.fixture
def registry(uri) -> Registry:
    """A model of its own in one store, which takes seconds to make."""
    return Registry(uri, f"model-{next(_MODELS)}")


LINEAGE = Lineage(
    model="cmdcm",
    data={"train": {"first": "2024-10-20", "last": "2024-10-21", "days": 2, "rows": 20}},
    metrics={"validation/auc_direct": 0.75},
    promotion="double11-2024",
)


def test_a_version_is_registered_once_under_its_folders_number(registry, tmp_path):
    folder = export(tmp_path, 7)
    assert registry.versions() == []
    assert registry.register(folder, LINEAGE) == 7
    assert registry.register(folder, LINEAGE) == 7
    (version,) = registry.versions()
    assert (version.version, version.export, version.aliases) == (7, str(folder), ())
    assert version.manifest_sha256 == sha256(folder / "manifest.json")
    assert version.tags["data.train"] == "2024-10-20..2024-10-21, 2 days"
    assert version.tags["promotion"] == "double11-2024"
    assert registry.lineage(7) == LINEAGE


def test_numbers_need_not_be_in_the_order_of_registration(registry, tmp_path):
    for number in (12, 3, 9):
        registry.register(export(tmp_path, number), LINEAGE)
    assert [v.version for v in registry.versions()] == [3, 9, 12]
    registry.set_alias("champion", 9)
    registry.set_alias("challenger", 12)
    assert registry.aliases() == {"champion": 9, "challenger": 12}
    assert registry.resolve("champion").version == registry.resolve(9).version == 9
    registry.set_alias("champion", 12)
    assert registry.resolve(12).aliases == ("challenger", "champion")
    registry.set_alias("challenger", None)
    registry.set_alias("challenger", None)  # it is gone already
    assert registry.aliases() == {"champion": 12}


def test_what_is_not_registered_is_named_with_what_is(registry, tmp_path):
    registry.register(export(tmp_path, 3), LINEAGE)
    registry.set_alias("champion", 3)
    for name in (4, "challenger"):
        with pytest.raises(DataError, match=rf"{name} is neither .*\[3\].*'champion': 3"):
            registry.resolve(name)
    with pytest.raises(DataError, match="4 is neither"):
        registry.set_alias("challenger", 4)


def test_one_number_has_one_content(registry, tmp_path):
    registry.register(export(tmp_path / "a", 3), LINEAGE)
    with pytest.raises(DataError, match=r"registered with another content, from .*/a/3"):
        registry.register(export(tmp_path / "b", 3, "another graph"), LINEAGE)


def test_what_is_no_whole_version_is_refused(registry, tmp_path):
    folder = export(tmp_path, 3)
    (folder / "saved_model.pb").write_text("damaged")
    with pytest.raises(DataError, match=r"saved_model.pb: SHA-256 differs"):
        registry.register(folder, LINEAGE)
    with pytest.raises(DataError, match="is no version: expected BASE/NUMBER"):
        registry.register(tmp_path, LINEAGE)
    with pytest.raises(DataError, match="manifest of the export not found"):
        registry.register(tmp_path / "4", LINEAGE)
    assert registry.versions() == []


def test_the_lineage_of_a_trained_model(tmp_path):
    model = trained(tmp_path, overrides=("training.warm_start='s3://key:secret@b/model'",))
    lineage = lineage_of(
        model, evaluation=evaluation({"auc": 0.7, "pcoc": None}), promotion="p", as_of="2024-10-25"
    )
    assert lineage.data["train"] == {
        "first": "2024-10-20", "last": "2024-10-21", "days": 2, "rows": 20,
    }  # fmt: skip
    assert "test" not in lineage.data  # it has no days
    assert lineage.metrics == {
        "validation/log_loss_conversion": 0.125,  # the best epoch is the first
        "validation/auc_direct": 0.75,
        "test/conversion/auc": 0.7,
    }
    assert lineage.examples_sha256 == sha256(tmp_path / "examples" / "manifest.json")
    assert lineage.code_revision == code_revision()
    assert "secret" not in json.dumps(lineage.as_dict())
    assert lineage.as_dict()["parent"] == "s3://***@b/model"


def test_a_lineage_needs_its_model_in_the_evaluation(tmp_path):
    two = evaluation({"auc": 0.7}, "a")
    two["models"]["b"] = two["models"]["a"]
    with pytest.raises(DataError, match=r"no model 'cmdcm'; it has \['a', 'b'\]"):
        lineage_of(trained(tmp_path), evaluation=two)
    chosen = lineage_of(trained(tmp_path / "2"), evaluation=two, evaluated_as="b")
    assert chosen.metrics["test/conversion/auc"] == 0.7


def test_a_lineage_of_a_later_cmdcm_can_be_read():
    assert Lineage.from_dict({**LINEAGE.as_dict(), "new": 1}, "x") == LINEAGE
    with pytest.raises(DataError, match="x holds no lineage"):
        Lineage.from_dict([], "x")


def test_the_run_of_the_training_holds_the_lineage(registry, tmp_path):
    client = registry._client
    run = client.create_run(registry._store.experiment("trainings")).info.run_id
    lineage = Lineage(**{**LINEAGE.as_dict(), "training_run": run})
    registry.register(export(tmp_path, 3), lineage)
    assert registry.resolve(3).run == run
    gone = Lineage(**{**LINEAGE.as_dict(), "training_run": "0" * 32})
    registry.register(export(tmp_path, 4), gone)
    assert registry.resolve(4).run not in (run, "0" * 32)
    assert client.get_run(registry.resolve(4).run).data.metrics == {"validation/auc_direct": 0.75}


def test_a_store_that_is_not_there_is_an_error_without_its_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(OutputError, match=r"MLflow at http://127.0.0.1:1 failed"):
        Registry("http://127.0.0.1:1", "cmdcm").versions()
    (tmp_path / "no.db").write_text("this is no database, and it is long enough to be one" * 9)
    with pytest.raises(OutputError, match=r"no\.db failed"):
        Registry(f"sqlite:///{Path(tmp_path, 'no.db')}", "cmdcm")
