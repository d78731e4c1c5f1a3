"""Settings of deployment and roll-out."""

from pydantic import Field, model_validator

from cmdcm.core.settings.base import Section

_IMAGE = r"^[a-z0-9][A-Za-z0-9._/:@-]*$"
_DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class ServerGroupConfig(Section):
    """One group of equal servers (docs/deployment.md).

    Attributes:
        cpus: CPUs of a server.
        memory_mib: Memory of a server; it holds two versions, and three while a canary loads.
        min_replicas: Servers at least.
        max_replicas: Servers at most; the autoscaler chooses in between.
        peak_requests_per_second: Requests a second in the busiest minute; 0 if not known.
        cpu_ms_per_request: CPU time of a request, as a load test measured it; 0 if not known.
    """

    cpus: int = Field(2, ge=1)
    memory_mib: int = Field(4096, ge=256)
    min_replicas: int = Field(2, ge=1)
    max_replicas: int = Field(8, ge=1)
    peak_requests_per_second: float = Field(0.0, ge=0)
    cpu_ms_per_request: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "ServerGroupConfig":
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas should be at least min_replicas")
        return self


class DeployConfig(Section):
    """What `cmdcm deploy` writes (docs/deployment.md).

    Attributes:
        base_image: The tensorflow/serving image, best with its `@sha256:` digest.
        image: Name and tag of the image that is built from it.
        namespace: Kubernetes namespace.
        model_claim: PersistentVolumeClaim with the numbered version folders at its root.
        monitoring_namespace: Namespace whose pods may read the metrics.
        user_id: User and group under which the servers run.
        local_port: gRPC port of the candidates server under docker compose, on loopback; its REST
            port is the next one, those of the examples server are ten above.
        candidates: The servers of `score_candidates`, without batching.
        examples: The servers of `serving_default`, with batching.
        batch_timeout_micros: How long a lone request waits for others to batch with.
        max_enqueued_batches: Batches that may wait; more are answered UNAVAILABLE.
        grpc_max_threads: Threads that gRPC may use, well above the calls at once.
        max_connection_age_seconds: Age at which a server asks clients to connect anew, so that
            they learn of servers that came or go.
        drain_seconds: How long a server that is to stop goes on serving.
        startup_seconds: How long loading and warming up may take.
        target_utilisation: Share of a server's CPUs that is used at the peak.
        tls_key: PEM file of the servers' private key; empty for no TLS.
        tls_certificate: PEM file of their certificate.
        tls_client_ca: PEM file of the authority that signs clients; empty for no mutual TLS.
    """

    base_image: str = Field("tensorflow/serving:2.21.0", pattern=_IMAGE)
    image: str = Field("cmdcm-serving:latest", pattern=_IMAGE)
    namespace: str = Field("cmdcm", pattern=_DNS_LABEL)
    model_claim: str = Field("cmdcm-models", pattern=_DNS_LABEL)
    monitoring_namespace: str = Field("monitoring", pattern=_DNS_LABEL)
    user_id: int = Field(65532, ge=1)
    local_port: int = Field(8500, ge=1, le=65524)
    candidates: ServerGroupConfig = ServerGroupConfig()
    examples: ServerGroupConfig = ServerGroupConfig()
    batch_timeout_micros: int = Field(1000, ge=0)
    max_enqueued_batches: int = Field(20, ge=1)
    grpc_max_threads: int = Field(128, ge=1)
    max_connection_age_seconds: int = Field(30, ge=1)
    drain_seconds: int = Field(75, ge=0)
    startup_seconds: int = Field(600, ge=10)
    target_utilisation: float = Field(0.6, gt=0, le=1)
    tls_key: str = ""
    tls_certificate: str = ""
    tls_client_ca: str = ""

    @model_validator(mode="after")
    def _check(self) -> "DeployConfig":
        if bool(self.tls_key) != bool(self.tls_certificate):
            raise ValueError("tls_key and tls_certificate should be given together")
        if self.tls_client_ca and not self.tls_key:
            raise ValueError("tls_client_ca needs tls_key and tls_certificate")
        if self.drain_seconds < 2 * self.max_connection_age_seconds:
            raise ValueError(
                "drain_seconds should be at least twice max_connection_age_seconds, or clients "
                "still call a server when it stops"
            )
        return self


class RolloutConfig(Section):
    """When `cmdcm rollout` promotes a version (docs/rollout.md).

    Attributes:
        output: The score that is compared between stable and canary.
        max_psi: Largest population stability index.
        max_mean_shift: Largest change of the mean score, as a share of stable's mean.
        max_score_shift: Largest change of a single score.
        min_rows: Scores to compare at least.
        max_requests: Requests to replay at most.
        load_timeout_seconds: How long a version may take to load and warm up.
        poll_seconds: Seconds between two looks at the state of a version.
        deadline_ms: Deadline of every call.
        registry: Whether the registry's aliases follow the labels, and a canary has to be
            registered (docs/registry.md), where versions of the model are registered.
        freeze_before_hours: Hours before each promotion's start from which only a roll-back moves
            labels.
        freeze_after_hours: Hours after its start until which that holds; both 0 for no freeze.
    """

    output: str = "p_conversion"
    max_psi: float = Field(0.2, ge=0)
    max_mean_shift: float = Field(0.2, ge=0)
    max_score_shift: float = Field(0.5, ge=0, le=1)
    min_rows: int = Field(100, ge=1)
    max_requests: int = Field(1000, ge=1)
    load_timeout_seconds: float = Field(300.0, gt=0)
    poll_seconds: float = Field(0.5, gt=0)
    deadline_ms: int = Field(10_000, ge=1)
    registry: bool = True
    freeze_before_hours: float = Field(0.0, ge=0)
    freeze_after_hours: float = Field(6.0, ge=0)
