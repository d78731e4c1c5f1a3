"""Log-space probabilities against float64 NumPy in probability space."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.probability import Event, both, complement, either, from_logit, mixture
from cmdcm.tests.model.reference import log_sigmoid, sigmoid

GRID = np.array(list(itertools.product(np.linspace(-9, 9, 10), repeat=3)), np.float32).T
EXTREME = np.array(list(itertools.product([-1e4, -100, 0, 100, 1e4], repeat=3)), np.float32).T


def events(logits: np.ndarray) -> list[Event]:
    return [from_logit(tf.constant(z)) for z in logits]


def check(event: Event, p: np.ndarray):
    np.testing.assert_allclose(tf.exp(event.yes), p, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(tf.exp(event.no), 1 - p, rtol=2e-5, atol=1e-7)


def test_event_of_a_logit():
    z = np.linspace(-80, 80, 161, dtype=np.float32)
    event = from_logit(tf.constant(z))
    np.testing.assert_allclose(event.yes, log_sigmoid(z), rtol=1e-6)
    np.testing.assert_allclose(event.no, log_sigmoid(-z), rtol=1e-6)


def test_complement_swaps():
    event = from_logit(tf.constant([1.0, -3.0]))
    check(complement(event), 1 - sigmoid([1.0, -3.0]))


def test_both_multiplies():
    a, b, _ = events(GRID)
    check(both(a, b), sigmoid(GRID[0]) * sigmoid(GRID[1]))


def test_either_adds_what_the_first_left():
    a, b, _ = events(GRID)
    p, q = sigmoid(GRID[0]), sigmoid(GRID[1])
    check(either(a, b), p + (1 - p) * q)


def test_mixture_is_total_probability():
    c, a, b = events(GRID)
    p, q, r = sigmoid(GRID)
    check(mixture(c, a, b), p * q + (1 - p) * r)


def test_a_mixture_of_one_event_is_that_event():
    c, a, _ = events(GRID)
    check(mixture(c, a, a), sigmoid(GRID[1]))


def test_either_is_one_of_both_parts():
    direct, later, _ = events(GRID)
    first = tf.exp(direct.yes)
    second = tf.exp(both(complement(direct), later).yes)
    np.testing.assert_allclose(first + second, tf.exp(either(direct, later).yes), atol=3e-7)


COMPOSED = {
    "from_logit": lambda a, b, c: a,
    "both": lambda a, b, c: both(a, b),
    "either": lambda a, b, c: either(a, b),
    "mixture": mixture,
    "delayed": lambda a, b, c: both(complement(a), mixture(b, c, complement(c))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_yes_and_no_sum_to_one_and_neither_exceeds_it(name):
    random = np.random.default_rng(0)
    event = COMPOSED[name](*events(random.normal(0, 6, (3, 100_000)).astype(np.float32)))
    np.testing.assert_allclose(tf.exp(event.yes) + tf.exp(event.no), 1, atol=5e-7)
    assert float(tf.reduce_max(event.yes)) <= 0
    assert float(tf.reduce_max(event.no)) <= 0


def log_both(a, b):
    return log_sigmoid(a) + log_sigmoid(b)


def log_mixture(c, a, b):
    return np.logaddexp(log_sigmoid(c) + log_sigmoid(a), log_sigmoid(-c) + log_sigmoid(b))


EXTREME_LOGS = {
    "both": (
        lambda a, b, c: both(a, b),
        lambda a, b, c: log_both(a, b),
        lambda a, b, c: np.logaddexp(log_sigmoid(-a), log_both(a, -b)),
    ),
    "either": (
        lambda a, b, c: either(a, b),
        lambda a, b, c: np.logaddexp(log_sigmoid(a), log_both(-a, b)),
        lambda a, b, c: log_both(-a, -b),
    ),
    "mixture": (mixture, log_mixture, lambda c, a, b: log_mixture(c, -a, -b)),
}


@pytest.mark.parametrize("name", EXTREME_LOGS)
def test_extreme_logits_are_right_and_their_gradients_finite(name):
    compose, yes, no = EXTREME_LOGS[name]
    logits = tf.constant(EXTREME)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        event = compose(*(from_logit(z) for z in tf.unstack(logits)))
        total = tf.reduce_sum(event.yes) + tf.reduce_sum(event.no)
    exact = EXTREME.astype(np.float64)
    np.testing.assert_allclose(event.yes, yes(*exact), rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(event.no, no(*exact), rtol=1e-6, atol=2e-7)
    assert np.isfinite(tape.gradient(total, logits)).all()


def test_gradient_at_a_tie_is_shared_in_halves():
    # Both terms of the mixture are 1/4: d log(a + b) = (da + db) / 2.
    yes_a, yes_b = tf.constant(np.log(0.5), tf.float32), tf.constant(np.log(0.5), tf.float32)
    half = from_logit(tf.constant(0.0))
    with tf.GradientTape() as tape:
        tape.watch([yes_a, yes_b])
        result = mixture(half, Event(yes_a, half.no), Event(yes_b, half.no)).yes
    assert [float(g) for g in tape.gradient(result, [yes_a, yes_b])] == [0.5, 0.5]


def test_gradient_of_a_mixture_against_its_derivative():
    logits = [tf.constant(z) for z in GRID]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        result = tf.reduce_sum(mixture(*(from_logit(z) for z in logits)).yes)
    c, a, b = sigmoid(GRID)
    p = c * a + (1 - c) * b
    derivatives = [
        c * (1 - c) * (a - b) / p,
        c * a * (1 - a) / p,
        (1 - c) * b * (1 - b) / p,
    ]
    for got, expected in zip(tape.gradient(result, logits), derivatives, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6)
