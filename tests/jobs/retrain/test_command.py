"""`cmdcm retrain` with fake steps: days made up for, exit codes, signals."""

import signal
from pathlib import Path

import pytest

from cmdcm.core.errors import DataError, ExportError, PreemptedError
from cmdcm.jobs.main import main, parse
from cmdcm.tests.jobs.retrain.worlds import ALL, CALENDAR, PROMOTION, FakeSteps, config_of


@pytest.fixture
def fakes(monkeypatch) -> FakeSteps:
    return FakeSteps().install(monkeypatch)


@pytest.fixture
def run(tmp_path, fakes):
    """Runs the command as of a day; returns its exit code."""
    settings = config_of(tmp_path).retrain
    lines = [
        "[retrain]",
        *(f'{n} = "{getattr(settings, n)}"' for n in ("events", "work", "output")),
    ]
    lines += ["[calendar]", f'timezone = "{CALENDAR["calendar"]["timezone"]}"']
    for promotion in CALENDAR["calendar"]["promotions"]:
        lines += ["[[calendar.promotions]]", *(f'{k} = "{v}"' for k, v in promotion.items())]
    file = tmp_path / "production.toml"
    file.write_text("\n".join(lines), encoding="utf-8")

    def command(*flags: str, as_of: str = "2024-06-13") -> int:
        line = ["retrain", "--config", str(file), "--promotion", PROMOTION, "--as-of", as_of]
        return main(parse(["cmdcm", *line, *flags]))

    return command


def pages(folder: Path) -> list[str]:
    return sorted(page.parent.name for page in folder.rglob("decision.html"))


def test_missed_days_are_made_up_for_up_to_the_gate(run, fakes, tmp_path, capsys):
    assert run("--backfill", "2024-06-11") == 0
    days = [f"b-2024-202406{day}T1600Z" for day in (10, 11, 12)]  # midnight in Shanghai
    assert pages(tmp_path) == days
    assert fakes.ran[-5:] == ALL[ALL.index("export") :] and fakes.ran.count("export") == 1
    said = capsys.readouterr().out
    assert "2024-06-12  stopped: stopped after step gate" in said
    assert "2024-06-13  published" in said


def test_a_day_that_failed_is_in_the_exit_code(run, fakes):
    def missing(context, output):
        if context.window.last_day == "2024-06-10":
            raise DataError("2024-06-09 has no purchases")

    fakes.hooks["check"] = missing
    assert run("--backfill", "2024-06-11") == DataError.exit_code
    assert run() == 0
    fakes.accepted, fakes.model = False, "model-2"
    code = run("--backfill", "2024-06-11", "--set", "seed=5")
    assert code == ExportError.exit_code  # of the job itself


def test_a_dry_run_shows_each_day_and_writes_nothing(run, tmp_path, capsys):
    assert run("--backfill", "2024-06-12", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "as of 2024-06-12" in said and "as of 2024-06-13" in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("step", ["snapshot", "features", "evaluate", "export", "promote"])
def test_sigterm_in_any_step_frees_the_lock_and_the_same_command_goes_on(
    run, fakes, tmp_path, capsys, step
):
    fakes.hooks[step] = lambda context, output: signal.raise_signal(signal.SIGTERM)
    assert run() == PreemptedError.exit_code
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert not list((tmp_path / "work" / "locks").glob("*.json")) and not pages(tmp_path)
    del fakes.hooks[step]
    assert run() == 0 and fakes.ran.count("snapshot") == (2 if step == "snapshot" else 1)
