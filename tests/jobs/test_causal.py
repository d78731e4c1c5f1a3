"""The causal section, from the command line to the page."""

import copy
import json

import polars as pl
import pytest

from cmdcm.core.config import Config, EvaluationConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.causal_section import CALIBRATED, POPULATION_TEXTS
from cmdcm.jobs.report import render
from cmdcm.jobs.tables import bounds, number
from cmdcm.model.causal.balance import ENCODINGS
from cmdcm.model.causal.summary import Provenance
from cmdcm.model.evaluation import evaluate
from cmdcm.tests.conftest import SMALL
from cmdcm.tests.jobs.page import Page
from cmdcm.tests.jobs.test_cli import cmdcm
from cmdcm.tests.model.predictions_data import causal_predictions

CONFIG = EvaluationConfig(bootstrap=20, min_slice_rows=300, lambdas=(1.0, 2.0))
BALANCE = ({"covariate": "price", "before": 0.4, "after": 0.02},)


def page(evaluation):
    return Page(
        render(
            evaluation=evaluation,
            training={},
            data={},
            config=Config().model_dump(mode="json"),
            title="t",
        )
    )


def words(shown):
    return " ".join("".join(shown.text).split())


@pytest.fixture(scope="module")
def evaluation():
    frames = causal_predictions(rows=2_000)
    origin = Provenance(frozenset(), 0.02, BALANCE)
    return evaluate(frames, CONFIG, 1, provenance=dict.fromkeys(frames, origin))


@pytest.fixture(scope="module")
def shown(evaluation):
    return page(evaluation)


def test_every_average_is_shown_with_interval_p_value_and_truth(shown, evaluation):
    for name in ("cmdcm", "oracle"):
        rows = shown.table(f"Targeted averages of {name}")["rows"]
        assert [row[0] for row in rows[1:]] == list(POPULATION_TEXTS.values())
        populations = evaluation["models"][name]["causal"]["populations"]
        for row, averages in zip(rows[1:], populations.values(), strict=True):
            effect = averages["effect"]
            cells = [" ".join(cell.split()) for cell in row]
            assert cells[3] == f"{effect['estimate']:+.5f} {bounds(effect, 5, signed=True)}"
            assert cells[4] in ("< 0.001", f"{effect['adjusted_p_value']:.3f}")
            assert cells[5] == number(effect["plug_in"], 5, signed=True)
            assert cells[6] == number(effect["truth"], 5, signed=True)


def test_bounds_overlap_calibration_and_slices_are_tables(shown, evaluation):
    summary = evaluation["models"]["cmdcm"]["causal"]
    rows = shown.table("Bounds of the average effect under hidden confounding of cmdcm")["rows"]
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    entry = summary["sensitivity"]["bounds"][1]["effect"]
    assert f"{entry['lower']:.5f} to {entry['upper']:.5f}" in rows[2][3]
    rows = shown.table("Overlap of cmdcm")["rows"]
    assert rows[1][2] == f"{summary['overlap']['carted']['effective']:.0f}"
    rows = shown.table("Calibration of cmdcm")["rows"]
    assert [row[0] for row in rows[1:]] == list(CALIBRATED.values())
    rows = shown.table("Effect of cmdcm by slice, each targeted by itself: Day")["rows"]
    assert [row[0] for row in rows[1:]] == [e["slice"] for e in summary["slices"]["day"]]
    captions = [table["caption"] for table in shown.tables]
    assert not any("by slice" in c and "Promotion;" in c for c in captions)


def test_the_order_of_a_file_s_keys_does_not_matter(shown, evaluation):
    again = page(json.loads(json.dumps(evaluation, sort_keys=True)))
    assert [table["rows"] for table in again.tables if "cmdcm" in table["caption"]] == [
        table["rows"] for table in shown.tables if "cmdcm" in table["caption"]
    ]


def test_the_plots_are_there_with_texts_of_their_own(shown):
    alts = [image["alt"] for image in shown.images]
    assert len(set(alts)) == len(alts)
    for start in (
        "Propensity histograms of cmdcm",
        "Bounds of the average effect of carting by Lambda for cmdcm",
        "Calibration of e of cmdcm",
        "Calibration of r1 of cmdcm",
        "Calibration of r0 of cmdcm",
        "Standardised mean differences of the most different inputs of cmdcm",
    ):
        assert sum(alt.startswith(start) for alt in alts) == 1, start
    text = words(shown)
    assert "1 of 1 numeric inputs differ by more than 0.1" in text
    assert "0 after weighting" in text


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        (1.0, "holds 0 without any hidden confounding"),
        (2.345, "sign of the average effect is lost at Λ = 2.3"),
        (None, "stands any hidden confounding up to an odds ratio of 100"),
    ],
)
def test_the_loss_of_the_sign_is_said_in_words(evaluation, lost, sentence):
    other = copy.deepcopy(evaluation)
    other["models"]["cmdcm"]["causal"]["sensitivity"]["sign_lost"]["interval"] = lost
    assert sentence in words(page(other))


def test_without_outcomes_in_an_arm_the_page_says_so(evaluation):
    frames = {
        name: frame.with_columns(delayed=pl.col("delayed") * pl.col("cart"))
        for name, frame in causal_predictions(rows=2_000).items()
    }
    origin = Provenance(frozenset(), 0.02)
    empty = evaluate(frames, CONFIG, 1, provenance=dict.fromkeys(frames, origin))
    assert "An arm has no delayed purchase" in words(page(empty))
    assert "Targeted averages" not in words(page(evaluate(frames, CONFIG, 1)))


def test_words_mark_differences_by_their_corrected_p_value():
    frames = causal_predictions(rows=2_000)
    evaluation = evaluate(frames, CONFIG, 1, "oracle")
    cell = evaluation["models"]["cmdcm"]["heads"]["delayed"]["differences"]["log_loss"]
    assert cell["estimate"] > 0

    def marked(word):
        return sum(
            word in cell
            for table in page(evaluation).tables
            if table["caption"].startswith("Paired differences to oracle; p with Holm")
            for row in table["rows"][1:]
            for cell in row
        )

    for head in evaluation["models"]["cmdcm"]["heads"].values():
        for value in head["differences"].values():
            value["adjusted_p_value"] = 0.051
    assert marked("worse") == marked("better") == 0
    cell["adjusted_p_value"] = 0.049
    assert (marked("worse"), marked("better")) == (1, 0)


def test_a_trained_model_s_effect_is_evaluated_and_reported(tmp_path, small_world, capsys):
    settings = [
        word
        for setting in (
            *SMALL,
            "training.epochs=1",
            'evaluation.balance_covariates=["user_history", "user_item_counts"]',
            "evaluation.correction=benjamini_hochberg",
        )
        for word in ("--set", setting)
    ]
    run, output = tmp_path / "run", tmp_path / "evaluation"
    examples = ["--examples", small_world.examples]
    assert cmdcm("train", *examples, "--output", run, *settings) == 0
    model = ["--model", run / "model", "--truth", small_world.truth]
    assert cmdcm("evaluate", *examples, *model, "--output", output, *settings) == 0
    assert cmdcm("report", "--evaluation", output, "--output", tmp_path / "report.html") == 0
    capsys.readouterr()

    evaluation = json.loads((output / "evaluation.json").read_text())
    summary = evaluation["models"]["cmdcm"]["causal"]
    frame = pl.read_parquet(output / "predictions-cmdcm.parquet").filter(pl.col("direct") == 0)
    truth = pl.read_parquet(output / "predictions-oracle.parquet").filter(pl.col("direct") == 0)
    assert (summary["rows"], summary["carted"]) == (len(frame), frame["cart"].sum())
    assert summary["clip"] == small_world.config.model.propensity_clip
    effect = summary["populations"]["all"]["effect"]
    assert effect["truth"] == pytest.approx((truth["r1"] - truth["r0"]).mean())
    assert effect["lower"] < effect["estimate"] < effect["upper"]
    spec = FeatureSpec.load(run / "model" / "spec.json")
    counts = spec["user_item_counts"]
    assert counts.encoding in ENCODINGS
    assert {entry["covariate"] for entry in summary["balance"]} == {
        "user_history",
        *(f"user_item_counts.{name}" for name in counts.components),
    }
    assert any(abs(entry["before"] or 0) > 0.1 for entry in summary["balance"])
    shown = Page((tmp_path / "report.html").read_text())
    assert shown.table("Targeted averages of cmdcm")
    assert "Benjamini-Hochberg" in words(shown)

    seen = evaluation["data"]["first_day"]
    manifest = json.loads((run / "model" / "manifest.json").read_text())
    assert seen not in {*manifest["split"]["train"], *manifest["split"]["validation"]}
    manifest["split"]["validation"].append(seen)
    (run / "model" / "manifest.json").write_text(json.dumps(manifest))
    again = ["--output", tmp_path / "again", *settings]
    assert cmdcm("evaluate", *examples, *model, *again) == 3
    assert seen in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
