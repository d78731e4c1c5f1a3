"""The command line from outside: the whole line on a small world, and every kind of bad input."""

import argparse
import errno
import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from absl import flags

from cmdcm.core.errors import PreemptedError
from cmdcm.core.files import verify_manifest
from cmdcm.jobs import main as cli
from cmdcm.tests.conftest import SMALL

TAOBAO = "1,10,5,pv,1511600000\n1,10,5,cart,1511600100\n1,10,5,buy,1512300000\n"


@pytest.fixture(autouse=True)
def parsed_flags():
    """Absl's own flags count as parsed, as `app.run` makes them."""
    flags.FLAGS.mark_as_parsed()


def cmdcm(*arguments: object) -> int:
    """Runs the command line in this process; returns its exit code."""
    try:
        return cli.main(cli.parse(["cmdcm", *map(str, arguments)]))
    except SystemExit as stop:
        return int(stop.code or 0)


def settings(*overrides: str) -> list[str]:
    return [word for setting in (*SMALL, *overrides) for word in ("--set", setting)]


@pytest.mark.slow
def test_the_demo_goes_from_raw_events_to_a_scored_request(tmp_path, capsys):
    output = tmp_path / "demo"
    assert cmdcm("demo", "--output", output, *settings("training.epochs=1")) == 0
    printed = capsys.readouterr().out
    for made in ("events", "truth", "examples", "evaluation", "serving/cmdcm/1"):
        verify_manifest(output / made)
    evaluation = json.loads((output / "evaluation" / "evaluation.json").read_text())
    assert set(evaluation["models"]) == {"vanilla", "single_task", "esmm", "cmdcm", "oracle"}
    page = (output / "report.html").read_text()
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert "served version 1 of cmdcm" in printed
    for column in ("p_direct", "p_cart", "p_delayed", "p_conversion", "cart_effect"):
        assert column in printed
    # The oracle knows the truth: no model beats it by chance in log loss.
    losses = {
        name: model["heads"]["conversion"]["metrics"]["log_loss"]["estimate"]
        for name, model in evaluation["models"].items()
    }
    assert min(losses, key=lambda name: losses[name]) == "oracle"

    rows = pl.read_parquet(output / "evaluation" / "predictions-cmdcm.parquet")
    assert np.allclose(rows["p_direct"] + rows["p_delayed"], rows["p_conversion"], atol=1e-6)

    assert cmdcm("demo", "--output", output, *settings()) == 7
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_on_a_raw_log_too_small_to_train_says_so(tmp_path, capsys):
    log = tmp_path / "UserBehavior.csv"
    log.write_text(TAOBAO)
    assert cmdcm("demo", "--format", "taobao", "--input", log, "--output", tmp_path / "out") == 3
    assert "split by time needs at least 3 days" in capsys.readouterr().err


def test_every_command_has_help_with_an_example(capsys):
    for name in cli.COMMANDS:
        assert cmdcm(name, "--help") == 0
        assert f"cmdcm {name} " in capsys.readouterr().out.split("example:")[1]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.gaet=true", ["--set model.gaet=true", "unknown key", "did you mean 'gate'"]),
        ("training.epochs=many", ["--set training.epochs=many", "valid integer", "'many'"]),
        ("nonsense", ["--set nonsense", "section.key=value"]),
    ],
)
def test_a_bad_setting_is_named_with_its_place(tmp_path, capsys, setting, words):
    code = cmdcm("simulate", "--output", tmp_path / "world", "--set", setting)
    assert code == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_a_bad_key_in_a_file_is_named_with_the_file(tmp_path, capsys):
    config = tmp_path / "mine.toml"
    config.write_text("[training]\nbatchsize = 3\n")
    assert cmdcm("simulate", "--output", tmp_path / "w", "--config", config) == 2
    message = capsys.readouterr().err
    assert str(config) in message and "training.batchsize" in message


def test_an_unknown_command_or_flag_is_wrong_usage(tmp_path):
    assert cmdcm("sing") == 2
    assert cmdcm("simulate", "--output", tmp_path / "w", "--loud") == 2
    assert cmdcm("demo", "--format", "taobao", "--output", tmp_path / "w") == 2


def raw(tmp_path: Path, text: str, name: str = "UserBehavior.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress((TAOBAO * 1000).encode())[:-20])
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: d / "absent.csv", ["absent.csv"]),
        (truncated, ["log.csv.gz", "truncated"]),
        (lambda d: raw(d, TAOBAO + "1,10,5,stare,1511600000\n"), ["line", "4", "stare"]),
        (lambda d: raw(d, TAOBAO + "1,10\n"), ["line", "4"]),
        (lambda d: raw(d, ""), []),
    ],
    ids=["missing file", "truncated gzip", "unknown kind", "short line", "empty file"],
)
def test_a_bad_raw_log_has_one_clear_message_and_leaves_nothing(tmp_path, capsys, make, words):
    events = tmp_path / "events"
    code = cmdcm("import", "--format", "taobao", "--input", make(tmp_path), "--output", events)
    assert code == 3
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert not events.exists()
    assert not list(tmp_path.glob(".*staging*"))


def test_a_wrong_column_of_a_parquet_log_is_named(tmp_path, capsys):
    log = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": [1], "sku": [2], "kind": ["click"]}).write_parquet(log)
    code = cmdcm("import", "--format", "parquet", "--input", log, "--output", tmp_path / "events")
    assert code == 3
    message = capsys.readouterr().err
    assert "item_id" in message and "timestamp" in message


def test_time_stamps_out_of_order_are_named_where_order_is_promised(tmp_path, capsys):
    log = raw(tmp_path, TAOBAO + "1,10,5,pv,1511500000\n")
    order = ["--set", "events.require_time_order=true"]
    code = cmdcm(
        "import", "--format", "taobao", "--input", log, "--output", tmp_path / "events", *order
    )
    assert code == 3
    message = capsys.readouterr().err
    assert "4" in message and "3" in message
    assert not (tmp_path / "events").exists()


def test_a_calendar_out_of_order_is_refused(tmp_path, small_world, capsys):
    config = tmp_path / "mine.toml"
    config.write_text(
        "[calendar]\npromotions = [{ name = 'x', kind = 'double11', warmup_start = '2024-10-20', "
        "pre_promotion_start = '2024-11-12', promotion_start = '2024-11-11', "
        "promotion_end = '2024-11-12' }]\n"
    )
    code = cmdcm(
        "features", "--events", small_world.events, "--output", tmp_path / "e", "--config", config
    )
    assert code == 2
    assert "'x'" in capsys.readouterr().err


def test_an_empty_window_names_the_log_and_the_calendar(tmp_path, small_world, capsys):
    examples = tmp_path / "examples"
    code = cmdcm(
        "features", "--events", small_world.events, "--output", examples, "--preset", "taobao"
    )
    assert code == 3
    message = capsys.readouterr().err
    assert "no click lies in a pre-promotion window" in message and "2023" in message
    assert not examples.exists()


def test_a_head_without_positives_is_refused(tmp_path, small_world, capsys):
    """A log without any purchase on the promotion days."""
    from cmdcm.datasets.calendar import built_in
    from cmdcm.datasets.log import open_event_log, write_event_log

    days = built_in("china").bounds()
    log = open_event_log(small_world.events)
    frame = log.scan().collect()
    times = frame["timestamp"].dt.epoch("ms").to_numpy()
    on_day = np.any([(times >= b[1]) & (times < b[2]) for b in days], axis=0)
    kept = frame.filter(~(pl.Series(on_day) & (frame["kind"] == "purchase")))
    table = kept.to_arrow().cast(log.schema)
    write_event_log(tmp_path / "events", [table], description={})
    examples, run = tmp_path / "examples", tmp_path / "run"
    overrides = settings()
    features = ["--events", tmp_path / "events", "--output", examples]
    assert cmdcm("features", *features, *overrides) == 0
    assert cmdcm("train", "--examples", examples, "--output", run, *overrides) == 3
    message = capsys.readouterr().err
    assert "0 positive labels 'delayed'" in message
    assert not (run / "model").exists()


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    code = cmdcm("simulate", "--output", tmp_path / "file" / "world", *settings())
    assert code == 7
    assert "file" in capsys.readouterr().err


def test_a_disk_full_halfway_publishes_nothing_and_the_same_command_goes_on(
    tmp_path, small_world, capsys, monkeypatch
):
    from cmdcm.features.encode import RecordWriter

    write, calls = RecordWriter.write, []

    def full(self: RecordWriter, data: memoryview) -> int:
        calls.append(data)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    examples = tmp_path / "examples"
    command = ["features", "--events", small_world.events, "--output", examples, *settings()]
    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "write", full)
        assert cmdcm(*command) == 7
    assert "no space left" in capsys.readouterr().err
    assert len(calls) == 4
    assert not examples.exists()
    assert cmdcm(*command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]
    verify_manifest(examples)


def test_a_model_is_not_evaluated_on_days_that_it_was_trained_on(tmp_path, small_world, capsys):
    from cmdcm.core.files import write_manifest
    from cmdcm.features.dataset import ExampleSet
    from cmdcm.jobs.commands import evaluate

    data = ExampleSet.open(small_world.examples, small_world.config.split)
    split = {"train": list(data.split.train), "validation": [data.split.test[0]]}
    write_manifest(tmp_path, {"kind": "model", "name": "cmdcm", "split": split})
    with pytest.raises(evaluate.DataError, match=data.split.test[0]):
        evaluate.check_split(data, tmp_path)


@pytest.mark.parametrize("begun", [False, True])
def test_stopped_before_an_earlier_run_is_gone_overwrite_is_still_to_be_passed(
    tmp_path, small_world, capsys, monkeypatch, begun
):
    def stopped(*_, observers, **__):
        for observer in observers if begun else ():
            observer.started(0)
        raise PreemptedError("stopped by SIGTERM: run the same command to go on")

    monkeypatch.setattr("cmdcm.jobs.commands.train.train", stopped)
    places = ("--examples", small_world.examples, "--output", tmp_path / "run", "--overwrite")
    assert cmdcm("train", *places, *settings("tracking.mlflow=false")) == 75
    assert ("but without --overwrite" in capsys.readouterr().err) is begun


def test_the_demo_replaces_only_what_a_demo_made(tmp_path, capsys):
    (tmp_path / "precious").write_text("x")
    assert cmdcm("demo", "--output", tmp_path, "--overwrite", *settings()) == 7
    assert "no demo's output" in capsys.readouterr().err
    assert (tmp_path / "precious").exists()


def test_commands_parse_into_a_namespace():
    args = cli.parse(["cmdcm", "train", "--examples", "e", "--output", "o", "--set", "seed=3"])
    assert isinstance(args, argparse.Namespace)
    assert (args.command, args.overrides) == ("train", ["seed=3"])
