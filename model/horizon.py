"""The horizon of a direct purchase: a click shortly before the promotion has little time left.

A direct purchase comes before the promotion starts, so h hours before it only purchases with a
delay below h count. Among the clicks that would be bought if there were time, a share F(h) is
bought in time; F is the distribution function of the delays. It falls from 1 to 0 just where a
promotion's traffic is highest, and a network that has seen few last days, or none, does not learn
it from `hours_to_promotion` among its inputs. So the logit of P(D) gets an offset that is known:

    logit P(D | x, h) = z(x, h) + log F(h)

where z is what the tower says. For rare purchases P(D | x, h) is F(h) times the probability with
all the time in the world; where the delays of some clicks differ from those of all, z learns the
difference. It is what the exposure is to a Poisson regression.

F comes from the delays of the training clicks, none of which can be longer than its click had time:
right-truncated data, of which the product-limit estimator in reverse time is the maximum of the
likelihood (Lynden-Bell, MNRAS 1971; Woodroofe, Ann. Stat. 1985, section 2):

    F(t) = prod over delays u > t of (1 - d(u) / n(u))

d(u) counts the delays that equal u, n(u) the clicks that were bought by u and had time until u.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors

HOURS = "hours_to_promotion"
"""The input that says how much time is left."""

KNOTS = (0.0, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 18, 24, 36, 48, 72, 96, 120, 168, 240, 336, 504, 720)
"""Hours at which the weights hold F; it is linear between them, and 1 beyond the last."""

FLOOR = 0.01
"""Least share: the offset is no lower than its logarithm."""

PURCHASES = 20_000
"""Purchases whose delays are enough: F is then known to .004."""

AT_RISK = 50
"""Least n(u). Beyond the longest delay with so many, F is taken for 1."""

_HOUR_MS = 3_600_000.0
_BATCH = 8192

Doubles = npt.NDArray[np.float64]


class Horizon(tf.keras.layers.Layer):
    """The offset log F(h) of a logit.

    Its weights are F at `KNOTS`, which no optimizer trains: `set_shares` sets them before training,
    and they travel with the checkpoint and the export. Fresh, F is 1 and the offset 0.

    Call arguments:
        hours: [N] or [1], hours from the click to the promotion's start.

    Returns:
        The offset, of the same shape.

    Example:
        >>> horizon = Horizon()
        >>> horizon.set_shares(np.interp(KNOTS, [0, 4, 24], [0, 0.5, 1]))
        >>> tf.exp(horizon(tf.constant([0.0, 2.0, 14.0, 1000.0]))).numpy().round(4)
        array([0.01, 0.25, 0.75, 1.  ], dtype=float32)
    """

    def build(self, input_shape: object) -> None:
        """Creates the shares."""
        self.shares = self.add_weight("shares", [len(KNOTS)], initializer="ones", trainable=False)
        super().build(input_shape)

    def set_shares(self, shares: Doubles) -> None:
        """Sets F at the knots, [knots], from 0 to 1 and not falling."""
        if not self.built:
            self.build(None)
        self.shares.assign(shares)

    @property
    def off(self) -> bool:
        """Whether F is 1 everywhere: the offset is 0."""
        return bool(np.all(self.shares.numpy() == 1))

    def call(self, hours: tf.Tensor) -> tf.Tensor:
        """See the class."""
        first, widths = tf.constant(KNOTS[:-1]), tf.constant(np.diff(KNOTS), tf.float32)
        # Which part of each stretch between two knots lies below h.
        passed = tf.clip_by_value((hours[:, tf.newaxis] - first) / widths, 0.0, 1.0)
        rises = self.shares[1:] - self.shares[:-1]
        share = self.shares[0] + tf.linalg.matvec(passed, rises)
        return tf.math.log(tf.maximum(share, FLOOR))


def delay_shares(delays: Doubles, horizons: Doubles, at: Doubles) -> Doubles:
    """Estimates the distribution function of delays from right-truncated ones; see the module.

    Args:
        delays: [N], of what was bought in time.
        horizons: [N], how much time there was; no less than the delay.
        at: [K], where the function is wanted, ascending.

    Returns:
        [K]. All 1 where no delay has `AT_RISK` clicks at risk: too few to tell.

    Example:
        A hundred clicks had an hour, a hundred two. Of the latter half were bought in the second
        hour, so half of all that the former would buy came too late to be seen:

        >>> delays = np.array([0.5] * 100 + [0.5] * 50 + [1.5] * 50)
        >>> horizons = np.array([1.0] * 100 + [2.0] * 100)
        >>> delay_shares(delays, horizons, np.array([0.0, 1.0, 2.0]))
        array([0. , 0.5, 1. ])
    """
    delays_up, horizons_up = np.sort(delays), np.sort(horizons)
    u, d = np.unique(delays, return_counts=True)
    n = np.searchsorted(delays_up, u, "right") - np.searchsorted(horizons_up, u, "left")
    enough = np.flatnonzero(n >= AT_RISK)
    if not len(enough):
        return np.ones(len(at))
    kept = slice(enough[-1] + 1)
    # later[j] is the product over the delays from the j-th on.
    later = np.r_[np.cumprod((1 - d[kept] / n[kept])[::-1])[::-1], 1.0]
    return later[np.searchsorted(u[kept], at, "right")]


def fit_horizon(
    data: ExampleSet, seed: int, on_corrupt: Literal["fail", "skip"] = "fail"
) -> Doubles:
    """Returns F at `KNOTS`, of the direct purchases of the training clicks.

    It reads three columns of the examples until it has `PURCHASES`.

    Args:
        data: The examples.
        seed: Seed of the order in which they are read.
        on_corrupt: As `features.input.examples` has it.
    """
    batches = examples(
        data.files("train", on_corrupt),
        data.spec,
        batch_size=_BATCH,
        columns=[HOURS, "direct", "conversion_delay_ms"],
        shuffle_seed=seed,
        shuffle_buffer=_BATCH,
        on_corrupt=on_corrupt,
    )
    delays, horizons, found = list[Doubles](), list[Doubles](), 0
    with input_errors():
        for batch in batches:
            bought = batch["direct"].numpy() == 1
            horizons.append(batch[HOURS].numpy()[bought].astype(np.float64))
            delays.append(batch["conversion_delay_ms"].numpy()[bought] / _HOUR_MS)
            found += int(bought.sum())
            if found >= PURCHASES:
                break
    # The hours are rounded to single precision: a delay may seem to be longer by a moment.
    time = np.concatenate(horizons)
    shares = delay_shares(np.minimum(np.concatenate(delays), time), time, np.array(KNOTS))
    at = {h: round(float(np.interp(h, KNOTS, shares)), 3) for h in (1, 6, 24, 72)}
    logging.info("%d direct purchases: the share that comes within so many hours: %s", found, at)
    return shares
