"""The gate's budget: how large a model is as a SavedModel, and how long it takes to answer."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.settings.gate import GateConfig
from cmdcm.export.gate_verdicts import Place, Verdict, judge
from cmdcm.export.saved_model import save_model
from cmdcm.export.signatures import CANDIDATES_SIGNATURE
from cmdcm.export.warmup import requests
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.tfrecord import read_records
from cmdcm.model.base import RankingModel
from cmdcm.model.bootstrap import Interval

_WARM = 3


def cost_verdicts(model: RankingModel, data: ExampleSet, config: Config) -> Iterator[Verdict]:
    """Saves the model where nobody serves it, and yields the verdicts on its size and its speed.

    Args:
        model: The model.
        data: Examples that give the request.
        config: Its sections `gate` and `export`.
    """
    gate = config.gate
    if not gate.max_size_mb and not gate.max_latency_ms:
        return
    size = max(config.export.warmup_candidates)
    serialized = list(itertools.islice(read_records(data.files("test")[0]), size))
    if not serialized:
        raise DataError(f"{data.directory} has no test rows to time a request with")
    ((_, inputs),) = requests(model.spec, serialized, [size])[1:]
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), config.export)
        files = [p for p in Path(folder).rglob("*") if p.is_file()]
        mebibytes = sum(p.stat().st_size for p in files) / 2**20
        if gate.max_size_mb:
            found = Interval(mebibytes, None, None)
            yield judge("size_mb", found, Place(), "estimate", None, gate.max_size_mb)
        if gate.max_latency_ms:
            seconds = _timed(Path(folder), inputs, gate.latency_requests)
            yield latency_verdict(seconds, size, gate)


def latency_verdict(seconds: np.ndarray, candidates: int, config: GateConfig) -> Verdict:
    """Judges the median time of requests of so many candidates, [requests].

    Its interval needs no distribution: the median lies between the order statistics whose ranks are
    1.96 standard deviations of a fair binomial around the middle. The tail is a load test's
    matter: a few requests on a machine that does other things do not show it.
    """
    milliseconds = np.sort(seconds) * 1000
    n = len(milliseconds)
    half = 1.96 * np.sqrt(n) / 2
    low, high = int(max(np.floor(n / 2 - half) - 1, 0)), int(min(np.ceil(n / 2 + half), n - 1))
    interval = Interval(
        float(np.median(milliseconds)), float(milliseconds[low]), float(milliseconds[high])
    )
    place = Place(slice=f"candidates={candidates}", rows=n)
    return judge("latency_ms", interval, place, "estimate", None, config.max_latency_ms)


def _timed(directory: Path, inputs: dict[str, np.ndarray], count: int) -> np.ndarray:
    times = []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
        signature = loaded.signature_def[CANDIDATES_SIGNATURE]
        fetched = {name: info.name for name, info in signature.outputs.items()}
        fed = {signature.inputs[name].name: value for name, value in inputs.items()}
        for _ in range(_WARM + count):
            start = time.perf_counter()
            session.run(fetched, fed)
            times.append(time.perf_counter() - start)
    return np.array(times[_WARM:])
