"""What the calls of a load test carry: users and candidates of logged requests, in any number.

Users and candidates are drawn independently and made before the test, so that the test's own CPU is
that of a client alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.jobs.prediction_logs import read_logs
from cmdcm.serving.requests import default_value
from cmdcm.serving.scoring import EXAMPLES_INPUT
from cmdcm.serving.tensors import from_protos

Arrays = dict[str, np.ndarray]

_POOL = 32  # different requests of each size; more would take memory and say no more
_ORDER = 1 << 16  # calls after which the drawn sizes begin again


@dataclass(frozen=True)
class Mix:
    """How many candidates requests have.

    Attributes:
        weights: Share of the requests by number of candidates, in any unit.
    """

    weights: Mapping[int, float]

    @classmethod
    def parse(cls, text: str) -> "Mix":
        """Reads `SIZE:WEIGHT,SIZE:WEIGHT`; a size alone weighs 1.

        Raises:
            ConfigError: Shows what is no size or weight.

        Example:
            >>> Mix.parse("100:3,500")
            Mix(weights={100: 3.0, 500: 1.0})
        """
        weights: dict[int, float] = {}
        for entry in text.split(","):
            size, _, weight = entry.partition(":")
            try:
                weights[int(size)] = float(weight or 1)
            except ValueError:
                raise ConfigError(f"mix {text!r}: {entry!r} is not SIZE or SIZE:WEIGHT") from None
        if min(weights) < 1 or not all(0 < weight < np.inf for weight in weights.values()):
            raise ConfigError(f"mix {text!r}: sizes and weights should be positive")
        return cls(weights)


@dataclass(frozen=True)
class Rows:
    """Users and candidates of logged requests.

    Attributes:
        users: Feature -> [users] or [users, length].
        candidates: Feature -> [candidates] or [candidates, length].
    """

    users: Arrays
    candidates: Arrays


def read_rows(files: Sequence[Path], spec: FeatureSpec, *, max_rows: int, max_bytes: int) -> Rows:
    """Reads users and candidates from logs of requests of either signature.

    Args:
        files: TFRecords of PredictionLog: an export's warm-up requests, or logged ones.
        spec: The model's features.
        max_rows: Candidates after which reading ends.
        max_bytes: The largest tensors that a request may carry.

    Raises:
        DataError: A file cannot be read, or no request in them has the spec's features.
    """
    parts: list[tuple[Arrays, Arrays]] = []
    count = 0
    for arrays in _requests(files, spec, max_bytes):
        users = {f.name: arrays[f.name] for f in spec.user_inputs}
        candidates = {f.name: arrays[f.name] for f in spec.candidate_inputs}
        parts.append((users, candidates))
        count += len(next(iter(candidates.values())))
        if count >= max_rows:
            break
    if not parts:
        names = ", ".join(map(str, files))
        raise DataError(f"no request with the features of the spec in {names}")
    users, candidates = (
        {name: np.concatenate([part[side][name] for part in parts]) for name in parts[0][side]}
        for side in (0, 1)
    )
    return Rows(users, candidates)


def _requests(files: Sequence[Path], spec: FeatureSpec, max_bytes: int) -> Iterator[Arrays]:
    """Yields the features of each request that has all of them, with the spec's shapes."""
    for log in read_logs(files):
        try:
            arrays = from_protos(log.predict_log.request.inputs, max_bytes)
            if list(arrays) == [EXAMPLES_INPUT]:
                parsed = parse_examples(tf.constant(arrays[EXAMPLES_INPUT]), spec.inputs)
                arrays = {name: tensor.numpy() for name, tensor in parsed.items()}
        except (ValueError, tf.errors.InvalidArgumentError):
            continue
        if all(_fits(arrays.get(feature.name), feature) for feature in spec.inputs):
            yield arrays


def _fits(array: np.ndarray | None, feature: Feature) -> bool:
    if array is None or not array.ndim or not len(array):
        return False
    return array.shape[1:] == (() if feature.shape == "scalar" else (feature.length,))


class Traffic:
    """The requests of a load test, by the number of the call.

    Args:
        rows: Where users and candidates are drawn from.
        spec: The model's features.
        mix: How many candidates requests have.
        seed: Seed of all draws.
    """

    def __init__(self, rows: Rows, spec: FeatureSpec, mix: Mix, seed: int):
        random = np.random.default_rng(seed)
        sizes, weights = np.array(list(mix.weights)), np.array(list(mix.weights.values()))
        self._order = random.choice(sizes, _ORDER, p=weights / weights.sum())
        self._pools = {
            int(size): [_draw(rows, spec, int(size), random) for _ in range(_POOL)]
            for size in sizes
        }

    def sizes(self, calls: int) -> np.ndarray:
        """Returns the number of candidates of the first calls, int64 [calls]."""
        return self._order[np.arange(calls) % _ORDER]

    def request(self, number: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Returns the user and the candidates of a call."""
        pool = self._pools[int(self._order[number % _ORDER])]
        return pool[number % _POOL]


def _draw(
    rows: Rows, spec: FeatureSpec, size: int, random: np.random.Generator
) -> tuple[Arrays, Arrays]:
    def take(arrays: Arrays, count: int) -> Arrays:
        chosen = random.integers(len(next(iter(arrays.values()))), size=count)
        return {name: array[chosen] for name, array in arrays.items()}

    user = take(rows.users, 1)
    for columns in spec.sequences().values():
        held = [f for f in columns if f.name in user]
        length = max((_used(user[f.name][0], f) for f in held), default=0)
        user |= {f.name: user[f.name][:, :length] for f in held}
    return user, take(rows.candidates, size)


def _used(values: np.ndarray, feature: Feature) -> int:
    """Returns the number of elements of a sequence up to the last that is no padding."""
    used = np.flatnonzero(values != default_value(feature))
    return int(used[-1]) + 1 if len(used) else 0
