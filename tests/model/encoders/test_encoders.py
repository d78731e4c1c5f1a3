"""Each sequence encoder against NumPy, and in its limiting cases."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.model.encoders.din import DIN
from cmdcm.model.encoders.lrea import LREA
from cmdcm.model.encoders.srn import SRN
from cmdcm.tests.model.batches import random_batch, tiny_model, tiny_spec
from cmdcm.tests.model.encoders.histories import (
    AGES,
    BUCKETS,
    EMPTY,
    KEYS,
    LENGTH,
    MASK,
    QUERY,
    encoder,
    kernels,
)

TRUE = [np.flatnonzero(mask) for mask in MASK]


def assert_equals(layer, expected):
    got = layer(QUERY, KEYS, MASK, AGES)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_mean_pooling_against_numpy():
    expected = [KEYS[n, t].mean(0) if len(t) else np.zeros(6) for n, t in enumerate(TRUE)]
    assert_equals(encoder("mean_pooling"), expected)


def test_din_against_numpy():
    layer = encoder("din")
    w = kernels(layer)
    expected = np.zeros([4, 6])
    for n, q in enumerate(QUERY):
        for t in TRUE[n]:
            k = KEYS[n, t]
            hidden = q @ w["query"] + k @ w["key"] + (q * k) @ w["product"]
            hidden += w["age"][BUCKETS[n, t]] + w["age_bias"]
            expected[n] += (np.maximum(hidden, 0) @ w["score"][:, 0]) * k
    assert_equals(layer, expected)


def test_din_grows_with_the_history():
    """Every event twice: twice the output, where a softmax would leave it."""
    doubled = [np.concatenate([part, part], axis=1) for part in (KEYS, MASK, AGES)]
    din, attention = encoder("din"), encoder("target_attention")
    np.testing.assert_allclose(
        din(QUERY, *doubled), 2 * din(QUERY, KEYS, MASK, AGES), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        attention(QUERY, *doubled), attention(QUERY, KEYS, MASK, AGES), rtol=1e-5, atol=1e-6
    )


def lrea_scores(w, q, n):
    """Scores of the true positions, one at a time."""
    projected = [KEYS[n, t] @ w["key"] + w["age"][BUCKETS[n, t]] + w["age_bias"] for t in TRUE[n]]
    candidate = q @ w["query"]
    meets = [
        sum(w["compress"][place, r] * (k @ candidate) for place, k in enumerate(projected))
        for r in range(w["compress"].shape[1])
    ]
    rank = range(w["compress"].shape[1])
    return [
        sum(w["decompress"][place, r] * meets[r] for r in rank) / np.sqrt(len(candidate))
        for place in range(len(projected))
    ]


def test_lrea_and_its_penalty_against_numpy():
    layer = encoder("lrea")
    w = kernels(layer)
    expected, penalties = np.zeros([4, 6]), np.zeros(4)
    for n, q in enumerate(QUERY):
        scores = lrea_scores(w, q, n)
        for score, t in zip(scores, TRUE[n], strict=True):
            expected[n] += score * KEYS[n, t]
        penalties[n] = np.mean(np.maximum(0, -np.array(scores))) if scores else 0
    assert_equals(layer, expected)
    assert penalties[:EMPTY].max() > 0
    got = np.asarray(layer.penalty(QUERY, KEYS, MASK, AGES))
    np.testing.assert_allclose(got, penalties, rtol=1e-4, atol=1e-6)


def test_lrea_of_full_rank_is_linear_attention():
    layer = LREA(units=3, length=LENGTH, rank=99)
    layer(QUERY, KEYS, MASK, AGES)
    assert layer.rank == LENGTH
    layer.compress.assign(np.eye(LENGTH))
    layer.decompress.assign(np.eye(LENGTH))
    w = kernels(layer)
    projected = KEYS @ w["key"] + AGES @ w["age"]
    scores = np.einsum("nlu,nu->nl", projected, QUERY @ w["query"]) / np.sqrt(3) * MASK
    assert_equals(layer, np.einsum("nl,nld->nd", scores, KEYS))


def test_srn_against_numpy():
    layer = encoder("srn")
    w = kernels(layer)
    beta = float(np.log1p(np.exp(w["sharpness"]))[0])
    assert beta == pytest.approx(5)
    expected = np.zeros([4, 6])
    for n, q in enumerate(QUERY):
        by_age = np.zeros(AGES.shape[2])
        a = q @ w["projection"]
        for t in TRUE[n]:
            b = KEYS[n, t] @ w["projection"]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            by_age[BUCKETS[n, t]] += np.exp(beta * (cosine - 1))
        expected[n] = np.log1p(by_age) @ w["evolution"]
    assert_equals(layer, expected)


def test_a_sharp_srn_counts_the_candidate_alone():
    layer = SRN(units=3)
    layer(QUERY, KEYS, MASK, AGES)
    layer.sharpness.assign([1e4])
    keys = KEYS.copy()
    keys[0, [1, 3]] = QUERY[0]
    buckets = BUCKETS[0].copy()
    buckets[[1, 3]] = 4
    ages = np.eye(AGES.shape[2], dtype=np.float32)[buckets][None]
    got = layer(QUERY[:1], keys[:1], MASK[:1], ages)
    twice_at_age_4 = np.log(3) * layer.evolution.kernel.numpy()[4]
    np.testing.assert_allclose(got[0], twice_at_age_4, rtol=1e-2, atol=1e-6)
    others = np.zeros(LENGTH, bool)
    others[[0, 2, 4]] = True
    none = layer(QUERY[:1], keys[:1], others[None], ages)
    np.testing.assert_allclose(none, np.zeros([1, 6]), atol=1e-6)


@pytest.mark.parametrize("make", [lambda: DIN(0), lambda: SRN(0), lambda: LREA(3, 5, 0)])
def test_sizes_should_be_positive(make):
    with pytest.raises(ValueError, match=r"should be positive\. Received: .*0"):
        make()


def test_the_penalty_is_a_loss_of_its_weight():
    spec = tiny_spec()
    batch = random_batch(spec, 24)
    losses = {}
    for weight in (0.0, 0.1, 0.2):
        model = tiny_model(
            spec, name="single_task", sequence_encoder="lrea", attention_penalty=weight
        )
        losses[weight] = model.loss_parts(batch)
    assert "attention" not in losses[0.0]
    one, two = (float(losses[weight]["attention"]) for weight in (0.1, 0.2))
    assert one > 0
    assert two == pytest.approx(2 * one, rel=1e-5)
    plain = tiny_model(spec, name="single_task").loss_parts(batch)
    assert "attention" not in plain


def test_an_extreme_history_is_finite():
    for name in ("srn", "din", "mean_pooling", "target_attention"):
        got = encoder(name)(0 * QUERY, 1e6 * KEYS, MASK, AGES)
        assert np.isfinite(got).all()
    assert np.isfinite(encoder("srn")(QUERY, tf.zeros_like(KEYS), MASK, AGES)).all()
