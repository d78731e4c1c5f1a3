"""The batch scheduler alone, with a stand-in for the graph, and in a running server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cmdcm.core.config import ServingConfig
from cmdcm.serving.batching import BatchScheduler
from cmdcm.serving.batching_options import BatchingOptions
from cmdcm.serving.calls import Call, work_on
from cmdcm.serving.metrics import Metrics
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving.stubs import WAIT, Stubs, candidates_request, failure, predict_request

Code = grpc.StatusCode
SECOND = 1_000_000
OUTPUTS = ("y",)


class Graph:
    """Doubles its input; notes the sizes of its runs, and waits until it is let go."""

    def __init__(self, *, held: bool = False):
        self.runs: list[int] = []
        self.going = threading.Event()
        if not held:
            self.going.set()

    def run(self, signature, fed, outputs):
        self.runs.append(len(fed[0]))
        assert self.going.wait(WAIT)
        if any((array == -1).any() for array in fed):
            raise ValueError("-1 is malformed")
        return [sum(fed) * 2]


@pytest.fixture
def make():
    """Makes a scheduler with these options, and a runner on it."""
    made = []

    def scheduler(graph, **options):
        made.append((BatchScheduler(BatchingOptions(**options), Metrics()), graph))
        return made[-1][0].batched(graph.run)

    yield scheduler
    for one, graph in made:
        graph.going.set()
        one.stop()


def together(batched, *inputs):
    """Calls with each of the inputs at once; returns the answers or errors."""

    def call(value):
        try:
            return batched("s", [np.asarray(value)], OUTPUTS)[0].tolist()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(inputs)) as pool:
        return list(pool.map(call, inputs))


def test_requests_at_once_are_one_run_and_each_gets_its_own_rows(make):
    graph = Graph()
    batched = make(graph, max_batch_size=6, batch_timeout_micros=20 * SECOND)
    # The batch is full at 6 rows and so does not wait for its time.
    assert together(batched, [1, 2], [3], [4, 5, 6]) == [[2, 4], [6], [8, 10, 12]]
    assert graph.runs == [6]


def test_a_lone_request_waits_for_the_timeout_only(make):
    graph = Graph()
    batched = make(graph, max_batch_size=6, batch_timeout_micros=1000)
    assert together(batched, [7]) == [[14]]


def test_a_batch_is_padded_to_the_next_allowed_size(make):
    graph = Graph()
    batched = make(graph, max_batch_size=8, allowed_batch_sizes=(2, 4, 8))
    assert together(batched, [1, 2, 3]) == [[2, 4, 6]]
    assert together(batched, [1, 2, 3, 4]) == [[2, 4, 6, 8]]
    assert together(batched, [1]) == [[2]]
    assert graph.runs == [4, 4, 2]
    assert together(batched, np.zeros(0)) == [[]]


def test_strings_and_matrices_are_joined(make):
    received = []

    def run(signature, fed, outputs):
        received.append([array.tolist() for array in fed])
        return list(fed)

    scheduler = BatchScheduler(BatchingOptions(3, 20 * SECOND, allowed_batch_sizes=(3,)), Metrics())
    text = np.array([b"a"], object), np.array([b"b", b"c"], object)
    grid = np.array([[1, 2]]), np.array([[3, 4], [5, 6]])
    with ThreadPoolExecutor(2) as pool:
        call = scheduler.batched(run)
        answers = list(pool.map(lambda fed: call("s", fed, OUTPUTS), zip(text, grid, strict=True)))
    scheduler.stop()
    assert len(received) == 1
    for answer, (words, numbers) in zip(answers, zip(text, grid, strict=True), strict=True):
        assert answer[0].tolist() == words.tolist()
        assert answer[1].tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("fed", "message"),
    [
        ([np.ones(2), np.ones(3)], "input tensors must have equal 0th-dimension size"),
        ([np.ones(2), np.array(1)], "input tensors must have at least one dimension"),
        ([np.ones(7)], "Task size 7 is larger than maximum input batch size 6"),
        ([], "at least one input"),
    ],
)
def test_what_cannot_be_batched(make, fed, message):
    batched = make(Graph(), max_batch_size=6)
    with pytest.raises(StatusError, match=message) as caught:
        batched("s", fed, OUTPUTS)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_a_full_queue_is_unavailable_and_empties_again(make):
    graph = Graph(held=True)
    batched = make(graph, max_batch_size=1, max_enqueued_batches=2, num_batch_threads=1)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batched, "s", [np.array([1])], OUTPUTS)
        while not graph.runs:
            time.sleep(0.001)
        waiting = [pool.submit(batched, "s", [np.array([n])], OUTPUTS) for n in (2, 3)]
        error = None
        while error is None:  # until both are in the queue
            try:
                with work_on(Call("Predict", time.monotonic() + 0.01)):
                    batched("s", [np.array([4])], OUTPUTS)
            except StatusError as raised:
                error = raised if raised.code == Code.UNAVAILABLE else None
        assert str(error) == (
            "The batch scheduling queue to which this task was submitted is full; currently 2 "
            "batches enqueued and max_enqueued_batches is 2"
        )
        graph.going.set()
        assert first.result()[0].tolist() == [2]
        assert [call.result()[0].tolist() for call in waiting] == [[4], [6]]
    assert together(batched, [5]) == [[10]]


def test_what_expires_in_the_queue_is_not_run(make):
    graph = Graph(held=True)
    batched = make(graph, max_batch_size=1, num_batch_threads=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(batched, "s", [np.array([1])], OUTPUTS)
        while not graph.runs:
            time.sleep(0.001)
        with (
            pytest.raises(StatusError, match="while waiting in batching queue") as caught,
            work_on(Call("Predict", time.monotonic() + 0.02)),
        ):
            batched("s", [np.array([2])], OUTPUTS)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        graph.going.set()
        first.result()
    assert together(batched, [3]) == [[6]]
    assert len(graph.runs) == 2


def test_a_malformed_request_fails_alone(make):
    graph = Graph()
    batched = make(graph, max_batch_size=3, batch_timeout_micros=20 * SECOND)
    good, bad, other = together(batched, [1], [-1], [3])
    assert (good, other) == ([2], [6])
    assert isinstance(bad, ValueError)
    assert graph.runs == [3, 1, 1, 1]


def test_shapes_that_differ_are_batched_apart(make):
    graph = Graph()
    batched = make(graph, max_batch_size=2)
    assert together(batched, [[1, 2]], [[1, 2, 3]]) == [[[2, 4]], [[2, 4, 6]]]
    assert graph.runs == [1, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.array(1.0), "Batched output tensor has 0 dimensions"),
        (np.ones(5), "does not equal the sum of the 0th dimension sizes"),
    ],
)
def test_outputs_that_cannot_be_split(answer, message):
    scheduler = BatchScheduler(BatchingOptions(), Metrics())
    with pytest.raises(StatusError, match=message) as caught:
        scheduler.batched(lambda *_: [answer])("s", [np.ones(2)], OUTPUTS)
    scheduler.stop()
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_stopping_runs_what_is_queued():
    scheduler = BatchScheduler(BatchingOptions(batch_timeout_micros=60 * SECOND), Metrics())
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(scheduler.batched(Graph().run), "s", [np.array([1])], OUTPUTS)
        while not scheduler._queues:
            time.sleep(0.001)
        scheduler.stop()
        assert call.result()[0].tolist() == [2]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=12),
    st.integers(4, 9),
    st.sampled_from([0, 500]),
    st.booleans(),
)
def test_any_mix_of_requests_gets_its_own_answers(inputs, most, timeout, padded):
    sizes = (2, most) if padded else ()
    options = BatchingOptions(most, timeout, 100, 2, sizes)
    scheduler = BatchScheduler(options, Metrics())
    graph = Graph()
    arrays = [np.array(value, np.int64) for value in inputs]
    answers = together(scheduler.batched(graph.run), *arrays)
    scheduler.stop()
    assert answers == [(2 * array).tolist() for array in arrays]
    assert max(graph.runs) <= most
    if padded:
        assert set(graph.runs) <= {0, 2, most}


def test_a_server_batches(exports, tmp_path):
    file = tmp_path / "batching.txt"
    file.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 1000 }"
        "allowed_batch_sizes: 2 allowed_batch_sizes: 4"
    )
    config = ServingConfig(
        port=0, rest_port=-1, enable_batching=True, batching_parameters_file=str(file)
    )
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        stubs = Stubs(server.target)
        rows = [np.full((1 + n % 3, 2), n, np.float32) for n in range(12)]
        calls = [
            stubs.prediction.Predict.future(predict_request({"x": x}, name="v1"), timeout=WAIT)
            for x in rows
        ]
        for x, call in zip(rows, calls, strict=True):
            assert list(call.result().outputs["y"].float_val) == (x @ [2, 3]).tolist()
        large = predict_request({"x": np.ones((5, 2), np.float32)}, name="v1")
        error = failure(stubs.prediction.Predict, large)
        assert (error.code(), error.details()) == (
            Code.INVALID_ARGUMENT,
            "Task size 5 is larger than maximum input batch size 4",
        )


def test_a_server_with_batching_refuses_user_once_requests(exports):
    # Its warm-up requests are user-once, too: they go past the batcher.
    config = ServingConfig(port=0, rest_port=-1, enable_batching=True)
    with EmbeddedServer(exports / "tiny", "tiny", config) as server:
        stubs = Stubs(server.target)
        error = failure(stubs.prediction.Predict, candidates_request(3))
        assert (error.code(), error.details()) == (
            Code.INVALID_ARGUMENT,
            "Batching Run() input tensors must have equal 0th-dimension size",
        )
        # With one candidate all inputs have one row.
        stubs.prediction.Predict(candidates_request(1), timeout=WAIT)
