"""The estimators of delayed feedback: limits, minimisers, gradients and extremes."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.features.arrivals import entries
from cmdcm.model.delayed.base import DelayedModel, Observation
from cmdcm.model.delayed.defer import defer_weights
from cmdcm.model.delayed.defuse import defuse_weights
from cmdcm.model.delayed.dfm import dfm_loss, log_rate, negative_loss, positive_loss
from cmdcm.model.delayed.es_dfm import es_dfm_weights
from cmdcm.model.delayed.fnc import unbiased_logit
from cmdcm.model.delayed.fnw import fnw_weights
from cmdcm.model.delayed.fsiw import fsiw_weights
from cmdcm.model.delayed.ulc import ulc_weights
from cmdcm.model.registry import MODELS
from cmdcm.model.weights import capped_weights
from cmdcm.tests.model.batches import DELAYED, VARIANTS, random_batch, tiny_model, tiny_spec

SPEC = tiny_spec()
HOUR = 3_600_000
CORRECTED = [name for name in DELAYED if name != "as_observed"]
WEIGHTED = [name for name in DELAYED if name not in ("dfm", "fnc")]
ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
Y = np.array([1.0, 0.0], np.float32)
"""A positive and a negative entry."""


@functools.cache
def model_of(name: str, **settings) -> DelayedModel:
    model = tiny_model(SPEC, **VARIANTS[name], **settings)
    model.build_for(entry_batch(random_batch(SPEC, 4)))
    return model


def entry_batch(batch, observed=(1, 0, 1, 0), repeat=(0, 0, 1, 1)) -> dict:
    """The inputs of a batch as entries of a stream, with the pre-trained model's logits."""
    inputs = {f.name: batch[f.name] for f in SPEC.inputs}
    rows = len(observed)
    return inputs | {
        "observed": tf.constant(observed, tf.int64),
        "repeat": tf.constant(repeat, tf.int64),
        "waited_ms": tf.fill([rows], tf.constant(24 * HOUR, tf.int64)),
        "delay_ms": tf.constant(observed, tf.int64) * 30 * HOUR,
        **{f"given_{name}": tf.linspace(-2.0, 1.0, rows) for name in ("dp", "z", "seen")},
    }


def seen(observed, repeat=zeros, waited=24 * ones, delay=zeros) -> Observation:
    return Observation(*(tf.constant(v, tf.float32) for v in (observed, repeat, waited, delay)))


def logit(p) -> tf.Tensor:
    p = np.asarray(p, np.float64)
    return tf.constant(np.log(p) - np.log1p(-p), tf.float32)


def test_every_delayed_model_is_in_these_tests():
    assert {n for n, c in MODELS.items() if issubclass(c, DelayedModel)} == set(DELAYED)


# Limiting cases


@pytest.mark.parametrize(
    "weights",
    [
        es_dfm_weights(Y, zeros, zeros),
        defuse_weights(Y, zeros, zeros, zeros),
        fsiw_weights(Y, ones, zeros),
        ulc_weights(Y, zeros),
        defer_weights(Y, 0.3 * ones, ones),
        fnw_weights(Y, zeros),
    ],
    ids=["es_dfm", "defuse", "fsiw", "ulc", "defer", "fnw"],
)
def test_without_late_conversions_the_weights_are_those_of_the_cross_entropy(weights):
    np.testing.assert_array_equal(weights.positive, [1, 0])
    np.testing.assert_array_equal(weights.negative, [0, 1])


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name != "fnw"])
def test_without_late_conversions_the_loss_is_the_cross_entropy(name):
    never = {"dp": -40 * ones, "z": -40 * ones, "seen": 40 * ones}
    losses = model_of(name).entry_losses({"conversion": logit([0.2, 0.2])}, tensors(never), seen(Y))
    np.testing.assert_allclose(losses, [-np.log(0.2), -np.log(0.8)], rtol=1e-5)


def tensors(arrays) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value, tf.float32) for name, value in arrays.items()}


def test_es_dfm_without_a_waiting_window_is_fnw():
    f = np.array([0.3, 0.3], np.float32)
    for a, b in zip(es_dfm_weights(Y, f, f), fnw_weights(Y, f), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(fnw_weights(Y, f).positive, [1.3, 0], rtol=1e-6)
    np.testing.assert_allclose(fnw_weights(Y, f).negative, [0, 0.7 * 1.3], rtol=1e-6)


def test_weights_by_hand():
    # p = .4, of which .3 early: dp = .1, z = .1 / .7, s = .75
    p, dp, z, s = (np.array([v, v], np.float32) for v in (0.4, 0.1, 1 / 7, 0.75))
    np.testing.assert_allclose(fsiw_weights(Y, s, z).positive, [4 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(fsiw_weights(Y, s, z).negative, [0, 6 / 7], rtol=1e-6)
    np.testing.assert_allclose(defer_weights(Y, p, s).positive, [0.4 / 0.35, 0], rtol=1e-6)
    np.testing.assert_allclose(defer_weights(Y, p, s).negative, [0, 0.6 / 0.65], rtol=1e-6)
    np.testing.assert_allclose(ulc_weights(Y, z).positive, [1, 1 / 7], rtol=1e-6)
    again = defuse_weights(ones, np.array([0, 1], np.float32), dp, z)
    np.testing.assert_allclose(again.positive, [1.1, 1], rtol=1e-6)
    negative = defuse_weights(zeros, zeros, dp, z)
    np.testing.assert_allclose(negative.positive, [0.1 / 7] * 2, rtol=1e-6)
    np.testing.assert_allclose(negative.negative, [1.1 * 6 / 7] * 2, rtol=1e-6)


def test_fnc_serves_the_unbiased_rate_up_to_one():
    p = tf.sigmoid(unbiased_logit(logit([0.2, 0.5, 0.7]))).numpy()
    np.testing.assert_allclose(p, [0.25, 1, 1], atol=2e-6)
    outputs = model_of("fnc").predictions({"conversion": logit([0.2])})
    np.testing.assert_allclose(outputs["p_conversion"], [0.25], rtol=1e-5)


def test_dfm_by_hand():
    z, rate = logit([0.4]), tf.math.log([0.5])
    np.testing.assert_allclose(
        positive_loss(z, rate, tf.constant([3.0])), [-np.log(0.4 * 0.5 * np.exp(-1.5))], rtol=1e-5
    )
    np.testing.assert_allclose(
        negative_loss(z, rate, tf.constant([3.0])),
        [-np.log(0.6 + 0.4 * np.exp(-1.5))],
        rtol=1e-5,
    )


def test_dfm_without_elapsed_time_has_no_loss_and_no_gradient():
    z, rate = tf.constant([1.5]), tf.constant([-0.3])
    with tf.GradientTape() as tape:
        tape.watch([z, rate])
        loss = negative_loss(z, rate, tf.constant([0.0]))
    np.testing.assert_allclose(loss, [0], atol=1e-7)
    for gradient in tape.gradient(loss, [z, rate]):
        np.testing.assert_allclose(gradient, [0], atol=1e-7)


def test_dfm_after_a_long_time_is_a_plain_negative():
    loss = negative_loss(logit([0.3]), tf.math.log([2.0]), tf.constant([1e4]))
    np.testing.assert_allclose(loss, [-np.log(0.7)], rtol=1e-6)


@pytest.mark.parametrize(
    ("observed", "delay", "expected"),
    [
        # Late positive: first a negative at 2 h, then a conversion at 5 h.
        (1, 5.0, -np.log(0.4 * 0.5 * np.exp(-2.5))),
        (0, 0.0, -np.log(0.6)),
    ],
)
def test_the_two_entries_of_dfm_add_up_to_the_likelihood_of_the_final_label(
    observed, delay, expected
):
    z, rate = logit([0.4]), tf.math.log([0.5])
    first = dfm_loss(z, rate, Observation(*(tf.constant([v]) for v in (0.0, 0.0, 2.0, 0.0))))
    again = (float(observed), 1.0, 2.0, delay)
    second = dfm_loss(z, rate, Observation(*(tf.constant([v]) for v in again)))
    np.testing.assert_allclose(first + second, [expected], rtol=1e-5)


def test_a_conversion_in_the_window_says_all_at_once_in_dfm():
    z, rate = logit([0.4]), tf.math.log([0.5])
    again = Observation(*(tf.constant([v]) for v in (1.0, 1.0, 2.0, 1.5)))
    np.testing.assert_array_equal(dfm_loss(z, rate, again), [0])


# The population's minimiser

CELLS = (0.05, 0.9), (0.7, 0.3)
"""p and the share of early conversions of two kinds of clicks."""


@pytest.mark.parametrize("name", CORRECTED)
@pytest.mark.parametrize(("p", "s"), CELLS)
def test_the_fixed_point_is_the_true_probability(name, p, s):
    assert fitted(name, p, s, steps=2000 if name == "dfm" else 200) == pytest.approx(p, abs=2e-3)


@pytest.mark.parametrize(("p", "s"), CELLS)
def test_what_is_observed_is_biased(p, s):
    assert fitted("as_observed", p, s, steps=200) == pytest.approx(p * s, abs=1e-3)


def fitted(name: str, p: float, s: float, steps: int) -> float:
    """The served probability at the fixed point of a stream of all clicks of one kind.

    Delays are exponential, so that DFM's assumption holds, and cut in parts of equal mass.
    """
    model, waiting = model_of(name), 24.0
    rate = -np.log1p(-s) / waiting
    quantile = (np.arange(150) + 0.5) / 150
    delays = np.round(-np.log1p(-quantile) / rate * HOUR).astype(np.int64)
    delays = np.append(delays, -1)
    mass = np.append(np.full(150, p / 150), 1 - p)
    known = np.full(len(delays), 10**12)
    stream = entries(np.zeros_like(known), delays, known, int(waiting * HOUR), model.policy)
    early = np.mean(delays[:-1] <= waiting * HOUR)
    dp = p * (1 - early)
    auxiliary = {"dp": dp, "z": dp / (1 - p * early), "seen": early}
    rows = np.ones(len(stream), np.float32)
    waited = (waiting if model.policy.waits else 0.0) * rows
    delay = np.where(stream.observed == 1, delays[stream.row], 0) / HOUR
    observation = seen(stream.observed, stream.repeat, waited, delay)
    masses = tf.constant(mass[stream.row], tf.float32)
    given = {name: logit(value * rows) for name, value in auxiliary.items()}
    heads = {head.name for head in model.heads} & {"conversion", "rate"}
    variables = {name: tf.Variable(-1.0 if name == "conversion" else -3.0) for name in heads}
    optimizer = tf.keras.optimizers.legacy.Adam(0.02 if "rate" in heads else 0.1)

    @tf.function
    def train() -> None:
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                logits = {n: v * tf.ones_like(masses) for n, v in variables.items()}
                loss = tf.reduce_sum(masses * model.entry_losses(logits, given, observation))
            every = list(variables.values())
            optimizer.apply_gradients(zip(tape.gradient(loss, every), every, strict=True))

    train()
    logits = {n: tf.reshape(v, [1]) for n, v in variables.items()}
    return float(model.predictions(logits)["p_conversion"][0])


# Gradients


@pytest.mark.parametrize("name", DELAYED)
def test_entries_train_the_conversion_and_no_auxiliary(name):
    model = model_of(name)
    auxiliary = {head.name for head in model.auxiliary}
    batch = entry_batch(random_batch(SPEC, 4))
    with tf.GradientTape() as tape:
        loss = model.loss_parts(batch)["conversion"]
    towers = {name: tower.trainable_variables for name, tower in model.towers.items()}
    learn = {
        name
        for name, gradients in tape.gradient(loss, towers).items()
        if any(g is not None and np.abs(g).max() > 0 for g in gradients)
    }
    assert learn == {head.name for head in model.heads} - auxiliary


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_have_no_gradient(name):
    model, z = model_of(name), logit([0.3, 0.3])
    auxiliary = {n: logit([0.2, 0.2]) for n in ("dp", "z", "seen")}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, *auxiliary.values()])
        loss = model.entry_losses({"conversion": z}, auxiliary, seen(Y))
    assert [tape.gradient(loss, value) for value in auxiliary.values()] == [None] * 3
    sides = model.observation_weights(
        tf.constant([0.3, 0.3]), {n: tf.constant([0.2, 0.2]) for n in auxiliary}, seen(Y)
    )
    # d/dz of a softplus(-z) + b softplus(z) with constants a and b.
    expected = -sides.positive * 0.7 + sides.negative * 0.3
    np.testing.assert_allclose(tape.gradient(loss, z), expected, rtol=1e-5)


def test_without_given_logits_the_models_own_are_read():
    model = model_of("ulc")
    batch = entry_batch(random_batch(SPEC, 4))
    own = dict(batch, given_z=model(batch)["z"])
    del batch["given_z"]
    assert float(model.compute_loss(batch)) == float(model.compute_loss(own))


# Extremes


@pytest.mark.parametrize("name", DELAYED)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_losses_and_gradients_are_finite_at_extreme_logits(name, size):
    model = model_of(name)
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [0, 1], [0, 1])).reshape(4, -1)
    z, other = (tf.constant(size * signs[n], tf.float32) for n in (0, 1))
    rows = tf.ones_like(z)
    observation = seen(signs[2], signs[3], 24 * rows, 700 * signs[2])
    logits = {"conversion": z, "rate": other}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, other])
        auxiliary = dict.fromkeys(("dp", "z", "seen"), other)
        losses = model.entry_losses(logits, auxiliary, observation)
    assert np.isfinite(losses).all()
    assert np.isfinite(tape.gradient(losses, z)).all()
    rate = tape.gradient(losses, other)
    assert rate is None or np.isfinite(rate).all()


def test_no_weight_exceeds_the_cap_and_all_are_tracked():
    model = model_of("fsiw", weight_cap=4.0)
    model.reset_metrics()
    auxiliary = {"seen": logit([0.01, 0.5]), "z": logit([0.2, 0.2])}
    losses = model.entry_losses({"conversion": logit([0.5, 0.5])}, auxiliary, seen(ones))
    np.testing.assert_allclose(losses, np.log(2) * np.array([4, 2]), rtol=1e-5)
    tracked = {m.name: float(m.result()) for m in model.metrics if m.name.startswith("weight")}
    expected = {"weight_mean": 3, "weight_largest": 4, "weight_effective_share": 36 / 20 / 2}
    assert tracked == pytest.approx(expected, rel=1e-5)


def test_capped_weights_by_hand():
    weights = capped_weights(tf.constant([1.0, 2.0, 9.0, 0.0]), 6.0)
    np.testing.assert_allclose(weights.values, [1, 2, 6, 0])
    assert float(weights.clipped) == 0.25
    assert float(weights.mean) == 2.25
    assert float(weights.effective) == pytest.approx(81 / 41)


def test_the_rate_of_dfm_is_bounded():
    np.testing.assert_allclose(log_rate(tf.constant([-1e4, 0.0, 1e4])), [-11.4, 0, 8.2], rtol=1e-6)


def test_the_first_rate_is_that_of_the_mean_delay():
    batch = random_batch(SPEC, 64)
    model = tiny_model(SPEC, name="dfm")
    model.adapt(batch)
    converted = batch["conversion"].numpy() == 1
    hours = batch["conversion_delay_ms"].numpy()[converted] / HOUR
    expected = -np.log((hours.sum() + 1) / (len(hours) + 1))
    assert float(model.towers["rate"].logit.bias[0]) == pytest.approx(expected, rel=1e-5)


# Refunds


def test_ecad_by_hand():
    model = tiny_model(SPEC, name="ecad")
    logits = {"conversion": logit([0.4, 0.4, 0.4]), "refund": logit([0.25, 0.25, 0.25])}
    outputs = model.predictions(logits)
    np.testing.assert_allclose(outputs["p_effective"], [0.3] * 3, rtol=1e-5)
    np.testing.assert_allclose(outputs["p_refunded"], [0.1] * 3, rtol=1e-5)
    labels = {"direct": zeros, "conversion": [1.0, 1, 0], "refunded": [1.0, 0, 0]}
    losses = model.head_losses(logits, tensors(labels))
    np.testing.assert_allclose(losses["refund"].losses, -np.log([0.1, 0.9, 0.9]), rtol=1e-5)
    np.testing.assert_allclose(losses["conversion"].losses, -np.log([0.4, 0.4, 0.6]), rtol=1e-5)


def test_ecad_without_refunds_is_the_conversion_model():
    model = tiny_model(SPEC, name="ecad")
    logits = {"conversion": logit([0.2, 0.7]), "refund": tf.constant([-80.0, -80.0])}
    np.testing.assert_allclose(model.predictions(logits)["p_effective"], [0.2, 0.7], rtol=1e-5)
    labels = {"direct": zeros, "conversion": Y, "refunded": zeros}
    losses = model.head_losses(logits, tensors(labels))
    np.testing.assert_allclose(losses["refund"].losses, [0, 0], atol=1e-6)


def test_the_minimiser_of_ecad_is_the_true_probabilities():
    # Of clicks: 30 % convert, 40 % of which are refunded. The gradient is zero there.
    model = tiny_model(SPEC, name="ecad")
    labels = {"direct": np.zeros(3), "conversion": [1.0, 1, 0], "refunded": [1.0, 0, 0]}
    masses = tf.constant([0.12, 0.18, 0.7])
    both = {"conversion": logit([0.3]), "refund": logit([0.4])}
    with tf.GradientTape() as tape:
        tape.watch(both)
        logits = {name: tf.repeat(z, 3) for name, z in both.items()}
        losses = model.head_losses(logits, tensors(labels)).values()
        loss = tf.add_n([tf.reduce_sum(masses * head.losses) for head in losses])
    for gradient in tape.gradient(loss, both).values():
        np.testing.assert_allclose(gradient, [0], atol=1e-6)


def test_ecad_is_finite_at_extreme_logits():
    model = tiny_model(SPEC, name="ecad")
    c, r = (tf.constant(v, tf.float32) for v in np.meshgrid([-1e4, 1e4] * 3, [-1e4, 1e4]))
    logits = {"conversion": tf.reshape(c, [-1]), "refund": tf.reshape(r, [-1])}
    labels = {"conversion": np.tile([1.0, 1, 0], 4), "refunded": np.tile([1.0, 0, 0], 4)}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = model.head_losses(logits, tensors({"direct": np.zeros(12), **labels}))
        loss = tf.add_n([tf.reduce_sum(head.losses) for head in losses.values()])
    assert np.isfinite(loss)
    for gradient in tape.gradient(loss, logits).values():
        assert np.isfinite(gradient).all()
