"""The bootstrap: replicates against the plain metrics, and what intervals must show."""

import numpy as np
import pytest

from cmdcm.core.errors import DataError
from cmdcm.model import metrics
from cmdcm.model.bootstrap import Interval, UserBootstrap


def sample(users=60, rows=400, seed=0):
    """Users, labels and tied predictions of a calibrated model."""
    random = np.random.default_rng(seed)
    p = (random.integers(1, 40, rows) / 50).astype(np.float32)
    return random.integers(0, users, rows), (random.random(rows) < p).astype(int), p


def draws(boot, rows):
    """[rows, replicates] how often each row's user is drawn."""
    return boot.sums(np.ones((rows, 1)), groups=np.arange(rows))[:, 0]


def numbers(interval):
    """Estimate and bounds of an interval that has all three."""
    values = (interval.estimate, interval.lower, interval.upper)
    assert None not in values
    return values


def test_every_replicate_is_the_metric_of_the_users_drawn():
    users, labels, p = sample()
    weights = np.random.default_rng(1).integers(0, 3, len(p))
    boot = UserBootstrap(users, replicates=12, seed=3)
    result = boot.metrics(labels, p, bins=5, weights=weights)
    drawn_rows = draws(boot, len(p))
    bins = metrics.equal_mass_bins(p, 5, weights)
    assert result.estimates == pytest.approx(metrics.summary(labels, p, users, 5, weights))
    for r in range(12):
        drawn = weights * drawn_rows[:, r]
        expected = metrics.summary(labels, p, users, 5, drawn)
        # The bins' borders are those of the sample, not of the replicate.
        mass, label, prediction = (
            np.bincount(bins, weights=drawn * column) for column in (np.ones(len(p)), labels, p)
        )
        expected["ece"] = np.abs(label - prediction).sum() / mass.sum()
        for name, value in expected.items():
            assert result.replicates[name][r] == pytest.approx(value, rel=1e-9), name
        assert result.bin_rates[:, r] == pytest.approx(label / mass)
    curve = metrics.calibration_bins(labels, p, 5, weights)
    assert len(result.bins.weight) == len(result.bin_rates) == 5
    for field in ("weight", "mean_prediction", "mean_label"):
        assert getattr(result.bins, field) == pytest.approx(getattr(curve, field))


def test_a_mask_selects_rows_and_keeps_the_draws():
    users, labels, p = sample()
    rows = p > 0.3
    boot = UserBootstrap(users, replicates=20, seed=3)
    masked, weighted = boot.metrics(labels, p, rows=rows), boot.metrics(labels, p, weights=rows)
    assert masked.estimates == pytest.approx(weighted.estimates)
    for name in metrics.METRICS:
        assert masked.replicates[name] == pytest.approx(weighted.replicates[name], nan_ok=True)


def test_equal_seeds_give_equal_intervals_in_any_order_of_rows():
    users, labels, p = sample()
    order = np.random.default_rng(9).permutation(len(p))

    def intervals(seed, rows):
        boot = UserBootstrap(users[rows], replicates=30, seed=seed)
        return boot.intervals(boot.metrics(labels[rows], p[rows]))

    first, other = intervals(1, slice(None)), intervals(1, order)
    for name in metrics.METRICS:
        assert other[name].to_json() == pytest.approx(first[name].to_json()), name
    assert intervals(2, slice(None))["auc"] != first["auc"]


def test_models_that_predict_alike_differ_by_exactly_zero():
    users, labels, p = sample()
    boot = UserBootstrap(users, replicates=30, seed=1)
    a, b = boot.metrics(labels, p), boot.metrics(labels, p.copy())
    for name in metrics.METRICS:
        assert boot.difference(a, b, name) == Interval(0.0, 0.0, 0.0)
    assert not boot.difference(a, b, "log_loss").excludes_zero


def test_pairing_finds_a_difference_that_single_intervals_hide():
    users, labels, p = sample(users=800, rows=4_000)
    noise = np.random.default_rng(2).normal(0, 0.3, len(p))
    worse = 1 / (1 + (1 / p - 1) * np.exp(noise))
    boot = UserBootstrap(users, replicates=100, seed=1)
    a, b = boot.metrics(labels, p), boot.metrics(labels, worse)
    (first, lower, upper), (second, _, _) = (
        numbers(boot.intervals(of)["log_loss"]) for of in (a, b)
    )
    assert lower < second < upper
    difference = boot.difference(a, b, "log_loss")
    assert difference.excludes_zero
    estimate, lower, upper = numbers(difference)
    assert estimate == pytest.approx(first - second)
    assert lower < estimate < upper < 0


def test_users_who_repeat_themselves_widen_the_intervals():
    random = np.random.default_rng(4)
    p = np.repeat(random.uniform(0.1, 0.9, 100), 16)
    labels = np.repeat(random.random(100), 16) < p
    by_user, by_row = (
        UserBootstrap(clusters, replicates=200, seed=1)
        for clusters in (np.repeat(np.arange(100), 16), np.arange(1_600))
    )
    for name in ("auc", "log_loss", "pcoc"):
        (_, lower, upper), (_, row_lower, row_upper) = (
            numbers(boot.intervals(boot.metrics(labels, p))[name]) for boot in (by_user, by_row)
        )
        # Sixteen equal rows of a user are one observation: four times the standard error.
        assert 3 < (upper - lower) / (row_upper - row_lower) < 5.5, name


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(7)
    covered = {"log_loss": 0, "pcoc": 0}
    runs, users, clicks = 120, 120, 3
    p = 0.3
    truth = {"log_loss": metrics.entropy(p), "pcoc": 1.0}
    for run in range(runs):
        clusters = np.repeat(np.arange(users), clicks)
        labels = random.random(users * clicks) < p
        boot = UserBootstrap(clusters, replicates=100, seed=run, confidence=0.9)
        intervals = boot.intervals(boot.metrics(labels, np.full(len(labels), p)))
        for name, value in truth.items():
            _, lower, upper = numbers(intervals[name])
            covered[name] += lower <= value <= upper
    # 90 % of the runs, give or take three standard deviations and a small-sample bias.
    for name, count in covered.items():
        assert 0.8 <= count / runs <= 0.97, name


def test_ece_of_a_calibrated_model_has_an_interval_that_reaches_towards_zero():
    users, labels, p = sample(users=3_000, rows=3_000)
    boot = UserBootstrap(users, replicates=200, seed=1)
    result = boot.metrics(labels, p)
    estimate, lower, upper = numbers(boot.intervals(result)["ece"])
    assert lower < 0.5 * estimate
    assert estimate <= upper < 0.05
    # The plain percentiles would call the same model miscalibrated for certain.
    assert np.quantile(result.replicates["ece"], 0.025) > 0.5 * estimate


def test_a_metric_that_few_replicates_define_has_no_interval():
    users, p = np.arange(50), np.linspace(0.1, 0.9, 50)
    labels = (np.arange(50) == 40).astype(int)
    boot = UserBootstrap(users, replicates=100, seed=1)
    intervals = boot.intervals(boot.metrics(labels, p))
    assert intervals["auc"].estimate == pytest.approx(40 / 49)
    assert intervals["auc"].lower is intervals["auc"].upper is None
    assert intervals["pcoc"].lower is None
    assert intervals["log_loss"].lower is not None
    assert not intervals["auc"].excludes_zero


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_none_and_no_warning(label, recwarn):
    boot = UserBootstrap(np.arange(20), replicates=30, seed=1)
    intervals = boot.intervals(boot.metrics(np.full(20, label), np.linspace(0.1, 0.9, 20)))
    assert intervals["auc"] == Interval(None, None, None)
    assert intervals["log_loss"].upper is not None
    assert not recwarn.list


def test_no_rows_give_none():
    boot = UserBootstrap(np.arange(5), replicates=10, seed=1)
    result = boot.metrics(np.zeros(5), np.full(5, 0.5), rows=np.zeros(5, bool))
    assert set(boot.intervals(result).values()) == {Interval(None, None, None)}


def test_rows_must_match_the_user_ids():
    with pytest.raises(DataError, match="5 rows, one for each"):
        UserBootstrap(np.arange(5), replicates=10, seed=1).metrics([0, 1], [0.5, 0.5])


def test_sums_are_those_of_the_users_drawn():
    users, labels, p = sample()
    boot = UserBootstrap(users, replicates=9, seed=3)
    values = np.stack([labels, p, labels * p], axis=1)
    places = np.flatnonzero(p > 0.2)[::-1]
    groups = np.arange(len(places)) % 3
    result = boot.sums(values[places], places, groups)
    assert result.shape == (3, 3, 9)
    drawn = draws(boot, len(p))
    for group in range(3):
        rows = places[groups == group]
        assert result[group] == pytest.approx(values[rows].T @ drawn[rows])
    assert boot.sums(values)[0] == pytest.approx(values.T @ drawn)


def test_p_values_of_no_difference_are_uniform():
    """Two predictions that are equally far off: a p-value below .2 in a fifth of the samples."""
    small = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        p = random.uniform(0.2, 0.6, 400)
        labels = random.random(400) < p
        noise = random.normal(0, 0.5, (2, 400))
        boot = UserBootstrap(np.arange(400), replicates=50, seed=seed)
        a, b = (boot.metrics(labels, 1 / (1 + (1 / p - 1) * np.exp(e))) for e in noise)
        p_value = boot.p_value(a, b, "log_loss")
        assert p_value == pytest.approx(boot.p_value(b, a, "log_loss"))
        assert p_value is not None
        small += p_value < 0.2
    assert 10 <= small <= 32


def test_a_difference_without_interval_has_no_p_value():
    boot = UserBootstrap(np.arange(40), replicates=20, seed=1)
    p = np.linspace(0.1, 0.9, 40)
    a, b = boot.metrics(np.zeros(40), p), boot.metrics(np.zeros(40), p[::-1])
    assert boot.p_value(a, b, "auc") is None
    assert boot.p_value(a, a, "log_loss") == 1.0
