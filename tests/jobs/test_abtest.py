"""The simulated online experiment, from the command line to the page."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmdcm.core.config import Config
from cmdcm.core.files import read_json, verify_manifest, write_json, write_manifest
from cmdcm.export.saved_model import save_model
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.abtest import Replay, compare
from cmdcm.jobs.abtest_page import render
from cmdcm.jobs.auction import METRICS, Auctions
from cmdcm.jobs.tables import number
from cmdcm.model.trained import load_model
from cmdcm.model.training import train
from cmdcm.tests.jobs.page import Page
from cmdcm.tests.jobs.test_cli import cmdcm, parsed_flags, settings

__all__ = ["parsed_flags"]

SIZES = ("abtest.requests=200", "abtest.candidates=10", "abtest.slots=3")


@pytest.fixture(scope="module")
def trained(small_world, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    training = small_world.config.training.model_copy(update={"epochs": 1})
    config = small_world.config.model_copy(update={"training": training})
    train(ExampleSet.open(small_world.examples, config.split), run, config, progress=False)
    return run / "model"


def abtest(small_world, output: Path, models, *overrides: str, baseline="random") -> int:
    return cmdcm(
        *("abtest", "--events", small_world.events, "--output", output, "--baseline", baseline),
        *(word for model in models for word in ("--model", model)),
        *settings(*SIZES, *overrides),
    )


@pytest.fixture(scope="module")
def served(small_world, trained, tmp_path_factory) -> Path:
    version = tmp_path_factory.mktemp("version")
    model = load_model(trained)
    save_model(model, version, small_world.config.export)
    (version / "assets.extra").mkdir()
    model.spec.save(version / "assets.extra" / "feature_spec.json")
    return version


@pytest.fixture(scope="module")
def result(small_world, trained, served, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("abtest") / "out"
    models = [f"cmdcm={trained}", f"twin={trained}", "oracle", "random", f"served={served}"]
    assert abtest(small_world, output, models, baseline="cmdcm") == 0
    return output


def numbers(result: Path) -> dict:
    return json.loads((result / "abtest.json").read_text())


def test_the_experiment_is_published_whole(result):
    verify_manifest(result)
    found = numbers(result)
    assert found["policy_names"] == ["cmdcm", "twin", "oracle", "random", "served"]
    assert found["auctions"]["requests"] == 200
    assert found["settings"]["slots"] == 3
    assert found["promotion"] == "double12-2024"
    assert found["days"][0] == "2024-12-05"
    assert found["days"][-1] == "2024-12-11"
    # This export does not say on which days it was trained; a trained model does.
    assert [note.split()[0] for note in found["notes"]] == ["served"]


def test_identical_policies_do_not_differ_at_all(result):
    policies = numbers(result)["policies"]
    for metric in METRICS:
        for kind in ("happened", "expected"):
            twin = policies["twin"][metric][kind]
            assert twin["total"] == policies["cmdcm"][metric][kind]["total"]
            difference = twin["difference"]
            if difference["estimate"] is not None:
                assert difference["estimate"] == 0
                assert difference["p_value"] == difference["adjusted_p_value"] == 1
            if difference["lower"] is not None:
                assert difference["lower"] == difference["upper"] == 0
    assert policies["twin"]["revenue"]["expected"]["difference"]["lower"] == 0


def test_the_export_acts_as_its_model(result):
    policies = numbers(result)["policies"]
    for metric in METRICS:
        served, model = (policies[n][metric]["expected"]["total"] for n in ("served", "cmdcm"))
        assert served["estimate"] == pytest.approx(model["estimate"], rel=1e-3)


def test_nobody_earns_more_than_the_oracle_and_chance_earns_least(result):
    policies = numbers(result)["policies"]
    revenue = {n: p["revenue"]["expected"]["total"]["estimate"] for n, p in policies.items()}
    assert max(revenue, key=lambda name: revenue[name]) == "oracle"
    assert min(revenue, key=lambda name: revenue[name]) == "random"
    assert revenue["oracle"] > 1.1 * revenue["cmdcm"] > 1.1 * 1.1 * revenue["random"]
    share = policies["random"]["revenue"]["expected"]["oracle_share"]["estimate"]
    gain = revenue["oracle"] - revenue["cmdcm"]
    assert share == pytest.approx((revenue["random"] - revenue["cmdcm"]) / gain)


def test_an_export_is_refused_on_days_that_its_model_has_seen(
    small_world, served, tmp_path, capsys
):
    copy = shutil.copytree(served, tmp_path / "copy")
    write_manifest(copy, {"kind": "export", "seen_days": ["2024-10-05", "2024-12-10"]})
    assert abtest(small_world, tmp_path / "out", [f"served={copy}", "random"]) == 3
    assert "model 'served' was trained on 2024-12-10, to be replayed" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_numbers(small_world, tmp_path):
    for name in ("one", "two"):
        assert abtest(small_world, tmp_path / name, ["oracle", "random"]) == 0
    assert abtest(small_world, tmp_path / "three", ["oracle", "random"], "seed=2") == 0
    one, two, three = (numbers(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    # Another seed draws other auctions in the same world.
    assert one["policies"] != three["policies"]
    assert one["days"] == three["days"]


def test_the_page_shows_the_numbers(result):
    found = numbers(result)
    html = (result / "abtest.html").read_text()
    assert html == render(found)
    assert "http" not in html
    page = Page(html)
    caption = "Difference to cmdcm in %, expected"
    rows = page.table(caption)["rows"]
    assert [row[0] for row in rows] == ["Policy", "twin", "oracle", "random", "served"]
    shown = page.row(caption, "oracle")
    for cell, metric in zip(shown[1:], METRICS, strict=True):
        estimate = found["policies"]["oracle"][metric]["expected"]["difference"]["estimate"]
        assert cell.split()[0] == number(estimate, 2, signed=True)
    totals = page.row("Totals, happened", "random")
    clicks = found["policies"]["random"]["clicks"]["happened"]["total"]["estimate"]
    assert totals[1 + list(METRICS).index("clicks")].split()[0] == number(clicks, 1)


def users(count: int) -> Auctions:
    """An auction for each of some users, of which nothing but the user matters."""
    zeros, none = np.zeros(count, np.int64), np.zeros((count, 2), np.int64)
    return Auctions(np.arange(count), zeros, np.zeros(count), none, np.zeros((count, 2)))


def played(*totals: float, requests: int = 4) -> np.ndarray:
    """[requests, metrics]: each metric sums to its total; a request is a user's only one."""
    share = np.arange(1, requests + 1) / np.arange(1, requests + 1).sum()
    values = np.zeros((requests, len(METRICS)))
    values[:, : len(totals)] = share[:, None] * totals
    return values


def test_differences_and_shares_by_hand():
    auctions = users(40)
    by_policy = {"base": (10.0, 4.0), "better": (12.0, 3.0), "oracle": (15.0, 5.0)}
    parts = {n: (played(*t, requests=40),) * 2 for n, t in by_policy.items()}
    done = Replay("p", ("2024-12-05",), auctions, parts, ())
    found = compare(done, "base", Config())["policies"]
    better = found["better"]
    assert better["revenue"]["happened"]["difference"]["estimate"] == pytest.approx(20)
    assert better["delayed_gmv"]["expected"]["difference"]["estimate"] == pytest.approx(-25)
    assert better["revenue"]["expected"]["oracle_share"]["estimate"] == pytest.approx(0.4)
    # Every request gains in the same proportion: whatever users are drawn, it is 20 %.
    interval = better["revenue"]["happened"]["difference"]
    assert interval["lower"] == pytest.approx(20) == pytest.approx(interval["upper"])
    # A total varies with the users that are drawn.
    total = better["revenue"]["happened"]["total"]
    assert total["lower"] < 12 < total["upper"]
    assert "difference" not in found["base"]["revenue"]["happened"]
    assert "oracle_share" not in found["oracle"]["revenue"]["happened"]
    # Nothing was sold directly: no ratio.
    nothing = better["direct_gmv"]["happened"]
    assert nothing["difference"]["estimate"] is None is nothing["oracle_share"]["estimate"]


def test_p_values_are_corrected_over_the_whole_table():
    rng = np.random.default_rng(0)
    auctions = users(200)
    base = rng.random((200, len(METRICS)))
    parts = {"base": (base, base)}
    for name in ("a", "b"):
        values = base + rng.normal(0.01, 0.1, base.shape)
        parts[name] = (values, values)
    done = Replay("p", ("2024-12-05",), auctions, parts, ())
    found = compare(done, "base", Config())["policies"]
    entries = [found[n][m]["expected"]["difference"] for n in ("a", "b") for m in METRICS]
    smallest = min(entries, key=lambda entry: entry["p_value"])
    assert 0 < smallest["p_value"] < 0.2
    assert smallest["adjusted_p_value"] == pytest.approx(min(1, 12 * smallest["p_value"]))


def test_a_model_trained_on_the_replayed_days_is_refused(small_world, trained, tmp_path, capsys):
    def with_split(name: str, **parts) -> Path:
        copy = tmp_path / name
        shutil.copytree(trained, copy)
        manifest = read_json(copy / "manifest.json", "manifest")
        manifest["split"] |= parts
        write_json(copy / "manifest.json", manifest)
        return copy

    split = read_json(trained / "manifest.json", "manifest")["split"]
    none_left = with_split("none_left", test=[])
    assert abtest(small_world, tmp_path / "out", [f"a={none_left}", "random"]) == 3
    assert "no day of its window is a test day of model 'a'" in capsys.readouterr().err
    days = [*split["validation"], split["test"][-1]]
    stopped = with_split("stopped", validation=days)
    models = [f"a={trained}", f"b={stopped}", "random"]
    assert abtest(small_world, tmp_path / "out", models) == 3
    assert f"model 'b' was trained on {split['test'][-1]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("models", "overrides", "baseline", "code", "words"),
    [
        (["random", "oracle"], (), "cmdcm", 2, "--baseline cmdcm is none of the policies"),
        (["random", "random"], (), "random", 2, "there are two policies 'random'"),
        (["oracle={trained}"], (), "oracle", 2, "'oracle' is a built-in policy"),
        (["nowhere"], (), "nowhere", 3, "nowhere"),
        (["random"], ("abtest.promotion=double11-2030",), "random", 2, "no 'double11-2030'"),
        (["random"], ("abtest.slots=10",), "random", 2, "slots should be fewer than candidates"),
        (["random"], ("calendar.built_in=black_friday",), "random", 2, "are not all in [calendar]"),
        (
            ["m={trained}"],
            ("features.clicked_length=9",),
            "m",
            2,
            "model 'm' has other inputs than [features]",
        ),
    ],
)
def test_what_cannot_be_played_is_refused(
    small_world, trained, tmp_path, capsys, models, overrides, baseline, code, words
):
    models = [model.format(trained=trained) for model in models]
    out = tmp_path / "out"
    assert abtest(small_world, out, models, *overrides, baseline=baseline) == code
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_log_that_nobody_simulated_answers_no_policy(small_world, tmp_path, capsys):
    one = Path(shutil.copytree(small_world.events, tmp_path / "events"))
    (one / "manifest.json").unlink()
    code = cmdcm(
        *("abtest", "--events", one, "--model", "random", "--baseline", "random"),
        *("--output", tmp_path / "out"),
    )
    assert code == 3
    assert "is no simulated log" in capsys.readouterr().err


def test_an_output_that_is_there_is_kept(small_world, result, capsys):
    assert abtest(small_world, result, ["random"]) == 7
    assert "exists" in capsys.readouterr().err
    assert "oracle" in numbers(result)["policies"]
