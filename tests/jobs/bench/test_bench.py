"""`cmdcm bench` from the command line: trials resume, tables hold what the predictions say."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from cmdcm.core.files import verify_manifest
from cmdcm.core.revision import code_revision
from cmdcm.jobs.bench.plan import load_plan
from cmdcm.jobs.bench.sparsity import measure_gaps
from cmdcm.jobs.bench.trials import trials_of
from cmdcm.model.metrics import auc, log_loss
from cmdcm.model.trained import load_history
from cmdcm.tests.conftest import SMALL
from cmdcm.tests.jobs.page import Page
from cmdcm.tests.jobs.test_cli import cmdcm, parsed_flags

__all__ = ["parsed_flags"]

MODELS = ("cmdcm", "vanilla")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    settings = [*SMALL, "simulate.events=30000", "training.epochs=1"]
    path.write_text(
        f"title = 'Tried'\nbaseline = 'cmdcm'\nseeds = [1, 2]\nset = {json.dumps(settings)}\n"
        "[worlds.world]\n[models.cmdcm]\n[models.vanilla]\nset = ['model.name=vanilla']\n"
        "[models.ceiling]\nset = ['model.name=single_task']\ntruth = true\n"
    )
    return path


@pytest.fixture(scope="module")
def output(plan, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("bench")
    assert bench(plan, output) == 0
    return output


def bench(plan: Path, output: Path, *more: str) -> int:
    return cmdcm("bench", "--plan", plan, "--output", output, "--workers", "1", *more)


def trial(output: Path, seed: int, model: str) -> Path:
    (folder,) = output.glob(f"trials/world-{seed}-*/{model}-*")
    return folder


def test_results_are_those_of_the_predictions(output):
    verify_manifest(output / "results")
    seeds = pl.read_parquet(output / "results" / "seeds.parquet")
    frame = pl.read_parquet(trial(output, 2, "cmdcm") / "predictions.parquet")
    for metric in (auc, log_loss):
        (value,) = seeds.filter(
            pl.col("seed") == 2,
            pl.col("model") == "cmdcm",
            pl.col("head") == "conversion",
            pl.col("metric") == metric.__name__,
        )["value"]
        expected = metric(frame["conversion"].to_numpy(), frame["p_conversion"].to_numpy())
        assert value == pytest.approx(expected)
    results = pl.read_parquet(output / "results" / "results.parquet")
    assert set(results["model"]) == {"cmdcm", "vanilla", "ceiling", "oracle"}
    gap = results.filter(pl.col("metric") == "gap_closed")
    assert dict(zip(gap["model"], gap["estimate"], strict=True))["oracle"] == 1


def test_pages_hold_the_tables(output):
    text = (output / "results" / "results.md").read_text()
    assert "| vanilla |" in text
    assert "## world: conversion" in text
    page = Page((output / "results" / "results.html").read_text())
    captions = {table["caption"] for table in page.tables}
    assert {"world: conversion", "Cost, mean over the seeds"} <= captions
    assert not [value for _, name, value in page.attributes if name in ("src", "href")]
    assert page.row("world: conversion", "oracle")[-1] == "1.000 [1.000 to 1.000]"
    # Of each metric one of the two rivals is marked, and never what knows the truth.
    rivals = [page.row("world: conversion", name) for name in ("cmdcm", "vanilla")]
    marked = [
        sum("\N{BLACK STAR}" in cell for cell in cells) for cells in zip(*rivals, strict=True)
    ]
    assert marked == [0, 1, 0, 1, 0, 1, 1, 1]  # model, AUC, -, log loss, -, PCOC, RI, RI
    for name in ("ceiling", "oracle"):
        assert "\N{BLACK STAR}" not in "".join(page.row("world: conversion", name))


def test_the_cost_of_each_model_is_measured(output):
    for model in ("cmdcm", "vanilla", "ceiling"):
        cost = json.loads((trial(output, 1, model) / "trial.json").read_text())
        assert cost["scoring_ms"] > 0
        assert cost["examples_per_second"] > 0
    assert not (trial(output, 1, "ceiling") / "examples").exists()


def test_the_ceiling_learns_more_than_outcomes_teach(output):
    config = json.loads((trial(output, 1, "ceiling") / "model" / "config.json").read_text())
    assert config["model"]["name"] == "single_task"
    spec = json.loads((trial(output, 1, "ceiling") / "model" / "spec.json").read_text())
    (label,) = (f for f in spec["features"] if f["name"] == "conversion")
    assert label["dtype"] == "float32"


def test_what_is_done_is_not_done_again(output, plan, tmp_path):
    copy = shutil.copytree(output, tmp_path / "copy")
    kept = trial(copy, 1, "cmdcm") / "trial.json"
    lost = trial(copy, 1, "vanilla") / "trial.json"
    before = kept.stat().st_mtime_ns
    predictions = pl.read_parquet(lost.parent / "predictions.parquet")
    lost.unlink()  # as if the run had been killed before its end
    (lost.parent / "predictions.parquet").unlink()
    assert bench(plan, copy) == 0
    assert kept.stat().st_mtime_ns == before
    assert lost.exists()
    # The trial that was made anew is the same one: same seed, same result.
    again = pl.read_parquet(lost.parent / "predictions.parquet")
    assert again.equals(predictions)
    assert pl.read_parquet(copy / "results" / "results.parquet").equals(
        pl.read_parquet(output / "results" / "results.parquet")
    )


def test_trials_of_other_code_are_told(output, plan, tmp_path):
    assert "The code is" not in (output / "results" / "results.md").read_text()
    copy = shutil.copytree(output, tmp_path / "copy")
    made = trial(copy, 1, "cmdcm") / "trial.json"
    made.write_text(json.dumps(json.loads(made.read_text()) | {"code_revision": "abc"}))
    assert bench(plan, copy) == 0
    told = f"The code is {code_revision()}; the trials were made by "
    for name in ("results.md", "results.html"):
        text = (copy / "results" / name).read_text()
        assert told in text
        assert "abc" in text.split(told)[1].split(".")[0]


def test_a_trial_that_fails_is_named_and_the_others_are_made(output, plan, tmp_path, capfd):
    copy = shutil.copytree(output, tmp_path / "copy")
    (trial(copy, 1, "vanilla") / "trial.json").unlink()
    broken = tmp_path / "plan.toml"
    bad = "[models.bad]\nset = ['split.test=[\"nothing\"]']\n"
    broken.write_text(plan.read_text().replace("[models.vanilla]", f"{bad}[models.vanilla]"))
    assert bench(broken, copy, "--seeds", "1") == 1
    message = capfd.readouterr().err
    assert "1 of 2 trials failed: world seed 1 bad: " in message
    assert "nothing" in message
    assert (trial(copy, 1, "vanilla") / "trial.json").exists()


@pytest.mark.slow
def test_a_model_goes_on_from_its_base_which_is_trained_once(small_world, tmp_path):
    path, output = tmp_path / "plan.toml", tmp_path / "out"
    path.write_text(
        f"title = 'T'\nbaseline = 'base'\nseeds = [1]\nset = {json.dumps(SMALL)}\n"
        f"[worlds.world]\nevents = {json.dumps(str(small_world.events))}\n"
        "[models.hdr]\nset = ['model.name=hdr', 'training.on_forgetting=warn']\nbase = 'base'\n"
        "[models.base]\nset = ['model.name=single_task']\n"
    )
    assert bench(path, output) == 0
    (base,), (own,) = (list(output.glob(f"trials/*/{name}-*")) for name in ("base", "hdr"))
    manifest = json.loads((own / "model" / "manifest.json").read_text())
    assert manifest["warm_start"]["source"] == str(base / "model")
    # It begins where its base ended.
    losses = [
        [r["val_log_loss_conversion"] for r in load_history(trial / "model")]
        for trial in (base, own)
    ]
    assert losses[1][0] == pytest.approx(min(losses[0]), rel=1e-6)
    costs = [json.loads((trial / "trial.json").read_text()) for trial in (base, own)]
    assert costs[1]["epochs"] == len(losses[1]) - 1
    # What it leaves as it is, it reads.
    assert costs[1]["parameters_read"] > costs[0]["parameters_read"]
    moved = output.rename(tmp_path / "moved")
    made = {p: p.stat().st_mtime_ns for p in moved.glob("trials/*/*/trial.json")}
    assert bench(path, moved) == 0
    assert {p: p.stat().st_mtime_ns for p in moved.glob("trials/*/*/trial.json")} == made


def test_presets_belong_into_the_plan(plan, tmp_path, capsys):
    assert bench(plan, tmp_path / "out", "--preset", "demo") == 2
    assert "names the presets itself" in capsys.readouterr().err


def test_the_sparsity_gap_lies_between_vanilla_and_the_oracle_in_both_parts(output, plan):
    trials = trials_of(load_plan(str(plan)), output)
    assert all(trial.done for trial in trials)
    frame = measure_gaps(trials, min_rows=100)
    whole = frame.filter(pl.col("head") == "conversion", pl.col("slice") == "all")
    assert set(whole["part"]) == {"holdout", "later"}
    ends = {
        m: whole.filter(pl.col("model") == m)["share_oracle"].to_list()
        for m in ("vanilla", "oracle")
    }
    assert ends == {"vanilla": [0] * 4, "oracle": [1] * 4}
    later = whole.filter(pl.col("part") == "later", pl.col("seed") == 2)
    assert set(later["rows"]) == {len(trials[-1].predictions())}
    sliced = frame.filter(pl.col("slice") != "all", pl.col("model") == "oracle")
    assert sliced["pcoc"].to_numpy() == pytest.approx(1)


def test_costs_of_a_candidate(output):
    costs = {m: json.loads((trial(output, 1, m) / "trial.json").read_text()) for m in MODELS}
    for cost in costs.values():
        # Every dense weight is used at least once: a multiplication and an addition.
        assert cost["flops_per_candidate"] > cost["dense_parameters"] / 2
        assert cost["parameters_read"] > cost["dense_parameters"] / 2
    for name in ("parameters_read", "flops_per_candidate"):
        assert costs["cmdcm"][name] > costs["vanilla"][name]
