"""How far a canary's scores are from stable's, on the same requests.

The requests are a TFRecord of PredictionLog: a sample of the traffic (`cmdcm.serving.request_log`),
or an export's warm-up. Both versions answer each, so that nothing but the version differs.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tensorflow_serving.apis import predict_pb2

from cmdcm.core.config import RolloutConfig
from cmdcm.core.errors import DataError, ServingError
from cmdcm.jobs.prediction_logs import read_logs
from cmdcm.jobs.rollout.server import Server
from cmdcm.model.stability import psi


class ShiftError(ServingError):
    """A canary whose scores are too far from those of stable; a second try would say the same."""


@dataclass(frozen=True)
class Shift:
    """The change from stable's scores to the canary's.

    Attributes:
        requests: Requests replayed.
        rows: Scores compared: those that are finite.
        mean_stable: Mean score of the stable version.
        mean_canary: Mean score of the canary.
        mean_shift: Absolute difference of the means, as a share of stable's.
        max_shift: Largest absolute difference of a single score.
        psi: Population stability index.
        not_finite: Scores of the canary that are no finite number.
    """

    requests: int
    rows: int
    mean_stable: float
    mean_canary: float
    mean_shift: float
    max_shift: float
    psi: float
    not_finite: int

    def as_dict(self) -> dict[str, float]:
        """Returns the shift as JSON can hold it."""
        return asdict(self)

    def excesses(self, bounds: RolloutConfig) -> list[str]:
        """Returns the reasons against a promotion; none if all is within the bounds."""
        if self.not_finite:
            return [f"{self.not_finite} scores of the canary are not finite"]
        if self.rows < bounds.min_rows:
            return [
                f"{self.rows} scores are too few to compare (rollout.min_rows = "
                f"{bounds.min_rows}); pass logged requests with --replay"
            ]
        measured = (
            ("psi", self.psi, "max_psi", bounds.max_psi),
            ("shift of the mean", self.mean_shift, "max_mean_shift", bounds.max_mean_shift),
            ("largest shift", self.max_shift, "max_score_shift", bounds.max_score_shift),
        )
        return [
            f"{name} {value:.4g} is above rollout.{setting} = {bound:g}"
            for name, value, setting, bound in measured
            if value > bound
        ]


def score_shift(stable: np.ndarray, canary: np.ndarray, requests: int) -> Shift:
    """Compares the scores of the same rows, [N] each.

    Rows with a score that is not finite are left out of the other figures.
    """
    finite = np.isfinite(stable) & np.isfinite(canary)
    before, after = stable[finite], canary[finite]
    broken = int(np.sum(~np.isfinite(canary)))
    if not len(before):
        return Shift(requests, 0, 0.0, 0.0, 0.0, 0.0, 0.0, broken)
    means = float(np.mean(before)), float(np.mean(after))
    change = abs(means[1] - means[0])
    return Shift(
        requests=requests,
        rows=len(before),
        mean_stable=means[0],
        mean_canary=means[1],
        mean_shift=change / abs(means[0]) if means[0] else float(change > 0),
        max_shift=float(np.max(np.abs(after - before))),
        psi=psi(before, after),
        not_finite=broken,
    )


def replay(
    server: Server,
    requests: Iterable[predict_pb2.PredictRequest],
    stable: int,
    canary: int,
    output: str,
) -> Shift:
    """Replays requests on two versions of a server.

    Raises:
        StatusError: A call failed.
        ServingError: A version lacks the output.
        DataError: The versions answer another number of scores to the same request.
    """
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for request in requests:
        before = server.scores(request, stable, output)
        after = server.scores(request, canary, output)
        if len(before) != len(after):
            raise DataError(
                f"request {len(pairs)}: version {stable} answers {len(before)} scores, version "
                f"{canary} {len(after)}"
            )
        pairs.append((before, after))
    if not pairs:
        return score_shift(np.zeros(0), np.zeros(0), 0)
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return score_shift(before, after, len(pairs))


def read_requests(files: Sequence[Path], limit: int) -> Iterator[predict_pb2.PredictRequest]:
    """Yields the Predict requests of TFRecords of PredictionLog; other kinds are passed over.

    So is a request that differs from one before it in its output filter alone, as those that warm
    a version up do: a replay has all outputs, and its scores would count twice.

    Args:
        files: The files, plain or gzip.
        limit: Requests after which reading ends.

    Raises:
        DataError: A file is missing, corrupted, or holds something else.
    """
    found = (log.predict_log.request for log in read_logs(files) if log.HasField("predict_log"))
    yield from itertools.islice(_once(found), limit)


def _once(
    found: Iterable[predict_pb2.PredictRequest],
) -> Iterator[predict_pb2.PredictRequest]:
    seen = set()
    for request in found:
        whole = predict_pb2.PredictRequest()
        whole.CopyFrom(request)
        whole.ClearField("output_filter")
        key = hashlib.sha256(whole.SerializeToString(deterministic=True)).digest()
        if key not in seen:
            seen.add(key)
            yield request
