"""The gate from outside: predictions in, decision and evidence out."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import Config, GateBounds, load_config
from cmdcm.core.errors import DataError, ExportError
from cmdcm.export.gate import gate, override
from cmdcm.export.gate_cost import latency_verdict
from cmdcm.export.gate_quality import slices_of
from cmdcm.export.gate_verdicts import Place, judge
from cmdcm.model.bootstrap import Interval
from cmdcm.tests.model.predictions_data import causal_predictions, predictions

CONFIG = load_config(
    overrides=["evaluation.bootstrap=60", 'gate.heads=["conversion"]', "gate.slice_columns=[]"]
)


def bounded(config: Config = CONFIG, **changes: object) -> Config:
    return config.model_copy(update={"gate": config.gate.model_copy(update=changes)})


@pytest.fixture(scope="module")
def clicks() -> pl.DataFrame:
    """Calibrated predictions of conversion: the labels are drawn from them."""
    frame = predictions(20_000, models=("cmdcm",), base_rate=0.2)["cmdcm"]
    random = np.random.default_rng(5)
    p = frame["p_conversion"].to_numpy()
    return frame.with_columns(
        conversion=pl.Series((random.random(len(frame)) < p).astype(np.int64)),
        category_id=pl.Series(np.arange(len(frame)) % 3),
    )


def scaled(frame: pl.DataFrame, factor: float) -> pl.DataFrame:
    return frame.with_columns((pl.col("p_conversion") * factor).clip(upper_bound=1))


def verdict(result: dict, check: str, slice_: str = "") -> dict:
    [found] = [v for v in result["verdicts"] if v["check"] == check and v["slice"] == slice_]
    return found


def test_a_calibrated_model_is_accepted_and_the_evidence_is_there(clicks):
    result = gate(clicks, None, CONFIG)
    assert result["accepted"] and result["first_run"] and result["reasons"] == []
    pcoc = verdict(result, "pcoc")
    expected = clicks["p_conversion"].sum() / clicks["conversion"].sum()
    assert pcoc["estimate"] == pytest.approx(expected)
    assert pcoc["lower"] < pcoc["estimate"] < pcoc["upper"]
    assert (pcoc["minimum"], pcoc["maximum"]) == (0.95, 1.05)
    assert pcoc["positives"] == clicks["conversion"].sum()
    assert verdict(result, "serving_model")["outcome"] == "skipped"


def test_a_miscalibrated_model_is_refused_with_the_reason(clicks):
    result = gate(scaled(clicks, 1.2), None, CONFIG)
    assert not result["accepted"]
    [reason] = result["reasons"]
    assert "pcoc conversion is 1.1" in reason and "from 0.95 to 1.05" in reason


def test_bounds_may_differ_by_head(clicks):
    wide = bounded(by_head={"conversion": GateBounds(max_pcoc=1.5)})
    assert gate(scaled(clicks, 1.2), None, wide)["accepted"]


def test_a_slice_is_judged_by_its_own_bounds_and_only_with_enough_data(clicks):
    worse = clicks.with_columns(
        p_conversion=pl.when(pl.col("category_id") == 2)
        .then(pl.col("p_conversion") * 0.6)
        .otherwise((pl.col("p_conversion") * 1.15).clip(upper_bound=1))
    )
    config = bounded(slice_columns=("category_id",))
    result = gate(worse, None, config)
    assert verdict(result, "pcoc", "category_id=2")["outcome"] == "fail"
    assert verdict(result, "pcoc", "category_id=1")["outcome"] != "fail"
    assert any("category_id=2" in reason for reason in result["reasons"])
    few = bounded(slice_columns=("category_id",), min_positives=5_000)
    assert not [v for v in gate(worse, None, few)["verdicts"] if v["slice"]]


def test_too_few_positives_refuse_and_do_not_pass_unseen(clicks):
    result = gate(clicks, None, bounded(min_positives=10_000))
    assert not result["accepted"] and "too few" in result["reasons"][0]


def test_a_worse_model_than_the_serving_one_is_refused_by_the_paired_change(clicks):
    random = np.random.default_rng(1)
    noise = np.exp(random.normal(0, 1.0, len(clicks)))
    noisy = scaled(clicks, 1.0).with_columns(
        (pl.col("p_conversion") * pl.Series(noise / noise.mean())).clip(upper_bound=1)
    )
    bounds = GateBounds(min_pcoc=0, max_pcoc=0, max_normalised_entropy=0)
    config = bounded(max_psi=0.0, overall=bounds)
    result = gate(noisy, clicks, config)
    assert not result["first_run"]
    assert verdict(result, "log_loss_rise")["outcome"] == "fail"
    assert verdict(result, "log_loss_rise")["lower"] > 0.01
    assert verdict(result, "auc_drop")["outcome"] == "fail"
    assert gate(clicks, noisy, config)["accepted"]
    # Value thresholds alone do not see it.
    assert gate(noisy, None, config)["accepted"]


def test_a_model_equal_to_the_serving_one_changes_nothing(clicks):
    result = gate(clicks, clicks, CONFIG)
    for check in ("log_loss_rise", "auc_drop", "psi"):
        assert verdict(result, check)["estimate"] == 0.0
        assert verdict(result, check)["outcome"] == "pass"


def test_shifted_scores_are_refused_by_psi(clicks):
    result = gate(scaled(clicks, 0.3), clicks, CONFIG)
    psi = verdict(result, "psi")
    assert psi["outcome"] == "fail" and 0.25 < psi["lower"] < psi["upper"]


def test_overlap_of_the_arms_is_judged():
    frame = causal_predictions(4_000)["oracle"]
    config = bounded(overall=GateBounds(min_pcoc=0, max_pcoc=0, max_normalised_entropy=0))
    checks = [v for v in gate(frame, None, config)["verdicts"] if v["check"] == "effective_rows"]
    assert [v["head"] for v in checks] == ["carted", "uncarted"]
    assert all(v["outcome"] == "pass" for v in checks)
    strict = config.model_copy(
        update={"gate": config.gate.model_copy(update={"min_effective_rows": 1e6})}
    )
    assert not gate(frame, None, strict)["accepted"]


def test_errors_of_the_validation_refuse_and_absent_measurements_are_named(clicks):
    anomaly = {
        "code": "numeric_drift",
        "severity": "error",
        "source": "against",
        "feature": "price",
        "value": 0.4,
        "bound": 0.1,
        "message": "price has drifted",
    }
    validation = {"anomalies": [anomaly], "against": {"rows": 1}, "requests": None}
    result = gate(clicks, None, CONFIG, validation=validation)
    assert result["reasons"] == ["price has drifted"]
    assert verdict(result, "skew")["outcome"] == "skipped"
    calm = {**validation, "anomalies": []}
    assert verdict(gate(clicks, None, CONFIG, validation=calm), "drift")["outcome"] == "pass"


def test_a_serving_model_that_cannot_be_compared_refuses(clicks):
    result = gate(clicks, None, CONFIG, incomparable="it reads features that are gone")
    assert result["reasons"] == ["it reads features that are gone"] and not result["first_run"]


def test_other_clicks_than_the_serving_models_are_refused(clicks):
    with pytest.raises(DataError, match="same clicks"):
        gate(clicks, clicks.head(100), CONFIG)


def test_an_override_needs_a_name_and_a_reason_and_stays(clicks):
    refused = gate(scaled(clicks, 1.2), None, CONFIG)
    for by, reason in (("", "why"), ("ann", " ")):
        with pytest.raises(ExportError, match="--by NAME --reason TEXT"):
            override(refused, by, reason)
    accepted = override(refused, "ann", "known label change")
    assert accepted["accepted"]
    assert accepted["override"] == {"by": "ann", "reason": "known label change"}
    assert accepted["reasons"] == refused["reasons"]
    fine = gate(clicks, None, CONFIG)
    assert override(fine, "ann", "x")["override"] is None


@pytest.mark.parametrize(
    ("interval", "unclear", "outcome", "clear"),
    [
        ((1.0, 0.97, 1.03), "fail", "pass", True),
        ((1.2, 1.1, 1.3), "pass", "fail", True),
        ((1.04, 0.99, 1.09), "estimate", "pass", False),
        ((1.06, 1.01, 1.11), "estimate", "fail", False),
        ((1.06, 1.01, 1.11), "pass", "warn", False),
        ((1.04, 0.99, 1.09), "fail", "fail", False),
        ((1.05, None, None), "fail", "pass", True),
        ((None, None, None), "pass", "fail", True),
    ],
)
def test_the_side_of_the_interval_decides(interval, unclear, outcome, clear):
    found = judge("pcoc", Interval(*interval), Place("direct"), unclear, 0.95, 1.05)
    assert (found.outcome, found.clear) == (outcome, clear)


@given(
    st.floats(-2, 2),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["estimate", "pass", "fail"]),
)
def test_a_stricter_rule_never_accepts_more(estimate, below, above, unclear):
    interval = Interval(estimate, estimate - below, estimate + above)
    outcomes = {
        u: judge("x", interval, Place(), u, -0.5, 0.5).outcome for u in ("pass", "estimate", "fail")
    }
    accepted = [outcomes[u] != "fail" for u in ("pass", "estimate", "fail")]
    assert accepted == sorted(accepted, reverse=True)
    assert judge("x", interval, Place(), unclear, -10, 10).outcome == "pass"


def test_slices_are_the_most_frequent_values_and_new_users(clicks):
    config = bounded(slice_columns=("category_id", "new_users", "absent", "promotion")).gate
    masks = dict(slices_of(clicks, config))
    assert sorted(masks) == [
        "category_id=0",
        "category_id=1",
        "category_id=2",
        "new_users=false",
        "new_users=true",
    ]
    assert masks["new_users=true"].sum() == (clicks["user_history"] == 0).sum()
    few = config.model_copy(update={"max_slices": 1, "slice_columns": ("category_id",)})
    assert list(dict(slices_of(clicks, few))) == ["category_id=0"]


def test_latency_is_judged_by_the_median_with_an_interval_of_ranks():
    seconds = np.array([0.010] * 20 + [0.5] * 10)
    found = latency_verdict(seconds, 100, CONFIG.gate)
    assert found.estimate == 10.0 and found.outcome == "pass"
    assert (found.lower, found.upper) == (10.0, 500.0)  # the 9th and the 22nd of 30
    slow = latency_verdict(np.full(30, 0.3), 100, CONFIG.gate)
    assert slow.outcome == "fail" and "latency_ms" in slow.reason


def test_setting_one_bound_of_slices_leaves_the_others_at_their_defaults():
    slices = load_config(overrides=["gate.slices.min_pcoc=0.5"]).gate.slices
    assert (slices.min_pcoc, slices.max_pcoc) == (0.5, 1.25)
    assert slices.max_normalised_entropy == 0 and slices.max_auc_drop == 0.05
