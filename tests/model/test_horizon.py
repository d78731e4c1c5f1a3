"""The offset of the time that is left: the estimate of the delays, and what it does to a model."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError
from cmdcm.core.files import write_json
from cmdcm.features.columns import labels_of
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.base import RankingModel
from cmdcm.model.horizon import AT_RISK, FLOOR, HOURS, KNOTS, Horizon, delay_shares, fit_horizon
from cmdcm.model.trained import MODEL, WEIGHTS, load_model
from cmdcm.model.training import train
from cmdcm.tests.model.batches import VARIANTS, random_batch, sides, tiny_model, tiny_spec

SPEC = tiny_spec()
BATCH = random_batch(SPEC, 40, seed=3)
SHARES = np.minimum(np.array(KNOTS) / 100, 1)


def horizon_of(model: RankingModel) -> Horizon:
    assert model.horizon is not None
    return model.horizon


def cut_off(delay_rates: np.ndarray, horizons: np.ndarray, people: int) -> tuple:
    """All purchases of a population that come in time: delays 1, 2, ... at the rates."""
    counts = np.rint(delay_rates * people).astype(int)
    pairs = [
        (float(d), h) for h in horizons for d, n in enumerate(counts, 1) if d <= h for _ in range(n)
    ]
    return np.array([d for d, _ in pairs]), np.array([h for _, h in pairs])


@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0]), min_size=0, max_size=6),
)
def test_of_a_whole_population_the_estimate_is_the_truth(weights, horizons):
    """Whatever share of the clicks is cut off where: F(h) / F(longest) comes out exactly."""
    rates = np.array(weights) / sum(weights)
    delays, time = cut_off(rates, np.array([*horizons, 4.0]), people=AT_RISK * sum(weights))
    at = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(delay_shares(delays, time, at), np.cumsum(rates), atol=1e-9)


def test_the_naive_distribution_of_what_is_seen_is_biased():
    """What the estimator is for: short delays are seen more often than they are."""
    rates = np.full(4, 0.25)
    delays, time = cut_off(rates, np.array([1.0, 2.0, 3.0, 4.0]), people=400)
    assert np.mean(delays <= 1) == pytest.approx(0.4)
    assert delay_shares(delays, time, np.array([1.0]))[0] == pytest.approx(0.25)


def test_it_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(4)
    true = rng.integers(1, 5, 4000).astype(float)
    time = rng.integers(1, 5, 4000).astype(float)
    delays, time = true[true <= time], time[true <= time]
    at = np.arange(1.0, 5.0)
    found = delay_shares(delays, time, at)

    def log_likelihood(shares: np.ndarray) -> float:
        f = np.diff(np.r_[0.0, shares])
        return float(np.sum(np.log(f[delays.astype(int) - 1] / shares[time.astype(int) - 1])))

    best = log_likelihood(found)
    for n in range(3):
        for step in (-0.01, 0.01):
            other = found.copy()
            other[n] += step
            assert log_likelihood(other) < best


def test_a_lone_long_delay_does_not_empty_the_rest():
    """With one click at risk its factor is 1 - 1/1: without a least number F would be 0 below."""
    delays = np.r_[np.repeat([1.0, 2.0], 100), 50.0]
    time = np.r_[np.full(200, 10.0), 60.0]
    np.testing.assert_allclose(delay_shares(delays, time, np.array([1.0, 2.0])), [0.5, 1.0])


def test_with_few_purchases_nothing_is_cut_off():
    few = np.arange(1.0, AT_RISK)
    np.testing.assert_array_equal(delay_shares(few, few + 100, np.array(KNOTS)), 1)
    np.testing.assert_array_equal(delay_shares(np.empty(0), np.empty(0), np.array(KNOTS)), 1)


def test_the_layer_interpolates_as_numpy_does():
    horizon = Horizon()
    horizon.set_shares(SHARES)
    hours = np.array([-1.0, 0.0, 0.1, 5.0, 24.0, 99.0, 719.0, 5000.0], np.float32)
    expected = np.log(np.maximum(np.interp(hours, KNOTS, SHARES), FLOOR))
    np.testing.assert_allclose(horizon(tf.constant(hours)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["vanilla", "esmm", "ple", "esm2", "dcmt", "cmdcm"])
def test_the_logit_of_a_direct_purchase_gets_the_offset_and_no_other(variant):
    model = tiny_model(SPEC, **VARIANTS[variant])
    before = {name: value.numpy() for name, value in model(BATCH).items()}
    horizon_of(model).set_shares(SHARES)
    after = model(BATCH)
    offset = np.log(np.maximum(np.interp(BATCH[HOURS].numpy(), KNOTS, SHARES), FLOOR))
    moved = "conversion" if variant == "vanilla" else "direct"
    assert offset.min() < -0.1
    for name, value in after.items():
        wanted = before[name] + (offset if name == moved else 0)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("variant", ["esmm", "cmdcm"])
def test_one_users_request_has_it_too(variant):
    model = tiny_model(SPEC, **VARIANTS[variant])
    horizon_of(model).set_shares(SHARES)
    user, candidates = sides(SPEC, BATCH)
    user = {name: values[:1] for name, values in user.items()} | {HOURS: tf.constant([5.0])}
    one, other = model.score_one_user(user, candidates), model.score(user, candidates)
    horizon_of(model).set_shares(np.ones(len(KNOTS)))
    without = model.score(user, candidates)
    assert np.abs(without["p_direct"] - other["p_direct"]).max() > 1e-3
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("variant", ["single_task", "es_dfm", "ecad"])
def test_models_without_a_head_of_direct_purchases_have_none(variant):
    assert tiny_model(SPEC, **VARIANTS[variant]).horizon is None


def test_it_can_be_switched_off():
    model = tiny_model(SPEC, horizon=False)
    assert model.horizon is None
    assert "horizon" not in tf.train.TrackableView(model.checkpoint()).children(model.checkpoint())


def test_fitted_to_the_training_clicks_alone(small_world):
    data = ExampleSet.open(small_world.examples, small_world.config.split)
    days = data.split.validation
    other = dataclasses.replace(data, split=dataclasses.replace(data.split, train=days))
    shares = fit_horizon(data, seed=1)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert (np.diff(shares) >= 0).all()
    np.testing.assert_array_equal(shares, fit_horizon(data, seed=2))  # the order is no matter
    assert not np.array_equal(shares, fit_horizon(other, seed=1))


def test_a_fresh_model_starts_near_calibration():
    """The output bias knows of the offset."""
    model = tiny_model(SPEC, name="esmm")
    labels = {name: tf.constant([0, 1] * 20, tf.int64) for name in labels_of(SPEC)}
    biases = []
    for shares in (np.ones(len(KNOTS)), SHARES):
        horizon_of(model).set_shares(shares)
        model.adapt({**BATCH, **labels})
        biases.append(model.towers["direct"].logit.bias.numpy()[0])
    offset = np.log(np.maximum(np.interp(BATCH[HOURS].numpy(), KNOTS, SHARES), FLOOR))
    assert biases[0] == pytest.approx(0, abs=1e-6)
    assert biases[1] == pytest.approx(-offset.mean(), rel=1e-5)


def test_it_is_saved_and_loaded(small_world, tmp_path):
    data = ExampleSet.open(small_world.examples, small_world.config.split)
    model = train(data, tmp_path, small_world.config, progress=False)
    loaded = load_model(tmp_path / MODEL)
    np.testing.assert_array_equal(horizon_of(loaded).shares, horizon_of(model).shares)
    shares = fit_horizon(data, small_world.config.seed)
    np.testing.assert_allclose(horizon_of(loaded).shares.numpy(), shares, rtol=1e-6)


def test_a_model_from_before_there_was_the_setting_is_loaded_without(tmp_path):
    model = tiny_model(SPEC, horizon=False)
    SPEC.save(tmp_path / "spec.json")
    settings = model.config.model_dump(mode="json")
    model.checkpoint().write(str(tmp_path / WEIGHTS))
    write_json(tmp_path / "config.json", {"model": {**settings, "horizon": True}})
    with pytest.raises(DataError, match="written by another version"):
        load_model(tmp_path)
    del settings["horizon"]
    write_json(tmp_path / "config.json", {"model": settings})
    loaded = load_model(tmp_path)
    assert loaded.horizon is None
    for name, logit in model(BATCH).items():
        np.testing.assert_array_equal(loaded(BATCH)[name], logit)
