"""`cmdcm registry`, as a shell calls it."""

import json

import pytest

from cmdcm.core.files import write_json
from cmdcm.jobs.main import main, parse
from cmdcm.model.evaluation import KIND
from cmdcm.tests.jobs.registry.exports import evaluation, export, trained
from cmdcm.tests.jobs.rollout.world import write_config

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two registered versions, the second of another learning rate and a better loss."""
    root = tmp_path_factory.mktemp("command")
    (root / "evaluation").mkdir()
    write_json(
        root / "evaluation" / "evaluation.json",
        {"kind": KIND, **evaluation({"auc": 0.7})},
    )
    for number, loss in ((1, 0.25), (2, 0.125)):
        export(root / "base", number)
        trained(
            root / str(number),
            loss,
            (f"training.learning_rate={0.001 * number}",),
        )
        flags = ["--export", root / "base" / str(number) if number == 1 else root / "base"]
        flags += ["--trained", root / str(number) / "run" / "model"]
        flags += ["--evaluation", root / "evaluation", "--promotion", "double11-2024"]
        assert registry(root, "register", *flags) == 0
    return root


def registry(root, *arguments: object) -> int:
    command = ["cmdcm", "registry", *map(str, arguments), "--model", "tiny"]
    return main(parse([*command, "--set", f'tracking.uri="sqlite:///{root}/mlflow.db"']))


def test_sync_sets_the_aliases_and_list_shows_them(store, tmp_path, capsys):
    path = write_config(
        tmp_path / "models.config", store / "base", {"stable": 1, "canary": 2}, 1, 2
    )
    assert registry(store, "list", "--model_config_file", path) == 6
    assert "run cmdcm registry sync" in capsys.readouterr().err
    assert registry(store, "sync", "--model_config_file", path) == 0
    assert capsys.readouterr().out == "challenger = 2, champion = 1\n"
    assert registry(store, "list", "--model_config_file", path) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["version", "aliases"]
    assert first.split()[:2] == ["1", "champion"]
    assert second.split()[:2] == ["2", "challenger"]
    assert "2024-10-20..2024-10-21, 2 days" in second


def test_show_has_the_whole_lineage(store, capsys):
    assert registry(store, "show", 1) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert shown["config.training.learning_rate"] == "0.001"
    assert shown["data.train.rows"] == "20"
    assert shown["metrics.test/conversion/auc"] == "0.7"
    assert registry(store, "show", 2, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["version"] == 2
    assert printed["lineage"]["promotion"] == "double11-2024"


def test_diff_has_what_differs_and_by_how_much(store, capsys):
    assert registry(store, "diff", 1, 2) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["config.training.learning_rate"] == ["0.001", "0.002", "+0.001"]
    assert lines["metrics.validation/log_loss_conversion"] == ["0.25", "0.125", "-0.125"]
    assert "config.training.batch_size" not in lines
    assert registry(store, "diff", 1, 1) == 0
    assert "were made of the same" in capsys.readouterr().out
    assert registry(store, "diff", 1, 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["config.training.learning_rate"] == [
        "0.001",
        "0.002",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show"], 2, "show takes 1 versions"),
        (["list", "1"], 2, "list takes no versions"),
        (["register", "--export", "x"], 2, "register needs --export and --trained"),
        (["sync"], 2, "set --model_config_file"),
        (["show", "9"], 3, "9 is neither a registered version"),
    ],
)
def test_bad_usage(store, capsys, arguments, code, message):
    assert registry(store, *arguments) == code
    assert message in capsys.readouterr().err
