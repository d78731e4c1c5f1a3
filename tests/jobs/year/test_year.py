"""A small year of three promotions with the real job, log, server and command."""

from pathlib import Path

import pytest

from cmdcm.core.errors import DataError, OutputError
from cmdcm.core.files import read_json, verify_manifest
from cmdcm.jobs.commands import year as command
from cmdcm.jobs.main import main, parse
from cmdcm.tests.jobs.retrain.test_end_to_end import SETTINGS

pytestmark = pytest.mark.slow
FAULTS = ("inflated_carts", "schema_change", "broken_export", "server_down")
OPEN = "min_pcoc=0, max_pcoc=0, max_normalised_entropy=0, min_auc=0"
MORE = (
    f"gate.by_head.delayed={{{OPEN}, max_log_loss_rise=0, max_auc_drop=0}}",
    "simulate.first_year=2023",
    "simulate.years=2",
    "retrain.max_daily_ratio=4",
    "retrain.max_price_ratio=5",
    "retrain.min_daily_events=12",
    "rollout.registry=false",
)


def year(output: Path, *words: str) -> int:
    line = ["cmdcm", "year", "--output", str(output), *words]
    for setting in (*SETTINGS, *MORE):
        line += ["--set", setting]
    return main(parse(line))


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("year") / "out"
    words = [word for fault in FAULTS for word in ("--fault", fault)]
    assert year(folder, "--nights", "1", *words) == 0
    return folder


def test_every_fault_is_met_as_the_handbook_says(output):
    record = read_json(output / "year.json", "year")
    attempts = record["attempts"]
    assert [(a["as_of"], a["fault"], a["outcome"], a["before"], a["after"]) for a in attempts] == [
        ("2024-06-01", "", "published", None, 1),
        ("2024-06-13", "inflated_carts", "failed", 1, 1),
        ("2024-06-13", "", "unchanged", 1, 1),
        ("2024-10-25", "broken_export", "failed", 1, 1),
        ("2024-10-25", "", "promoted", 1, 3),
        ("2024-11-06", "schema_change", "failed", 3, 3),
        ("2024-11-06", "", "unchanged", 3, 3),
        ("2024-11-28", "server_down", "failed", 3, 3),
        ("2024-11-28", "", "promoted", 3, 4),
        ("2024-12-09", "", "unchanged", 4, 4),
    ]
    assert not any(a["differs"] for a in attempts)
    reasons = {a["fault"]: a["reason"] for a in attempts}
    assert "step check failed" in reasons["inflated_carts"]
    assert "2024-06-12" in reasons["inflated_carts"]
    assert "step snapshot failed" in reasons["schema_change"]
    assert "2024-11.parquet" in reasons["schema_change"]
    assert "step infra failed" in reasons["broken_export"]
    assert "step canary failed" in reasons["server_down"]


def test_the_invariants_held_and_were_looked_at(output):
    held = read_json(output / "year.json", "year")["invariants"]
    assert [one["held"] for one in held] == [True, True, True]
    assert "versions that answered: [1, 3, 4]" in held[1]["evidence"]
    for version in (1, 3, 4):
        verify_manifest(output / "serving" / "cmdcm" / str(version))


def test_the_page_links_each_decision_and_loads_nothing(output):
    text = (output / "year.html").read_text(encoding="utf-8")
    assert "10 of 10 decisions are what the handbook says." in text
    assert "http" not in text and "<script" not in text
    assert len(list((output / "decisions").glob("*.html"))) == 10
    failed = output / "decisions" / "08-2024-11-28.html"
    assert f'href="decisions/{failed.name}"' in text
    assert "server" in failed.read_text(encoding="utf-8")


def test_wrong_usage_is_told_before_anything_is_simulated(tmp_path, capsys):
    assert year(tmp_path / "a", "--fault", "fire") == 2
    assert year(tmp_path / "a", "--no-faults", "--fault", "missing_day") == 2
    assert "exclude each other" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    assert year(tmp_path / "b") == 7
    assert not (tmp_path / "a").exists()
    capsys.readouterr()
    assert year(tmp_path / "b", "--overwrite") == 7
    assert "is no year's output" in capsys.readouterr().err
    assert (tmp_path / "b" / "mine").exists()  # no year made it


def test_an_earlier_year_is_replaced_when_that_is_asked_for(tmp_path, monkeypatch):
    def simulated(output, *_):
        (output / "log").mkdir()
        raise DataError("as far as the log")

    monkeypatch.setattr(command, "Year", simulated)
    assert year(tmp_path / "a") == DataError.exit_code
    assert year(tmp_path / "a") == OutputError.exit_code
    assert year(tmp_path / "a", "--overwrite") == DataError.exit_code

    def killed(path):
        for file in path.iterdir():
            file.unlink()
        raise OutputError("killed")

    (tmp_path / "a" / "log" / "day").touch()
    with monkeypatch.context() as patch:
        patch.setattr(command.shutil, "rmtree", killed)
        assert year(tmp_path / "a", "--overwrite") == OutputError.exit_code
    assert year(tmp_path / "a", "--overwrite") == DataError.exit_code
