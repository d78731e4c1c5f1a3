"""Prometheus metrics under TensorFlow Serving's names, labels and buckets.

`/tensorflow/serving/request_count` is called `:tensorflow:serving:request_count` there; times are
in microseconds.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from cmdcm.serving.calls import current_call
from cmdcm.serving.config_protos import MonitoringConfig, read_text_proto

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving shows its metrics unless told otherwise."""

CONTENT_TYPE = "text/plain"

_LATENCY_BUCKETS = tuple(10 * 1.8**n for n in range(33))
_QUEUING_BUCKETS = tuple(100 * 1.2**n for n in range(52))
_SIZE_BUCKETS = tuple(2.0**n for n in range(15))

# prometheus_client writes counters as NAME_total and adds the time of a series' birth;
# TensorFlow Serving and the dashboards made for it know neither.
_TOTAL = re.compile(rb"^((?:# \w+ )?[\w:]+)_total(?=[ {])", re.MULTILINE)
_CREATED = re.compile(rb"^(?:# \w+ )?[\w:]+_created[ {].*\n", re.MULTILINE)


class Metrics:
    """The metrics of one server; safe to use from many threads.

    Example:
        >>> metrics = Metrics()
        >>> metrics.request("m", "Predict", "GRPC", "OK", 0.001)
        >>> print(metrics.page().decode().splitlines()[2])
        :tensorflow:serving:request_count{model_name="m",status="OK"} 1.0
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        # To look a series up takes 2 us each time; the cache of a metric holds as many as itself.
        def counter(name: str, what: str, labels: list[str]) -> Callable[..., Counter]:
            return functools.cache(Counter(name, what, labels, registry=self._registry).labels)

        def histogram(
            name: str, what: str, labels: list[str], buckets: tuple[float, ...] = _LATENCY_BUCKETS
        ) -> Callable[..., Histogram]:
            metric = Histogram(name, what, labels, buckets=buckets, registry=self._registry)
            return functools.cache(metric.labels)

        serving = ":tensorflow:serving"
        self._requests = counter(
            f"{serving}:request_count",
            "The total number of requests.",
            ["model_name", "status"],
        )
        self._request_latency = histogram(
            f"{serving}:request_latency",
            "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
            ["model_name", "API", "entrypoint"],
        )
        self._runtime_latency = histogram(
            f"{serving}:runtime_latency",
            "Distribution of wall time (in microseconds) for Tensorflow runtime.",
            ["model_name", "API", "runtime"],
        )
        self._queuing = histogram(
            f"{serving}:batching_session:queuing_latency",
            "Distribution of wall time spent (in microseconds) in queuing",
            ["thread_pool_name"],
            _QUEUING_BUCKETS,
        )
        self._batch_size = histogram(
            f"{serving}:batching_session:processed_batch_size",
            "Rows of the batches that were run, padding included.",
            ["thread_pool_name"],
            _SIZE_BUCKETS,
        )
        self._load_attempts = counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was requested to be loaded.",
            ["model_path", "status"],
        )
        self._load_latency = counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Latency in microseconds for SavedModels that were successfully loaded.",
            ["model_path"],
        )

    def request(
        self, model_name: str, api: str, entrypoint: str, status: str, seconds: float
    ) -> None:
        """Counts a request that was answered.

        Args:
            model_name: Name of the model; it should be one that is served, as every name that a
                client makes up would be a series that stays.
            api: `Predict`, `Classify`, `Regress` or `MultiInference`.
            entrypoint: `GRPC` or `REST`.
            status: Name of the status code.
            seconds: From the request to the answer.
        """
        self._requests(model_name, status).inc()
        if status == "OK":
            self._request_latency(model_name, api, entrypoint).observe(seconds * 1e6)

    def refused(self, entrypoint: str, status: str) -> None:
        """Counts a call that was answered before the model that it asks for was known."""
        self.request("", "", entrypoint, status, 0.0)

    def runtime(self, model_name: str, seconds: float) -> None:
        """Counts a run of the graph, queuing included, for the current call."""
        call = current_call()
        if call is not None:
            self._runtime_latency(model_name, call.api, "TF1").observe(seconds * 1e6)

    def queuing(self, thread_pool_name: str, seconds: float) -> None:
        """Counts how long a request waited for its batch to be run."""
        self._queuing(thread_pool_name).observe(seconds * 1e6)

    def batch(self, thread_pool_name: str, rows: int) -> None:
        """Counts a batch that is run."""
        self._batch_size(thread_pool_name).observe(rows)

    def load(self, model_path: Path, seconds: float, *, loaded: bool) -> None:
        """Counts an attempt to load a version, its warm-up included."""
        status = "success" if loaded else "fail"
        self._load_attempts(str(model_path), status).inc()
        if loaded:
            self._load_latency(str(model_path)).inc(seconds * 1e6)

    def page(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        return _CREATED.sub(b"", _TOTAL.sub(rb"\1", generate_latest(self._registry)))


def prometheus_path(monitoring_config_file: Path | None) -> str | None:
    """Returns the path of the metrics page that a MonitoringConfig file asks for; None for none.

    Raises:
        ConfigError: The file cannot be read, or is no text proto of MonitoringConfig.
    """
    if monitoring_config_file is None:
        return None
    config = read_text_proto(monitoring_config_file, MonitoringConfig, "monitoring config file")
    prometheus = config.prometheus_config
    return (prometheus.path or PROMETHEUS_PATH) if prometheus.enable else None
