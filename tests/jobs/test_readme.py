"""The README's quickstart on one's own Parquet, run as it is written there."""

import re
import shlex

import polars as pl
import pytest
from absl import flags

from cmdcm.core.config import load_config
from cmdcm.core.errors import CmdcmError
from cmdcm.datasets.log import open_event_log
from cmdcm.datasets.simulator import simulate
from cmdcm.jobs import main as cli
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.conftest import SMALL

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## Your own log, in twenty lines")[1].split("\n## ")[0]
(TOML,) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
KINDS = {"click": "view", "cart": "add_to_basket", "favourite": "wishlist", "purchase": "order"}


def test_it_has_every_exit_code():
    codes = {CmdcmError.exit_code, *(error.exit_code for error in CmdcmError.__subclasses__())}
    told = set(map(int, re.findall(r"^\| (\d+) \|", README, re.MULTILINE)))
    assert told == {0, *codes, 130}
    assert set(map(int, re.findall(r"(?:codes: |; )(\d+) ", cli.__doc__))) == told


def test_it_keeps_its_promise_of_twenty_lines():
    assert len((TOML + COMMANDS).strip().splitlines()) <= 20


@pytest.mark.slow
def test_the_quickstart_runs_as_written(tmp_path, monkeypatch):
    world = load_config(
        overrides=[
            *SMALL,
            "simulate.promotions=['black_friday']",
            "simulate.first_year=2024",
            "calendar.built_in='black_friday'",
            "calendar.timezone='Europe/Berlin'",
        ]
    )
    simulate(tmp_path / "world", world)
    log = open_event_log(tmp_path / "world" / "events").scan().collect()
    (tmp_path / "my_logs").mkdir()
    kinds = log["kind"].cast(pl.String)
    log.filter(kinds.is_in(list(KINDS))).select(
        customer="user_id",
        sku="item_id",
        action=pl.col("kind").cast(pl.String).replace(KINDS),
        at="timestamp",
        category="category_id",
    ).write_parquet(tmp_path / "my_logs" / "part.parquet")
    (tmp_path / "mine.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    flags.FLAGS.mark_as_parsed()
    small = [word for setting in SMALL for word in ("--set", setting)]
    commands = [shlex.split(line) for line in COMMANDS.strip().splitlines()]
    assert [words[1] for words in commands] == [
        "import",
        "features",
        "train",
        "evaluate",
        "report",
        "export",
        "serve",
    ]
    for words in commands[:-1]:
        assert cli.main(cli.parse([*words, *small])) == 0, words
    assert (tmp_path / "out" / "report.html").exists()
    # What `serve` would start on is a complete version.
    assert (tmp_path / "out" / "serving" / "cmdcm" / "1" / "manifest.json").exists()
    assert cli.parse(commands[-1]).command == "serve"
