"""The metrics page, alone and of a running server, read with Prometheus' own parser."""

import http.client
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cmdcm.core.config import ServingConfig
from cmdcm.serving.calls import Call, work_on
from cmdcm.serving.metrics import Metrics
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.serving.stubs import WAIT, Stubs, predict_request

SERVING = ":tensorflow:serving"


def samples(page: str) -> dict[tuple[str, ...], float]:
    """Value of each sample but the buckets, by its name and the values of its labels.

    The parser adds `_total` to counters, which TensorFlow Serving's do not have.
    """
    assert "_total{" not in page
    assert "_created" not in page
    return {
        (
            sample.name.removesuffix("_total"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_names_labels_and_units():
    metrics = Metrics()
    metrics.request("m_total", "Predict", "GRPC", "OK", 0.002)
    metrics.request("m_total", "Predict", "GRPC", "NOT_FOUND", 1.0)
    metrics.runtime("m", 1.0)  # outside of a call, as in warm-up
    with work_on(Call("Classify")):
        metrics.runtime("m", 0.001)
    metrics.queuing("pool", 0.0005)
    metrics.batch("pool", 8)
    metrics.load(Path("/models/m/1"), 2.0, loaded=True)
    metrics.load(Path("/models/m/2"), 3.0, loaded=False)
    page = metrics.page().decode()
    assert samples(page) == pytest.approx(
        {
            (f"{SERVING}:request_count", "m_total", "OK"): 1,
            (f"{SERVING}:request_count", "m_total", "NOT_FOUND"): 1,
            (f"{SERVING}:request_latency_count", "Predict", "GRPC", "m_total"): 1,
            (f"{SERVING}:request_latency_sum", "Predict", "GRPC", "m_total"): 2000,
            (f"{SERVING}:runtime_latency_count", "Classify", "m", "TF1"): 1,
            (f"{SERVING}:runtime_latency_sum", "Classify", "m", "TF1"): 1000,
            (f"{SERVING}:batching_session:queuing_latency_count", "pool"): 1,
            (f"{SERVING}:batching_session:queuing_latency_sum", "pool"): 500,
            (f"{SERVING}:batching_session:processed_batch_size_count", "pool"): 1,
            (f"{SERVING}:batching_session:processed_batch_size_sum", "pool"): 8,
            (":tensorflow:cc:saved_model:load_attempt_count", "/models/m/1", "success"): 1,
            (":tensorflow:cc:saved_model:load_attempt_count", "/models/m/2", "fail"): 1,
            (":tensorflow:cc:saved_model:load_latency", "/models/m/1"): 2e6,
        }
    )
    assert f"# TYPE {SERVING}:request_count counter\n" in page
    # 10 x 1.8^9 = 1983.6 < 2000 <= 10 x 1.8^10
    assert 'le="1983.5929' in page


def get(server, path) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=WAIT)
    connection.request("GET", path)
    response = connection.getresponse()
    answer = (response.status, response.headers["Content-Type"], response.read().decode())
    connection.close()
    return answer


def test_the_page_of_a_server(exports, tmp_path):
    file = tmp_path / "monitoring.txt"
    file.write_text('prometheus_config { enable: true path: "/metrics" }')
    config = ServingConfig(port=0, rest_port=0, monitoring_config_file=str(file))
    with EmbeddedServer(exports / "v1", "v1", config) as server:
        stubs = Stubs(server.target)
        request = predict_request({"x": np.ones((2, 2), np.float32)}, name="v1")
        for _ in range(3):
            stubs.prediction.Predict(request, timeout=WAIT)
        for name in ("made up", "another"):
            with pytest.raises(grpc.RpcError):
                stubs.prediction.Predict(predict_request({}, name=name), timeout=WAIT)
        status, kind, page = get(server, "/metrics")
        assert (status, kind) == (200, "text/plain; charset=utf-8")
        found = samples(page)
        assert found[f"{SERVING}:request_count", "v1", "OK"] == 3
        assert found[f"{SERVING}:request_latency_count", "Predict", "GRPC", "v1"] == 3
        assert found[f"{SERVING}:runtime_latency_count", "Predict", "v1", "TF1"] == 3
        # Names that clients make up are one series.
        assert found[f"{SERVING}:request_count", "", "NOT_FOUND"] == 2
        assert "made up" not in page
        path = str(exports / "v1" / "1")
        assert found[":tensorflow:cc:saved_model:load_attempt_count", path, "success"] == 1
        assert get(server, "/monitoring/prometheus/metrics")[0] == 404


def test_without_a_monitoring_config_there_is_no_page(server):
    assert get(server, "/monitoring/prometheus/metrics")[0] == 404
