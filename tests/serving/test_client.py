"""The scoring clients, sync and asyncio, against the embedded server and a scripted one."""

import asyncio
import inspect
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from cmdcm.core.config import Config
from cmdcm.core.errors import ServingError
from cmdcm.serving.client import AsyncScoringClient, ScoringClient
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models
from cmdcm.tests.serving.clients import Awaited

Code = grpc.StatusCode
SIZES = (1, 4, 10)


class ScriptedServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Records the requests and answers each with the next entry of a script, else with `item_id`.

    An entry is a status code to fail with, a version number to answer with, an event to wait for,
    or the scores to answer with.
    """

    def __init__(self, script=()):
        self.script = list(script)
        self.requests = []
        self._lock = threading.Lock()

    def Predict(self, request, context):  # noqa: N802
        with self._lock:
            self.requests.append(request)
            entry = self.script.pop(0) if self.script else 1
        if isinstance(entry, grpc.StatusCode):
            context.abort(entry, "as the script says")
        if isinstance(entry, threading.Event):
            entry.wait(20)
            entry = 1
        scores = tf.make_ndarray(request.inputs["item_id"]).astype(np.float32)
        if isinstance(entry, np.ndarray):
            scores, entry = entry, 1
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        asked = request.model_spec
        response.model_spec.version.value = (
            asked.version.value if asked.HasField("version") else entry
        )
        response.outputs["p_cart"].CopyFrom(tf.make_tensor_proto(scores))
        return response


@pytest.fixture(params=[ScoringClient, Awaited], ids=["sync", "asyncio"])
def scripted(request):
    """Returns a function that starts a scripted server and a client of it."""
    started = []

    def start(*script, **settings):
        servicer = ScriptedServer(script)
        server = grpc.server(futures.ThreadPoolExecutor(8))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        settings = {"deadline_ms": 20_000, "sizes": SIZES, **settings}
        client = request.param(f"127.0.0.1:{port}", "tiny", models.SPEC, **settings)
        started.append((client, server))
        return client, servicer

    yield start
    for client, server in started:
        client.close()
        server.stop(0)


@pytest.fixture(scope="module", params=[ScoringClient, Awaited], ids=["sync", "asyncio"])
def client(server, request):
    with request.param(server.target, "tiny", models.SPEC, deadline_ms=20_000, sizes=SIZES) as made:
        yield made


@pytest.mark.parametrize("count", [1, 3, 10, 23])
def test_scores_equal_the_reference(client, count):
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(count))
    want = models.expected(models.user_arrays(), models.candidate_arrays(count), 2)
    assert scores.version == 2
    assert set(scores.outputs) == set(want)
    for name, values in want.items():
        assert scores[name].dtype == np.float32
        np.testing.assert_allclose(scores[name], values, atol=1e-6)


def test_predict_with_any_signature(v1_server):
    with ScoringClient(v1_server.target, "v1") as client:
        scores = client.predict("", {"x": np.ones((2, 2), np.float32)})
        assert scores["y"].tolist() == [[5], [5]]
        assert (scores.model_name, scores.signature) == ("v1", "serving_default")
        assert client.predict("lookup", {"word": ["red", b"green"]})["index"].tolist() == [0, 1]
        with pytest.raises(ServingError, match="needs the client's `spec`"):
            client.score_candidates({}, {})
        with pytest.raises(ServingError, match="input 'x' is not a tensor"):
            client.predict("", {"x": [[1.0], [1.0, 2.0]]})


def test_score_examples(client):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[0.0, 0.0, 0.0]))
    affinity = tf.train.Feature(float_list=tf.train.FloatList(value=[0.0, 0.0]))
    features = tf.train.Features(feature={"user_counts": feature, "affinity": affinity})
    example = tf.train.Example(features=features).SerializeToString()
    scores = client.score_examples([example] * 7)
    assert scores["p_cart"].shape == (7,)
    with pytest.raises(ServingError, match="at least one example"):
        client.score_examples([])


@pytest.mark.parametrize(("count", "sent"), [(1, [1]), (2, [4]), (4, [4]), (5, [10]), (10, [10])])
def test_candidates_are_padded_to_the_warmed_up_sizes(scripted, count, sent):
    client, server = scripted()
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(count))
    assert scores["p_cart"].tolist() == list(range(count))
    (request,) = server.requests
    for name in ("item_id", "brand", "price", "affinity"):
        array = tf.make_ndarray(request.inputs[name])
        assert len(array) == sent[0]
        assert (array[count:] == array[count - 1]).all()
    assert tf.make_ndarray(request.inputs["user_counts"]).shape == (1, 3)


def test_candidates_above_the_largest_size_are_split(scripted):
    client, server = scripted()
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(23))
    assert scores["p_cart"].tolist() == list(range(23))
    sizes = sorted(len(tf.make_ndarray(r.inputs["item_id"])) for r in server.requests)
    assert sizes == [4, 10, 10]


def test_split_candidates_are_scored_by_one_version(scripted):
    client, server = scripted(1, 2, 2)
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(23))
    assert scores.version == 2
    assert scores["p_cart"].tolist() == list(range(23))
    assert len(server.requests) == 4
    assert server.requests[-1].model_spec.version.value == 2


def test_split_candidates_are_scored_by_the_version_that_a_rollback_leaves(scripted):
    client, server = scripted(2, 2, 1, Code.NOT_FOUND)
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(23))
    assert scores.version == 1
    assert scores["p_cart"].tolist() == list(range(23))
    asked = [request.model_spec.version.value for request in server.requests]
    assert asked == [0, 0, 0, 2, 1, 1]


def test_the_only_version_of_some_candidates_that_goes_is_not_found(scripted):
    client, _ = scripted(2, 2, 1, Code.NOT_FOUND, Code.NOT_FOUND, Code.NOT_FOUND)
    with pytest.raises(StatusError) as caught:
        client.score_candidates(models.user_values(), models.candidate_arrays(23))
    assert caught.value.code == Code.NOT_FOUND


def test_the_version_is_asked_for(scripted):
    client, server = scripted(version=5)
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(1))
    assert server.requests[0].model_spec.version.value == 5
    assert scores.version == 5


def test_unavailable_is_retried_twice(scripted):
    client, server = scripted(Code.UNAVAILABLE, Code.UNAVAILABLE)
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(1))
    assert scores["p_cart"].tolist() == [0]
    assert len(server.requests) == 3
    client, server = scripted(*[Code.UNAVAILABLE] * 3)
    with pytest.raises(StatusError, match="UNAVAILABLE"):
        client.score_candidates(models.user_values(), models.candidate_arrays(1))
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT])
def test_no_other_failure_is_retried(scripted, code):
    client, server = scripted(code)
    with pytest.raises(StatusError, match=f"{code.name}.*as the script says") as caught:
        client.score_candidates(models.user_values(), models.candidate_arrays(1))
    assert caught.value.code == code
    assert len(server.requests) == 1


def test_retries_are_throttled_when_most_calls_fail(scripted):
    client, server = scripted(*[Code.UNAVAILABLE] * 200)
    for _ in range(30):
        with pytest.raises(StatusError):
            client.score_candidates(models.user_values(), models.candidate_arrays(1))
    # Ten failures use half of the tokens; after them each call is made once.
    assert 30 < len(server.requests) <= 30 + 10


def test_a_slow_server_meets_the_deadline(scripted):
    released = threading.Event()
    client, server = scripted(released, deadline_ms=100)
    with pytest.raises(StatusError) as caught:
        client.score_candidates(models.user_values(), models.candidate_arrays(1))
    released.set()
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert client.target in str(caught.value)
    assert "deadline 100 ms" in str(caught.value)
    assert len(server.requests) == 1


def test_split_calls_share_one_deadline(scripted):
    released = threading.Event()
    client, server = scripted(1, 1, released, deadline_ms=300)
    with pytest.raises(StatusError, match="DEADLINE_EXCEEDED"):
        client.score_candidates(models.user_values(), models.candidate_arrays(23))
    released.set()
    assert len(server.requests) == 3


def test_a_slow_model_meets_the_deadline(v1_server):
    with (
        ScoringClient(v1_server.target, "v1", deadline_ms=100) as client,
        pytest.raises(StatusError, match="DEADLINE_EXCEEDED"),
    ):
        client.predict("wait", {"token": np.float32(1)})
    with ScoringClient(v1_server.target, "v1", deadline_ms=20_000) as client:
        client.predict("release", {"token": np.float32(1)})


def test_nobody_listens():
    with (
        ScoringClient("127.0.0.1:1", "tiny", models.SPEC) as client,
        pytest.raises(StatusError, match=r"127\.0\.0\.1:1 failed: UNAVAILABLE"),
    ):
        client.score_examples([b""])


def test_features_are_checked_before_a_call_is_made(scripted):
    client, server = scripted()
    user = {**models.user_values(), "citty": "Oslo"}
    with pytest.raises(ServingError, match=r"unknown user feature 'citty'.*'city'"):
        client.score_candidates(user, models.candidate_arrays(1))
    assert not server.requests


def assert_scored(scores, user_id):
    want = models.expected(models.user_arrays(user_id), models.candidate_arrays(7), 2)
    np.testing.assert_allclose(scores["p_cart"], want["p_cart"], atol=1e-6)


def test_many_threads_share_a_client(server):
    with ScoringClient(server.target, "tiny", models.SPEC, deadline_ms=20_000) as client:

        def score(user_id: int) -> None:
            user = models.user_values(user_id)
            assert_scored(client.score_candidates(user, models.candidate_arrays(7)), user_id)

        with futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(score, range(0, 4000, 50)))


def test_many_coroutines_share_a_client(server):
    async def score(client: AsyncScoringClient, user_id: int) -> None:
        user = models.user_values(user_id)
        assert_scored(await client.score_candidates(user, models.candidate_arrays(7)), user_id)

    async def run() -> None:
        async with AsyncScoringClient(
            server.target, "tiny", models.SPEC, deadline_ms=20_000
        ) as client:
            await asyncio.gather(*(score(client, user_id) for user_id in range(0, 4000, 100)))

    asyncio.run(run())


def test_a_cancelled_coroutine_cancels_its_calls():
    cancelled = threading.Event()

    class Waiting(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            context.add_callback(cancelled.set)
            called.set()
            cancelled.wait(20)
            return predict_pb2.PredictResponse()

    called = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Waiting(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def run() -> None:
        async with AsyncScoringClient(f"127.0.0.1:{port}", "m", deadline_ms=20_000) as client:
            task = asyncio.create_task(client.score_examples([b""]))
            await asyncio.to_thread(called.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cancelled.wait, 10)

    asyncio.run(run())
    server.stop(0)


def test_the_label_is_asked_for(scripted):
    client, server = scripted(label="canary")
    client.score_candidates(models.user_values(), models.candidate_arrays(1))
    assert server.requests[0].model_spec.version_label == "canary"


def test_split_candidates_of_a_label_are_scored_by_one_version(scripted):
    client, server = scripted(1, 2, 2, label="canary")
    scores = client.score_candidates(models.user_values(), models.candidate_arrays(23))
    assert scores.version == 2
    specs = [request.model_spec for request in server.requests]
    assert [spec.version_label for spec in specs] == ["canary", "canary", "canary", ""]
    assert specs[-1].version.value == 2


@pytest.mark.parametrize("count", [1, 7, 23])
def test_both_signatures_score_candidates_alike(client, count):
    candidates = models.candidate_arrays(count)
    by_tensors = client.score_candidates(models.user_values(), candidates)
    by_examples = client.score_candidates(
        models.user_values(), candidates, signature="serving_default"
    )
    assert (by_tensors.signature, by_examples.signature) == ("score_candidates", "serving_default")
    assert by_tensors.outputs.keys() == by_examples.outputs.keys()
    for name, values in by_tensors.outputs.items():
        np.testing.assert_allclose(by_examples[name], values, atol=1e-6)
    with pytest.raises(ServingError, match="signature should be one of"):
        client.score_candidates(models.user_values(), candidates, signature="classify")


def test_answers_of_another_number_of_rows_are_refused(scripted):
    client, _ = scripted(np.array([0.5], np.float32))
    with pytest.raises(ServingError, match=r"output 'p_cart' has shape \[1\] for 4 rows"):
        client.score_candidates(models.user_values(), models.candidate_arrays(3))


def test_defaults_are_those_of_the_settings():
    with ScoringClient("127.0.0.1:1", "tiny") as client:
        assert client.sizes == Config().export.warmup_candidates
    defaults = inspect.signature(ScoringClient).parameters
    assert defaults["deadline_ms"].default == Config().serving.deadline_ms
    assert defaults["max_message_mb"].default == Config().serving.max_message_mb


def test_settings_that_cannot_be_used():
    with pytest.raises(ServingError, match="sizes"):
        ScoringClient("127.0.0.1:1", "tiny", sizes=())
    with pytest.raises(ServingError, match="not for both"):
        ScoringClient("127.0.0.1:1", "tiny", version=1, label="stable")
