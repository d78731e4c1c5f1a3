"""The causal summary of an evaluation: what it holds, and what it refuses."""

import json

import numpy as np
import polars as pl
import pytest

from cmdcm.core.config import EvaluationConfig
from cmdcm.core.errors import DataError
from cmdcm.model.causal.rows import causal_rows
from cmdcm.model.causal.summary import Provenance
from cmdcm.model.causal.targeting import POPULATIONS, targeted
from cmdcm.model.evaluation import evaluate
from cmdcm.model.multiplicity import adjusted
from cmdcm.tests.model.predictions_data import causal_predictions

CONFIG = EvaluationConfig(bootstrap=20, min_slice_rows=300, lambdas=(1.0, 2.0))
SEEN = Provenance(frozenset({"2024-10-31"}), 0.02)


@pytest.fixture(scope="module")
def frames():
    return causal_predictions(rows=4_000)


@pytest.fixture(scope="module")
def evaluation(frames):
    return evaluate(frames, CONFIG, 1, provenance=dict.fromkeys(frames, SEEN))


def test_estimates_are_those_of_the_clicks_without_a_direct_purchase(frames, evaluation):
    summary = evaluation["models"]["cmdcm"]["causal"]
    rows = causal_rows(frames["cmdcm"])
    kept = frames["cmdcm"].filter(pl.col("direct") == 0)
    assert summary["rows"] == len(kept) < 4_000
    assert summary["carted"] == kept["cart"].sum()
    assert summary["delayed_carted"] + summary["delayed_uncarted"] == kept["delayed"].sum()
    for of in POPULATIONS:
        expected = targeted(rows, of, clip=0.02).to_json()
        for name in ("r1", "r0", "effect"):
            for key, value in expected[name].items():
                assert summary["populations"][of][name][key] == value
    rates = [kept.filter(pl.col("cart") == a)["delayed"].mean() for a in (1, 0)]
    assert summary["observed"]["effect"] == pytest.approx(rates[0] - rates[1])


def test_truth_stands_beside_the_estimates(frames, evaluation):
    true = frames["oracle"].filter(pl.col("direct") == 0)
    effect = (true["r1"] - true["r0"]).to_numpy().astype(float)
    averages = evaluation["models"]["cmdcm"]["causal"]["populations"]
    assert averages["all"]["effect"]["truth"] == pytest.approx(effect.mean())
    carted = true["cart"].to_numpy() > 0
    assert averages["carted"]["effect"]["truth"] == pytest.approx(effect[carted].mean())
    # The model's own heads are off; the targeted averages are not.
    for of in POPULATIONS:
        entry = averages[of]["effect"]
        assert abs(entry["estimate"] - entry["truth"]) < 3 * entry["standard_error"]
        assert abs(entry["plug_in"] - entry["truth"]) > 2 * abs(entry["estimate"] - entry["truth"])
    alone = evaluate({"m": frames["cmdcm"]}, CONFIG, 1, provenance={"m": SEEN})
    assert "truth" not in alone["models"]["m"]["causal"]["populations"]["all"]["effect"]


def test_slices_are_targeted_by_themselves(frames, evaluation):
    summary = evaluation["models"]["cmdcm"]["causal"]
    entry = summary["slices"]["day"][1]
    day = frames["cmdcm"].filter(pl.col("day").cast(pl.String) == entry["slice"])
    expected = targeted(causal_rows(day), clip=0.02).effect
    assert entry["rows"] == (day["direct"] == 0).sum()
    assert entry["populations"]["all"]["effect"]["estimate"] == pytest.approx(expected.estimate)
    assert entry["populations"]["all"]["effect"]["standard_error"] == pytest.approx(
        expected.standard_error
    )
    assert [e["lambda"] for e in entry["sensitivity"]["bounds"]] == [1.0, 2.0]
    effects = [
        entry["populations"]["all"]["effect"]
        for entries in summary["slices"].values()
        for entry in entries
    ]
    assert [effect["adjusted_p_value"] for effect in effects] == adjusted(
        [effect["p_value"] for effect in effects], "holm"
    )


def test_bounds_open_from_the_estimate_and_hold_each_other(evaluation):
    for name in ("cmdcm", "oracle"):
        summary = evaluation["models"][name]["causal"]
        first, second = summary["sensitivity"]["bounds"]
        estimate = summary["populations"]["all"]["effect"]["estimate"]
        assert first["effect"]["lower"] == pytest.approx(estimate)
        for key in ("r1", "r0", "effect"):
            assert second[key]["lower"] < first[key]["lower"] <= first[key]["upper"]
            assert first[key]["upper"] < second[key]["upper"]
            assert second[key]["interval_lower"] < second[key]["lower"]
        lost = summary["sensitivity"]["sign_lost"]
        assert 1 <= lost["interval"] < lost["bounds"]


def test_calibration_is_measured_where_the_outcome_is_seen(frames, evaluation):
    summary = evaluation["models"]["cmdcm"]["causal"]["calibration"]
    kept = frames["cmdcm"].filter(pl.col("direct") == 0)
    carted = kept.filter(pl.col("cart") == 1)
    assert summary["propensity"]["rows"] == len(kept)
    assert summary["r1"]["rows"] == len(carted)
    assert summary["r0"]["rows"] == len(kept) - len(carted)
    pcoc = carted["r1"].cast(pl.Float64).sum() / carted["delayed"].sum()
    assert summary["r1"]["metrics"]["pcoc"]["estimate"] == pytest.approx(pcoc)
    assert sum(entry["rows"] for entry in summary["r1"]["calibration"]) == len(carted)


def test_settings_are_heeded(frames, evaluation):
    config = CONFIG.model_copy(update={"targeting_folds": 3, "sensitivity": "hajek"})
    other = evaluate(frames, config, 1, provenance=dict.fromkeys(frames, SEEN))
    whole, crossed = (e["models"]["cmdcm"]["causal"] for e in (evaluation, other))
    assert (whole["folds"], crossed["folds"], whole["clip"]) == (1, 3, 0.02)
    effects = [c["populations"]["all"]["effect"]["estimate"] for c in (whole, crossed)]
    assert effects[0] != effects[1]
    assert effects[0] == pytest.approx(effects[1], abs=0.01)
    widths = [
        bounds["effect"]["upper"] - bounds["effect"]["lower"]
        for c in (whole, crossed)
        for bounds in [c["sensitivity"]["bounds"][1]]
    ]
    assert widths[1] > widths[0]


def test_days_that_a_model_was_trained_on_are_refused(frames):
    seen = Provenance(frozenset({"2024-11-02"}), 0.02)
    with pytest.raises(DataError, match=r"targeting of 'cmdcm' on 2024-11-02 that it was trained"):
        evaluate(frames, CONFIG, 1, provenance={"cmdcm": seen})


def test_models_without_the_outputs_or_a_provenance_have_no_summary(frames):
    partial = {**frames, "esmm": frames["cmdcm"].drop("r0")}
    result = evaluate(partial, CONFIG, 1, provenance={"esmm": SEEN})
    assert all(model["causal"] is None for model in result["models"].values())


def test_an_arm_without_a_delayed_purchase_is_said_to_be_undefined(frames):
    labels = pl.col("delayed") * pl.col("cart")
    none = {n: f.with_columns(delayed=labels) for n, f in frames.items()}
    result = evaluate(none, CONFIG, 1, provenance=dict.fromkeys(none, SEEN))
    summary = result["models"]["cmdcm"]["causal"]
    assert summary["populations"]["all"]["effect"]["estimate"] is None
    assert summary["populations"]["all"]["r1"]["estimate"] is not None
    assert summary["sensitivity"] is None
    json.dumps(result, allow_nan=False)


def test_probabilities_out_of_range_are_refused(frames):
    wrong = frames["cmdcm"].with_columns(r1=pl.lit(1.5))
    with pytest.raises(DataError, match="'r1' holds values that are no probabilities"):
        evaluate({"m": wrong}, CONFIG, 1)


def test_the_summary_is_json_of_finite_numbers(evaluation):
    text = json.dumps(evaluation, allow_nan=False)
    assert np.isfinite(json.loads(text)["models"]["cmdcm"]["causal"]["overlap"]["carted"]["rows"])
