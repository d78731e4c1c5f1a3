"""Draws of users: a slow reference, their distribution, and what they depend on."""

import math

import numpy as np
import pytest

from cmdcm.core.errors import DataError
from cmdcm.model.bootstrap import UserBootstrap

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def counts(users, replicates, seed=5):
    """[rows, replicates] how often each row's user is drawn, seen from outside."""
    rows = len(users)
    boot = UserBootstrap(users, replicates, seed)
    return boot.sums(np.ones((rows, 1)), groups=np.arange(rows))[:, 0]


def splitmix(state):
    x = (state + GOLDEN) % WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def fnv(text):
    hashed = 0xCBF29CE484222325
    for byte in text.encode():
        hashed = (hashed ^ byte) * 0x100000001B3 % WORD
    return hashed


def reference(user, replicate, seed):
    """One draw in exact integers."""
    hashed = splitmix(fnv(user) if isinstance(user, str) else user % WORD)
    key = splitmix(hashed ^ splitmix(seed))
    bits = splitmix((key + replicate // 4 * GOLDEN) % WORD) >> 16 * (replicate % 4) & 0xFFFF
    tails = (1 - sum(math.exp(-1) / math.factorial(i) for i in range(k)) for k in range(1, 12))
    return sum(bits < round(2**16 * tail) for tail in tails)


@pytest.mark.parametrize("users", [[0, 7, -3, 2**63 - 1], ["", "7", "Zoë"]])
@pytest.mark.parametrize("seed", [0, 20_241_111])
def test_a_draw_is_a_function_of_seed_user_and_replicate(users, seed):
    expected = [[reference(user, r, seed) for r in range(30)] for user in users]
    assert counts(users, 30, seed).tolist() == expected


def test_draws_do_not_depend_on_the_other_users_nor_on_the_number_of_replicates():
    users = np.random.default_rng(0).integers(0, 300, 1_000)
    whole = counts(users, 21)
    rows = np.random.default_rng(1).permutation(1_000)[:400]
    assert np.array_equal(counts(users[rows], 21), whole[rows])
    assert np.array_equal(counts(users, 6), whole[:, :6])
    assert np.array_equal(counts(users.astype(np.int32), 21), whole)


def test_users_are_drawn_by_a_poisson_distribution_of_mean_one():
    drawn = counts(np.arange(20_000), 40)
    shares = np.bincount(drawn.astype(int).ravel(), minlength=6)[:6] / drawn.size
    expected = [math.exp(-1) / math.factorial(k) for k in range(6)]
    # Five standard deviations of 800,000 draws.
    assert shares == pytest.approx(expected, abs=5 * math.sqrt(0.25 / drawn.size))
    assert drawn.mean() == pytest.approx(1, abs=5 / math.sqrt(drawn.size))
    # The variance of a squared deviation of Poisson(1) is 3.
    assert drawn.var() == pytest.approx(1, abs=5 * math.sqrt(3 / drawn.size))


def test_replicates_users_and_seeds_are_independent():
    # Consecutive ids and seeds, as they are in practice: the hardest case for a hash.
    drawn = np.stack([counts(np.arange(20_000), 24, seed) for seed in (0, 1)]) - 1
    between = np.corrcoef(np.concatenate(drawn, axis=1).T) - np.eye(48)
    assert np.abs(between).max() < 5 / math.sqrt(20_000)
    for step in (1, 2, 64):
        neighbours = np.mean(drawn[:, step:] * drawn[:, :-step])
        assert abs(neighbours) < 5 / math.sqrt(drawn.size)
    # Not only uncorrelated: pairs of draws that share a word of random bits fill their table.
    pairs = np.minimum(drawn[0, :, :-1:4] + 1, 3) * 4 + np.minimum(drawn[0, :, 1::4] + 1, 3)
    table = np.bincount(pairs.astype(int).ravel(), minlength=16).reshape(4, 4)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    assert np.sum((table - expected) ** 2 / expected) < 9 + 5 * math.sqrt(2 * 9)


@pytest.mark.parametrize("users", [[0.5, 1.0], [True, False], np.array([1, 2], np.uint64)])
def test_other_ids_are_refused(users):
    with pytest.raises(DataError, match="user ids should be int64 or strings"):
        UserBootstrap(users, 10, 1)
