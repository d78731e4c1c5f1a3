"""The gRPC channel of a scoring client: balancing, retries, keepalive, limits, TLS.

One channel lives as long as its client. Calls go round all addresses of the target. A call that
finds no server is tried again twice, as long as few calls fail; no other failure is.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from cmdcm.core.errors import ConfigError

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # A failure takes one token, a success gives a tenth; below half of them nothing is retried, so
    # that retries cannot bury a service that is already down.
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
}

Pem = bytes | str | Path
"""A PEM text, or the path of a file that holds one."""


@dataclass(frozen=True)
class ClientTls:
    """How a client trusts the server, and what it shows of itself.

    Attributes:
        root_certificates: PEM of the authorities that may sign the server's certificate; None for
            gRPC's own list.
        private_key: PEM of the client's key; with `certificate_chain`, for mutual TLS.
        certificate_chain: PEM of the client's certificate and those between it and its authority.
        server_name: Name that the server's certificate should carry, where it is not the target's
            host: behind a balancer, or called by address. Empty for the target's.

    Example:
        >>> tls = ClientTls(root_certificates=Path("ca.pem"), server_name="ranking.internal")
    """

    root_certificates: Pem | None = None
    private_key: Pem | None = field(default=None, repr=False)
    certificate_chain: Pem | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ConfigError("mutual TLS needs both private_key and certificate_chain")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the PEM texts.

        Raises:
            ConfigError: Names the attribute that cannot be read or is no PEM. Its contents may be
                secret and are not shown.
        """
        return grpc.ssl_channel_credentials(
            _read(self.root_certificates, "root_certificates"),
            _read(self.private_key, "private_key"),
            _read(self.certificate_chain, "certificate_chain"),
        )


def channel_options(max_bytes: int, tls: ClientTls | None) -> list[tuple[str, Any]]:
    """Returns gRPC's arguments of a channel whose messages take at most `max_bytes`."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", max_bytes),
        # Pings only while calls are under way, as servers forbid others by default; with them the
        # kernel also gives up a dead connection within the timeout.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def open_channel(target: str, max_bytes: int, tls: ClientTls | None, grpc_api: Any = grpc) -> Any:
    """Opens a channel; it connects when it is first used.

    Args:
        target: HOST:PORT, or any gRPC target.
        max_bytes: Largest request and answer.
        tls: None for plain text.
        grpc_api: `grpc`, or `grpc.aio` for asyncio's channel.
    """
    options = channel_options(max_bytes, tls)
    if tls is None:
        return grpc_api.insecure_channel(target, options=options)
    return grpc_api.secure_channel(target, tls.credentials(), options=options)


def _read(pem: Pem | None, name: str) -> bytes | None:
    if pem is None:
        return None
    if isinstance(pem, Path):
        try:
            text = pem.read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: cannot read {pem}: {error.strerror}") from error
    else:
        text = pem.encode() if isinstance(pem, str) else pem
    if b"-----BEGIN " not in text:
        place = str(pem) if isinstance(pem, Path) else "the value"
        raise ConfigError(f"{name}: {place} is no PEM text; pass a file as pathlib.Path")
    return text
