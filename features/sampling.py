"""Row weights, and down-sampling of negative rows with its correction.

Most clicks lead to nothing. Keeping each row without a positive label with probability r makes an
epoch cheaper at little cost in what is learned, and weighting the kept ones by 1 / r leaves every
expectation as it was: with l_i the loss of row i, K the random set of kept rows and w_i = 1 for a
positive row and 1 / r for a negative one, E[sum over K of w_i l_i] = sum over all rows of l_i, and
the same for l_i = 1. The trainer's mean, sum w l / sum w, is the ratio of the two: consistent, with
a bias that falls as 1 / batch size, and without a change of scale when all weights double.

Whether a row is kept is a function of its bytes, the seed and the epoch alone: not of its place,
the batch or the worker. Another epoch keeps other rows. Equal rows share their fate.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.decode import Columns, Decoder
from cmdcm.features.promotion_weights import PromotionWeights
from cmdcm.features.records import Stream
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.tfrecord import masked_crc32c

WEIGHT = "row_weight"
"""Name of the row weight in a batch."""


class RowWeights:
    """How much each row counts, and which rows are left out.

    Args:
        spec: The columns of the examples.
        negative_rate: Probability, in (0, 1], with which a row without a positive label is kept.
        column: Scalar number of the spec whose value weights each row; "" for none.
        promotions: Weights by promotion, which go by `click_time_ms`; None for none.

    Raises:
        ConfigError: No such column, a column of another shape or type, or no labels to go by.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        negative_rate: float = 1.0,
        column: str = "",
        promotions: PromotionWeights | None = None,
    ):
        if not 0 < negative_rate <= 1:
            raise ValueError(f"`negative_rate` should be in (0, 1]. Received: {negative_rate}")
        self.rate, self.column, self._spec = negative_rate, column, spec
        self.promotions = promotions
        self._labels = spec.of("label") if negative_rate < 1 else ()
        if negative_rate < 1 and not self._labels:
            raise ConfigError("training.negative_rate: the examples have no labels to go by")
        if column and (spec[column].shape != "scalar" or spec[column].dtype == "string"):
            raise ConfigError(
                f"training.weight_column: {column!r} should be one number a row; it is a "
                f"{spec[column].shape} of {spec[column].dtype}"
            )

    @property
    def asked(self) -> bool:
        """Whether there are weights at all; all are 1 otherwise."""
        return self.rate < 1 or bool(self.column) or self.promotions is not None

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns that the weights are computed from."""
        names = [self.column] if self.column else []
        names += ["click_time_ms"] if self.promotions is not None else []
        return (*self._labels, *(self._spec[name] for name in names))

    def sample(self, stream: Stream, seed: int, epoch: int) -> Stream:
        """Leaves negative rows out."""
        if self.rate == 1:
            yield from stream
            return
        decoder = Decoder(self._spec, self._labels)
        (key,) = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
        for piece in stream:
            columns = decoder.decode_memory(piece.starts, piece.starts + piece.sizes)
            kept = ~self._negative(columns)
            kept |= _uniform(piece.starts, piece.sizes, key) < self.rate
            yield piece.take(np.flatnonzero(kept))

    def weigh(self, columns: Columns, count: int) -> np.ndarray:
        """Returns the weights of rows with these columns, float32 [count].

        Raises:
            DataError: The weight column has a negative value or one that is not finite.
        """
        weights = np.ones(count, np.float32)
        if self.rate < 1:
            weights[self._negative(columns)] = 1 / self.rate
        if self.column:
            values = columns[self.column].astype(np.float32)
            bad = ~(np.isfinite(values) & (values >= 0))
            if bad.any():
                raise DataError(
                    f"training.weight_column: {self.column!r} is {values[bad][0]} in an example; "
                    "a weight is a finite number from 0 on"
                )
            weights *= values
        if self.promotions is not None:
            weights *= self.promotions.of(columns["click_time_ms"])
        return weights

    def _negative(self, columns: Columns) -> np.ndarray:
        return ~np.any([columns[label.name] > 0 for label in self._labels], axis=0)


def _uniform(starts: np.ndarray, sizes: np.ndarray, key: np.uint64) -> np.ndarray:
    """Returns a number in [0, 1) for each record: of its CRC and the key, by splitmix64."""
    x = _checksums(starts, sizes) ^ key
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) / np.float64(2**64)


@njit(nogil=True, cache=True)
def _checksums(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    checksums = np.empty(starts.size, np.uint64)
    for i in range(starts.size):
        checksums[i] = masked_crc32c(starts[i], sizes[i])
    return checksums


def outputs(wanted: Sequence[Feature], weights: RowWeights) -> tuple[Feature, ...]:
    """Returns the columns to decode for a batch: those wanted and those of its weights.

    Raises:
        ConfigError: A wanted column has the name of the row weight.
    """
    names = {feature.name for feature in wanted}
    if weights.asked and WEIGHT in names:
        raise ConfigError(
            f"a column of the batch is called {WEIGHT!r}, as the row weight is; rename it"
        )
    return (*wanted, *(f for f in weights.features if f.name not in names))
