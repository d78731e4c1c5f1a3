"""What a model costs: to train, to answer a request, and to score a candidate."""

import statistics
import time
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors
from cmdcm.model.base import RankingModel
from cmdcm.model.inputs import Tensors
from cmdcm.model.observers import Observer

CANDIDATES = 100
"""Candidates of the request whose scoring is timed."""

_REPEATS = 30


class TrainingSpeed(Observer):
    """Notes the examples per second of each epoch, validation not counted."""

    def __init__(self) -> None:
        self.of_epochs: list[float] = []

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        """See the base."""
        if "speed/examples_per_second" in record:
            self.of_epochs.append(record["speed/examples_per_second"])

    @property
    def examples_per_second(self) -> float | None:
        """Of the best epoch, as the first one traces the graph; None without one."""
        return max(self.of_epochs, default=None)


def parameters_read(model: RankingModel) -> int:
    """Returns the parameters that a candidate's score depends on, with full histories.

    They are the dense weights of what is served, and the rows of the tables that the user, his
    sequences and the candidate look up.
    """
    encoder = model.trunk.encoder
    rows = sum(
        feature.length * (feature.hashes if feature.encoding == "hash" else 1)
        for feature in model.spec.inputs
        if feature.table
    )
    tables = {variable.ref() for variable in model.table_variables}
    layers = [model.trunk, *(model.towers[head.name] for head in model.served_heads())]
    # What a fine-tuning leaves alone is read all the same.
    dense = {v.ref(): v for layer in layers for v in layer.variables if v.trainable}
    weights = sum(int(tf.size(v)) for ref, v in dense.items() if ref not in tables)
    return weights + rows * int(encoder.dim)


def flops_per_candidate(model: RankingModel, data: ExampleSet) -> float:
    """Returns the floating-point operations of a request, shared out over its candidates.

    The request is that of `scoring_ms`; TensorFlow's profiler counts them on the shapes of a run,
    histories at their true length.
    """
    user, candidates = _request(model, data)
    score = tf.function(model.score_one_user, autograph=False).get_concrete_function(
        user, candidates
    )
    frozen = convert_variables_to_constants_v2(score, lower_control_flow=False)
    fed = [*tf.nest.flatten((user, candidates))]
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        tf.import_graph_def(frozen.graph.as_graph_def(), name="")
        names = [tensor.name for tensor in frozen.inputs]
        metadata = v1.RunMetadata()
        session.run(
            [tensor.name for tensor in frozen.outputs],
            {name: value.numpy() for name, value in zip(names, fed, strict=True)},
            options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
            run_metadata=metadata,
        )
        options = v1.profiler.ProfileOptionBuilder(
            v1.profiler.ProfileOptionBuilder.float_operation()
        ).with_empty_output()
        profile = v1.profiler.profile(graph, metadata, cmd="scope", options=options.build())
    return float(profile.total_float_ops) / CANDIDATES


def scoring_ms(model: RankingModel, data: ExampleSet) -> float:
    """Returns the median time of a request of one user and `CANDIDATES` items, in milliseconds.

    It is the graph that is exported, in this process and on its threads, without a server.
    """
    user, candidates = _request(model, data)
    score = tf.function(model.score_one_user, autograph=False)
    times = []
    for _ in range(_REPEATS + 5):
        start = time.perf_counter()
        for output in score(user, candidates).values():
            output.numpy()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def _request(model: RankingModel, data: ExampleSet) -> tuple[Tensors, Tensors]:
    """Returns the features of a user, [1], and of `CANDIDATES` items, from test examples."""
    inputs = [feature.name for feature in model.spec.inputs]
    batches = examples(data.files("test"), model.spec, batch_size=CANDIDATES, columns=inputs)
    with input_errors():
        user, candidates = model.sides(next(iter(batches)))
    return {name: value[:1] for name, value in user.items()}, candidates
