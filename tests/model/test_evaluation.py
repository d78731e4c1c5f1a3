"""Evaluation of small frames: numbers, slices, comparisons, notes and what is refused."""

import json
from datetime import date

import numpy as np
import polars as pl
import pytest

from cmdcm.core.config import EvaluationConfig, LabelsConfig
from cmdcm.core.errors import DataError
from cmdcm.datasets.log import open_event_log
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.pipeline import build_dataset
from cmdcm.jobs.commands.evaluate import oracle
from cmdcm.model import metrics
from cmdcm.model.evaluation import DIFFERENCES, evaluate, load_evaluation, save_evaluation
from cmdcm.model.multiplicity import adjusted
from cmdcm.model.predictions import COLUMNS, HEADS
from cmdcm.model.registry import make_model
from cmdcm.model.scoring import predict
from cmdcm.tests.model.predictions_data import HOUR_MS, predictions

CONFIG = EvaluationConfig(bootstrap=20, min_slice_rows=1, calibration_bins=4)


def clicks(**columns):
    """Six clicks of three users on two days, with two direct and one delayed conversion."""
    frame = {
        "user_id": [1, 1, 1, 2, 2, 3],
        "item_id": [10, 11, 12, 10, 11, 10],
        "click_time_ms": [1, 2, 3, 4, 5, 6],
        "day": [date(2024, 11, 1)] * 4 + [date(2024, 11, 2)] * 2,
        "promotion": ["double11"] * 6,
        "direct": [1, 0, 0, 0, 1, 0],
        "cart": [0, 1, 0, 1, 0, 0],
        "delayed": [0, 1, 0, 0, 0, 0],
        "conversion": [1, 1, 0, 0, 1, 0],
        "conversion_delay_ms": [HOUR_MS // 12, 50 * HOUR_MS, -1, -1, HOUR_MS // 6, -1],
        "user_history": [0, 1, 9, 10, 49, 50],
        "p_conversion": np.array([0.5, 0.25, 0.25, 0.125, 0.75, 0.125], np.float32),
    }
    return pl.DataFrame({**frame, **columns})


def test_metrics_before_a_calibration_stand_beside_those_after_it():
    frames = predictions(rows=400, models=("esmm", "cmdcm"))
    raw = frames["cmdcm"]["p_direct"] * 1.7
    frames["cmdcm"] = frames["cmdcm"].with_columns(uncalibrated_p_direct=raw)
    evaluation = evaluate(frames, CONFIG, 1)
    heads = evaluation["models"]["cmdcm"]["heads"]
    before = heads["direct"]["uncalibrated"]
    assert before["pcoc"]["estimate"] == pytest.approx(
        1.7 * heads["direct"]["metrics"]["pcoc"]["estimate"], rel=1e-5
    )
    labels = frames["cmdcm"]["direct"].to_numpy()
    assert before["ece"]["estimate"] == pytest.approx(metrics.ece(labels, raw.to_numpy(), 4))
    assert before["log_loss"]["lower"] < before["log_loss"]["estimate"]
    assert heads["cart"]["uncalibrated"] is None
    assert evaluation["models"]["esmm"]["heads"]["direct"]["uncalibrated"] is None
    wrong = frames["cmdcm"].with_columns(uncalibrated_p_direct=raw + 1)
    with pytest.raises(DataError, match="'uncalibrated_p_direct' holds values that are no prob"):
        evaluate({"cmdcm": wrong}, CONFIG, 1)


def test_metrics_are_those_of_each_head():
    frames = predictions(rows=400)
    evaluation = evaluate(frames, CONFIG, 1, "vanilla")
    assert evaluation["model_names"] == ["vanilla", "esmm", "cmdcm"]
    assert list(evaluation["models"]["vanilla"]["heads"]) == ["conversion"]
    frame = frames["cmdcm"]
    assert tuple(evaluation["models"]["cmdcm"]["heads"]) == HEADS
    for head, result in evaluation["models"]["cmdcm"]["heads"].items():
        expected = metrics.summary(
            frame[head].to_numpy(), frame[f"p_{head}"].to_numpy(), frame["user_id"].to_numpy(), 4
        )
        assert result["rows"] == 400
        assert result["positives"] == frame[head].sum()
        estimates = {name: value["estimate"] for name, value in result["metrics"].items()}
        assert estimates == pytest.approx(expected), head
        for name in ("auc", "log_loss"):
            value = result["metrics"][name]
            assert value["lower"] < value["estimate"] < value["upper"]
        assert sum(bin_["rows"] for bin_ in result["calibration"]) == 400


def test_a_small_frame_by_hand():
    evaluation = evaluate({"m": clicks()}, CONFIG, 1)
    result = evaluation["models"]["m"]["heads"]["conversion"]
    values = {name: value["estimate"] for name, value in result["metrics"].items()}
    # Positives .5, .25, .75 against negatives .25, .125, .125: eight pairs right, one tied.
    assert values["auc"] == pytest.approx(8.5 / 9)
    assert values["pcoc"] == pytest.approx(2.0 / 3)
    # User 1: .5 wins, .25 ties; user 2 wins; user 3 has no positive.
    assert values["gauc"] == pytest.approx((3 * 0.75 + 2 * 1) / 5)
    assert evaluation["data"] == {
        "rows": 6,
        "users": 3,
        "items": 3,
        "first_day": "2024-11-01",
        "last_day": "2024-11-02",
        "promotions": ["double11"],
        "positives": {"conversion": 3, "delayed": 1, "direct": 2, "cart": 2},
    }


def test_refunds_are_judged_where_their_labels_are_known():
    columns = {
        "refunded": [1, 0, 0, 0, 0, 0],
        "effective": [0, 1, 0, 0, 1, 0],
        "p_refunded": np.array([0.5, 0.25, 0.125, 0.125, 0.0, 0.0], np.float32),
        "p_effective": np.array([0.0, 0.0, 0.125, 0.0, 0.75, 0.125], np.float32),
    }
    plain = clicks(refunded=columns["refunded"], effective=columns["effective"])
    evaluation = evaluate({"ecad": clicks(**columns), "plain": plain}, CONFIG, 1)
    heads = evaluation["models"]["ecad"]["heads"]
    assert list(heads) == ["conversion", "refunded", "effective"]
    assert list(evaluation["models"]["plain"]["heads"]) == ["conversion"]
    assert heads["refunded"]["metrics"]["auc"]["estimate"] == 1
    assert heads["refunded"]["metrics"]["pcoc"]["estimate"] == pytest.approx(1)
    # Of the two that stay .75 wins over four, 0 loses to two and ties with two.
    assert heads["effective"]["metrics"]["auc"]["estimate"] == pytest.approx((4 + 1) / 8)
    assert evaluation["data"]["positives"]["effective"] == 2
    unknown = clicks(p_refunded=columns["p_refunded"])
    assert list(evaluate({"m": unknown}, CONFIG, 1)["models"]["m"]["heads"]) == ["conversion"]
    columns["refunded"] = [2, 0, 0, 0, 0, 0]
    with pytest.raises(DataError, match="label 'refunded' should be 0 or 1"):
        evaluate({"ecad": clicks(**columns)}, CONFIG, 1)


@pytest.mark.slow
def test_predictions_of_examples_with_refunds_have_both_labels(small_world, tmp_path):
    labels = LabelsConfig(refunded=True, refund_days=14)
    config = small_world.config.model_copy(update={"labels": labels})
    build_dataset(open_event_log(small_world.events), tmp_path / "examples", config)
    data = ExampleSet.open(tmp_path / "examples", config.split)
    model = make_model(data.spec, config.model.model_copy(update={"name": "ecad"}))
    frame = predict(model, data.files("test"), data.spec, data.calendar)
    assert 0 < frame["refunded"].sum() < frame["conversion"].sum()
    kept = (frame["conversion"] == 1) & (frame["refunded"] == 0)
    assert frame["effective"].to_list() == kept.cast(pl.Int64).to_list()
    heads = evaluate({"ecad": frame}, CONFIG, 1)["models"]["ecad"]["heads"]
    assert list(heads) == ["conversion", "refunded", "effective"]
    # The truth has no such outputs, and does not take over those of a model.
    assert "p_refunded" not in oracle(frame, small_world.truth).columns


def test_slices_partition_the_clicks():
    frame = clicks(hours_to_promotion=[0.0, 5.9, 6.0, 30.0, 168.0, 400.0])
    slices = evaluate({"m": frame}, CONFIG, 1)["models"]["m"]["heads"]["conversion"]["slices"]
    counts = {
        dimension: {entry["slice"]: (entry["rows"], entry["positives"]) for entry in entries}
        for dimension, entries in slices.items()
    }
    assert counts == {
        "day": {"2024-11-01": (4, 2), "2024-11-02": (2, 1)},
        "promotion": {"double11": (6, 3)},
        "user_history": {"0": (1, 1), "1-9": (2, 1), "10-49": (2, 1), "50+": (1, 0)},
        "hours_to_promotion": {"0-6": (2, 2), "6-24": (1, 0), "24-72": (1, 0), "168+": (2, 1)},
    }
    of_day = slices["day"][1]["metrics"]
    assert of_day["auc"]["estimate"] == 1.0
    assert of_day["pcoc"]["estimate"] == pytest.approx(0.875)


def test_small_slices_are_left_out_and_counted():
    config = EvaluationConfig(bootstrap=10, min_slice_rows=3)
    evaluation = evaluate({"m": clicks()}, config, 1)
    slices = evaluation["models"]["m"]["heads"]["conversion"]["slices"]
    assert [entry["slice"] for entry in slices["day"]] == ["2024-11-01"]
    assert slices["user_history"] == []
    assert evaluation["slices_left_out"]["day"] == [{"slice": "2024-11-02", "rows": 2}]
    assert len(evaluation["slices_left_out"]["user_history"]) == 4
    assert (
        "5 slices with fewer than 3 rows are left out (day: 1, user_history: 4)."
        in (evaluation["notes"])
    )


@pytest.mark.parametrize(
    ("labels", "explanation", "defined"),
    [
        ([0] * 6, "all 6 rows are negative", {"log_loss", "ece"}),
        ([1] * 6, "all 6 rows are positive", {"log_loss", "ece", "pcoc", "pr_auc"}),
    ],
)
def test_a_head_of_one_class_is_explained(labels, explanation, defined):
    evaluation = evaluate({"m": clicks(conversion=labels)}, CONFIG, 1)
    result = evaluation["models"]["m"]["heads"]["conversion"]
    assert explanation in result["explanation"]
    values = {name for name, value in result["metrics"].items() if value["estimate"] is not None}
    assert values == defined
    assert any(note.startswith(f"Head conversion: {explanation}") for note in evaluation["notes"])


def test_a_single_click_is_evaluated():
    evaluation = evaluate({"m": clicks().head(1), "n": clicks().head(1)}, CONFIG, 1, "m")
    loss = evaluation["models"]["m"]["heads"]["conversion"]["metrics"]["log_loss"]["estimate"]
    assert loss == pytest.approx(np.log(2))


def test_differences_are_paired_and_zero_for_equal_models():
    frames = predictions(rows=600)
    frames["copy"] = frames["esmm"]
    evaluation = evaluate(frames, CONFIG, 1, "esmm")
    heads = {name: model["heads"] for name, model in evaluation["models"].items()}
    zero = {"estimate": 0.0, "lower": 0.0, "upper": 0.0, "p_value": 1.0, "adjusted_p_value": 1.0}
    assert heads["copy"]["delayed"]["differences"] == dict.fromkeys(DIFFERENCES, zero)
    assert heads["esmm"]["delayed"]["differences"] == {}
    difference = heads["vanilla"]["conversion"]["differences"]["log_loss"]
    own, base = (heads[name]["conversion"]["metrics"]["log_loss"] for name in ("vanilla", "esmm"))
    assert difference["estimate"] == pytest.approx(own["estimate"] - base["estimate"])
    assert difference["estimate"] > 0
    assert difference["upper"] - difference["lower"] < own["upper"] - own["lower"]


@pytest.mark.parametrize("correction", ["holm", "benjamini_hochberg", "none"])
def test_p_values_are_corrected_over_all_comparisons_of_a_head(correction):
    config = CONFIG.model_copy(update={"correction": correction})
    evaluation = evaluate(predictions(rows=600), config, 1, "esmm")
    cells = [
        cell
        for model in evaluation["models"].values()
        for cell in model["heads"]["conversion"]["differences"].values()
    ]
    p = [cell["p_value"] for cell in cells]
    assert len(p) == 2 * len(DIFFERENCES)
    assert min(p) < 0.05 < max(p)
    assert [cell["adjusted_p_value"] for cell in cells] == adjusted(p, correction)
    assert evaluation["settings"]["correction"] == correction


def test_a_head_that_the_baseline_lacks_is_not_compared():
    evaluation = evaluate(predictions(rows=300), CONFIG, 1, "vanilla")
    heads = evaluation["models"]["cmdcm"]["heads"]
    assert set(heads["conversion"]["differences"]) == set(DIFFERENCES)
    assert heads["delayed"]["differences"] == {}


def test_best_names_the_runner_up_and_leaves_the_oracle_out():
    frames = predictions(rows=1_000, models=("vanilla", "cmdcm", "oracle"), base_rate=0.2)
    frames["cmdcm"] = frames["oracle"]
    best = evaluate(frames, CONFIG, 1)["best"]["conversion"]["log_loss"]
    assert (best["model"], best["runner_up"]) == ("cmdcm", "vanilla")
    assert best["difference"]["upper"] < 0
    assert best["difference"]["adjusted_p_value"] < 0.05
    frames["esmm"] = frames["cmdcm"]
    tie = evaluate(frames, CONFIG, 1)["best"]["conversion"]["auc"]
    assert {tie["model"], tie["runner_up"]} == {"cmdcm", "esmm"}
    assert tie["difference"]["adjusted_p_value"] == 1


@pytest.mark.parametrize("correction", ["holm", "benjamini_hochberg", "none"])
def test_best_is_corrected_over_the_metrics_of_its_head(correction):
    config = CONFIG.model_copy(update={"correction": correction})
    frames = predictions(rows=600)
    evaluation = evaluate(frames, config, 1, "esmm")
    best = evaluation["best"]["conversion"]
    assert set(best) == set(DIFFERENCES)
    cells = [entry["difference"] for entry in best.values()]
    p = [cell["p_value"] for cell in cells]
    assert [cell["adjusted_p_value"] for cell in cells] == adjusted(p, correction)
    heads = {name: model["heads"]["conversion"] for name, model in evaluation["models"].items()}
    for metric, entry in best.items():
        pair = {entry["model"], entry["runner_up"]}
        if "esmm" in pair:
            (other,) = pair - {"esmm"}
            expected = heads[other]["differences"][metric]["p_value"]
            assert entry["difference"]["p_value"] == pytest.approx(expected)


def test_relative_improvement_is_a_share_of_the_gap_between_its_anchors():
    frames = predictions(rows=1_000, models=("vanilla", "esmm", "oracle"), base_rate=0.2)
    improvement = evaluate(frames, CONFIG, 1)["relative_improvement"]
    losses = {
        name: metrics.row_log_loss(
            frame["conversion"].to_numpy(), frame["p_conversion"].to_numpy()
        ).mean()
        for name, frame in frames.items()
    }
    expected = (losses["esmm"] - losses["vanilla"]) / (losses["oracle"] - losses["vanilla"])
    models = improvement["models"]
    assert models["esmm"]["estimate"] == pytest.approx(expected)
    assert models["esmm"]["lower"] < expected < models["esmm"]["upper"]
    assert (models["vanilla"]["estimate"], models["oracle"]["estimate"]) == (0, 1)
    assert improvement["anchors"] == {"vanilla": "vanilla", "oracle": "oracle"}
    assert improvement["gap"]["upper"] < 0


def test_relative_improvement_needs_anchors_that_differ():
    frames = predictions(rows=200, models=("vanilla", "cmdcm"))
    assert evaluate(frames, CONFIG, 1)["relative_improvement"] is None
    frames["oracle"] = frames["vanilla"]
    evaluation = evaluate(frames, CONFIG, 1)
    nothing = {"estimate": None, "lower": None, "upper": None}
    assert evaluation["relative_improvement"]["models"]["cmdcm"] == nothing
    assert any("anchors vanilla and oracle do not differ" in note for note in evaluation["notes"])


def test_conversion_delays_are_counted_by_kind():
    frame = clicks(conversion_delay_ms=[HOUR_MS // 12, 31 * 24 * HOUR_MS, -1, -1, HOUR_MS // 6, -1])
    delays = evaluate({"m": frame}, CONFIG, 1)["conversion_delay"]
    assert len(delays["direct"]) == len(delays["edges_hours"])
    # Five minutes; ten minutes open the second bin; over thirty days is the last one.
    assert delays["direct"][:3] == [1, 1, 0]
    assert delays["delayed"] == [0] * 13 + [1]
    assert delays["direct_median_hours"] == pytest.approx(0.125)


def test_calibration_claims_no_certainty_about_a_rate_of_zero():
    frame = clicks(p_conversion=np.array([0.9, 0.9, 0.1, 0.1, 0.9, 0.9], np.float32))
    low, high = evaluate({"m": frame}, CONFIG, 1)["models"]["m"]["heads"]["conversion"][
        "calibration"
    ]
    assert low == {
        "rows": 2,
        "mean_prediction": pytest.approx(0.1),
        "rate": {"estimate": 0.0, "lower": None, "upper": None},
    }
    assert high["rate"]["estimate"] == 0.75


def test_cart_effect_is_summarised():
    frame = clicks(cart_effect=np.array([-0.1, 0.0, 0.1, 0.2, 0.3, 0.4], np.float32))
    effect = evaluate({"m": frame}, CONFIG, 1)["models"]["m"]["cart_effect"]
    assert effect["mean"] == pytest.approx(0.15)
    assert effect["p50"] == pytest.approx(0.15)
    assert effect["positive_share"] == pytest.approx(4 / 6)
    assert evaluate({"m": clicks()}, CONFIG, 1)["models"]["m"]["cart_effect"] is None


def test_notes_say_what_to_doubt():
    notes = evaluate({"m": clicks()}, CONFIG, 1)["notes"]
    assert "Head delayed: 1 positives: intervals are wide and cannot be relied on." in notes
    assert any("one promotion (double11)" in note for note in notes)
    frames = predictions(rows=1_500, models=("vanilla", "esmm"))
    positives = frames["esmm"]["delayed"].sum()
    assert 10 <= positives < 100
    low = frames["vanilla"].with_columns(pl.col("p_conversion") / 3)
    notes = evaluate({"vanilla": low, "esmm": frames["esmm"]}, CONFIG, 1)["notes"]
    assert f"Head delayed: {positives} positives: intervals are wide." in notes
    assert any("PCOC interval excludes 1: vanilla too low" in note for note in notes)


def test_the_result_is_json_and_survives_a_round_trip(tmp_path):
    frames = predictions(rows=60, models=("vanilla", "cmdcm", "oracle"), base_rate=0.01)
    evaluation = evaluate(frames, CONFIG, 1, "vanilla")
    json.dumps(evaluation, allow_nan=False)
    path = tmp_path / "deep" / "evaluation.json"
    save_evaluation(evaluation, path)
    assert load_evaluation(path) == evaluation


def test_equal_seeds_give_equal_evaluations():
    frames = predictions(rows=200)
    first = evaluate(frames, CONFIG, 5, "vanilla")
    assert evaluate(frames, CONFIG, 5, "vanilla") == first
    assert evaluate(frames, CONFIG, 6, "vanilla")["models"] != first["models"]


def test_text_ids_and_a_rounding_above_one_are_fine():
    frame = clicks(
        user_id=list("aaabbc"),
        p_conversion=np.array([1 + 1e-7, 0.5, 0.5, 0.5, 0.5, 0.5]),
    )
    assert evaluate({"m": frame}, CONFIG, 1)["data"]["users"] == 3


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (clicks().drop("user_history", "day"), r"lack the columns \['day', 'user_history'\]"),
        (clicks().drop("p_conversion"), "predict nothing"),
        (clicks().head(0), "have no rows"),
        (clicks(user_id=[1, None, 1, 2, 2, 3]), "1 nulls in column 'user_id'"),
        (clicks(direct=[2, 0, 0, 0, 1, 0]), "label 'direct' should be 0 or 1"),
        (clicks(direct=[0.5, 0, 0, 0, 1, 0]), "label 'direct' should be 0 or 1"),
        (clicks(p_conversion=[1.1, 0, 0, 0, 1, 0]), "'p_conversion' holds values that are no prob"),
        (clicks(p_conversion=[np.nan, 0, 0, 0, 1, 0]), "'p_conversion' holds values that are no"),
        (clicks(p_conversion=list("abcdef")), "'p_conversion' holds values that are no prob"),
        (clicks(cart_effect=[np.inf, 0, 0, 0, 1, 0]), "'cart_effect' holds values that are not"),
        (clicks(user_history=[-1, 0, 0, 0, 1, 0]), "'user_history' holds negative"),
    ],
)
def test_unusable_predictions_are_refused(frame, message):
    with pytest.raises(DataError, match=f"model 'm'.*{message}"):
        evaluate({"m": frame}, CONFIG, 1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (clicks().head(5), "'m' has 6 rows, 'n' has 5"),
        (clicks().reverse(), "differ in 'user_id' at row 0"),
        (clicks(cart=[0, 1, 1, 1, 0, 0]), "differ in 'cart' at row 2"),
        (clicks(item_id=list("abcdef")), "'item_id' is Int64 in .* but String"),
    ],
)
def test_models_must_predict_the_same_clicks(other, message):
    with pytest.raises(DataError, match=message):
        evaluate({"m": clicks(), "n": other}, CONFIG, 1)


def test_no_model_and_an_unknown_baseline_are_refused():
    with pytest.raises(DataError, match="no model to evaluate"):
        evaluate({}, CONFIG, 1)
    with pytest.raises(DataError, match=r"baseline 'b' is not among the models \['m'\]"):
        evaluate({"m": clicks()}, CONFIG, 1, "b")


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "events"}'])
def test_a_file_that_is_no_evaluation_is_refused(tmp_path, content):
    path = tmp_path / "evaluation.json"
    with pytest.raises(DataError, match="not found"):
        load_evaluation(path)
    path.write_text(content)
    with pytest.raises(DataError, match="evaluation"):
        load_evaluation(path)


def test_every_required_column_is_checked():
    for column in COLUMNS:
        with pytest.raises(DataError, match=column):
            evaluate({"m": clicks().drop(column)}, CONFIG, 1)
