"""The latest look's metrics over HTTP, for a Prometheus that scrapes."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cmdcm.core.closing import Closing
from cmdcm.core.errors import OutputError
from cmdcm.jobs.monitor.prometheus import metrics_of


class MetricsEndpoint(Closing):
    """An HTTP server that answers with the metrics of the result that it was shown last.

    Args:
        host: Address to listen on. There is neither TLS nor a login: beyond the loopback it is for
            a network that is trusted.
        port: Port; 0 for a free one.

    Attributes:
        address: `http://HOST:PORT/metrics`.

    Raises:
        OutputError: The address cannot be listened on.
    """

    def __init__(self, host: str, port: int) -> None:
        self._latest = _Latest()
        registry = CollectorRegistry()
        registry.register(self._latest)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            raise OutputError(f"cannot listen on {host}:{port}: {error}") from error
        self.address = f"http://{host}:{self._server.server_port}/metrics"

    def show(self, result: Mapping[str, Any]) -> None:
        """Answers with this result's metrics from now on."""
        self._latest.metrics = metrics_of(result)

    def close(self) -> None:
        """Stops to listen."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Latest(Collector):
    """Hands on what is collected from the latest registry."""

    def __init__(self) -> None:
        self.metrics = CollectorRegistry()

    def collect(self) -> Iterable[Metric]:
        return self.metrics.collect()
