"""Where randomness comes from: streams for what is drawn in bulk, hashes for single visits.

A *stream* is a NumPy generator with a key of its own. What decides about a visit (its hidden trait,
whether it is clicked, bought, carted, bought later) comes from a *hash* of seed, user, item and
occasion: whoever asks about the same visit again, in whatever order, gets the same numbers. So
policies that are compared on one world meet the same luck, and the luck of the log.
"""

import numpy as np
import numpy.typing as npt

from cmdcm.datasets.simulation import Floats, Ints

Keys = npt.NDArray[np.uint64]

ITEMS, USERS, PILOT, CHUNKS, DRIFT = range(5)
"""First part of the keys of streams."""

HIDDEN, CLICK, DIRECT, CART, DELAYED = range(5)
"""What the numbers of a visit decide."""

_STEP = 0x9E3779B97F4A7C15


def stream(seed: int, *key: int) -> np.random.Generator:
    """Returns the generator of a key, which is independent of those of all other keys."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def visit_keys(seed: int, user: Ints, item: Ints, occasion: Ints) -> Keys:
    """Returns a hash of each visit, [n].

    Args:
        seed: The world's seed.
        user: [n], users of the world, 0-based.
        item: [n], items of the world, 0-based.
        occasion: [n], what tells the visits of a user to an item apart.
    """
    keys = np.full(len(user), seed % 2**64, np.uint64)
    for part in (user, item, occasion):
        keys = _mix(keys + np.uint64(_STEP) + part.astype(np.uint64))
    return keys


def uniform(keys: Keys, purpose: int) -> Floats:
    """Returns numbers in [0, 1), independent between visits and purposes, [n].

    Example:
        >>> keys = visit_keys(1, np.arange(3), np.zeros(3, np.int64), np.zeros(3, np.int64))
        >>> bool((uniform(keys, CART) == uniform(keys[::-1], CART)[::-1]).all())
        True
    """
    mixed = _mix(keys + np.uint64((purpose + 1) * _STEP % 2**64))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: Keys) -> Keys:
    """SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable PRNGs, 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
