"""The model call of `score_candidates` alone, against the trained layers' graph and arithmetic.

The model has the default settings and every optional column; one request is one user with about
eight items in each history. `before` is the graph of the layers as they are trained, saved by
`tf.saved_model.save`; `after` is the export. Both run in a session of this process, with arrays fed
and fetched as a server does, and one thread for each operation, as `cmdcm deploy` has it.

The arithmetic limit is the time of the multiplications and additions that a candidate needs once
the user's work is shared, at the rate of 512 x 512 matmuls, one a CPU at once, in the same kind of
session; they take about as long as a request, so that what else the machine does meets both. What
has no matmul - logarithms of the counters, exponentials, hashing, look-ups - counts as nothing in
it.
"""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows
from cmdcm.benchmarks.harness import Target, medians, report
from cmdcm.core.config import Config
from cmdcm.export.saved_model import save_model
from cmdcm.export.signatures import CANDIDATES_SIGNATURE, candidates_specs, served
from cmdcm.export.warmup import requests
from cmdcm.features.encode import encode_examples
from cmdcm.model.base import RankingModel
from cmdcm.model.registry import make_model
from cmdcm.model.trained import zero_inputs

V1 = tf.compat.v1
SIZES = (100, 500, 1000)
CALLS = 20
SIDE = 512
CPUS = os.cpu_count() or 1
_CONFIG = V1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=CPUS)


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    config, spec = Config(), benchmark_spec()
    model = make_model(spec, config.model)
    model.score(*zero_inputs(spec))
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(0, 0.02, variable.shape).astype(np.float32))
    serialized = list(encode_examples(example_rows(spec, 200, seed=0)))
    # Of one user, whatever the size: the arithmetic depends on his histories.
    made = [requests(spec, serialized, [size])[1][1] for size in SIZES]
    ages = [f.name for f in spec.user_inputs if f.encoding == "age"]
    positions = sum(int((made[0][name] >= 0).sum()) for name in ages)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        _save_layers(model, before)
        save_model(model, after, config.export)
        old, new = _loaded(before), _loaded(after)
        difference = max(
            float(np.max(np.abs(old(inputs)[name] - scores)))
            for inputs in made
            for name, scores in new(inputs).items()
        )
        calls = [_best(functools.partial(run, inputs)) for inputs in made for run in (old, new)]
        rate, *seconds = medians(_matmul(), *calls, repeats=15)
    rate = CPUS * 2 * SIDE**3 / rate
    figures: dict[str, float | int] = {
        "matmul_gflops": rate / 1e9,
        "history_positions": positions,
        "largest_difference": difference,
    }
    times_limit = {}
    for n, size in enumerate(SIZES):
        flops = size * candidate_flops(model, positions)
        limit = flops / rate
        figures |= {
            f"before_ms_{size}": 1e3 * seconds[2 * n],
            f"after_ms_{size}": 1e3 * seconds[2 * n + 1],
            f"limit_ms_{size}": 1e3 * limit,
            f"mflop_{size}": flops / 1e6,
        }
        times_limit[size] = seconds[2 * n + 1] / limit
        figures[f"times_limit_{size}"] = times_limit[size]
    return report("export", figures, {"times_limit_at_500": Target(times_limit[500], at_most=2)})


def candidate_flops(model: RankingModel, positions: int) -> float:
    """Multiplications and additions of the matmuls for one candidate; none of the user's own."""
    trunk, config = model.trunk, model.config
    d, units = 2 * config.embedding_dim, config.attention_units
    total = positions * (d * units + units + d + 1)
    columns = trunk.mlp._sublayers[0].kernel.shape[0]
    encoder = trunk.encoder
    user = encoder.user_scale.mean.shape[0] + config.embedding_dim * sum(
        bool(f.table) and not f.sequence for f in encoder.spec.user_inputs
    )
    own, rank = columns - user, config.cross_rank
    for layer in range(config.cross_layers):
        total += 2 * own * rank + layer * rank * rank
    inputs = own + config.cross_layers * rank
    for size in config.trunk_units:
        total += inputs * size
        inputs = size
    shared = inputs
    for head in model.served_heads():
        inputs = shared
        for size in config.tower_units:
            total += inputs * size
            if model.towers[head.name].gates:
                total += (shared + size) * config.gate_units
            inputs = size
        total += inputs
    return 2.0 * total


def _save_layers(model: RankingModel, directory: Path) -> None:
    @tf.function(autograph=False)
    def score_candidates(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        user = {f.name: features[f.name] for f in model.spec.user_inputs}
        candidates = {f.name: features[f.name] for f in model.spec.candidate_inputs}
        return served(model.score(user, candidates))

    module = tf.Module()
    module.weights = model.weights
    function = score_candidates.get_concrete_function(**candidates_specs(model.spec))
    tf.saved_model.save(module, str(directory), signatures={CANDIDATES_SIGNATURE: function})


def _loaded(directory: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    session = V1.Session(graph=tf.Graph(), config=_CONFIG)
    with session.graph.as_default():
        loaded = V1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
    signature = loaded.signature_def[CANDIDATES_SIGNATURE]
    names, outputs = sorted(signature.inputs), sorted(signature.outputs)
    with session.graph.as_default():
        call = session.make_callable(
            [signature.outputs[name].name for name in outputs],
            [session.graph.get_tensor_by_name(signature.inputs[name].name) for name in names],
        )
    return lambda inputs: dict(zip(outputs, call(*(inputs[name] for name in names)), strict=True))


def _matmul() -> Callable[[], float]:
    session = V1.Session(graph=tf.Graph(), config=_CONFIG)
    with session.graph.as_default():
        squares = [V1.Variable(tf.ones([SIDE, SIDE]), use_resource=True) for _ in range(CPUS)]
        session.run([square.initializer for square in squares])
        call = session.make_callable([tf.matmul(square, square).op for square in squares])
    return _best(call)


def _best(call: Callable[[], object]) -> Callable[[], float]:
    """Returns a measure of the best of some calls: what else runs here only ever adds."""

    def measure() -> float:
        best = float("inf")
        for _ in range(CALLS):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        return best

    return measure


if __name__ == "__main__":
    sys.exit(main())
