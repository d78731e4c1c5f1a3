"""Who can reach a server, and what that takes.

A model is a program and a reload chooses which ones run, so both are guarded: any address but
loopback needs TLS, and reloads over the network need clients that show a certificate.
"""

import ipaddress

from absl import logging

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.serving.tls import Tls

LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address.

    Example:
        >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "db1")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(config: ServingConfig, tls: Tls | None) -> None:
    """Refuses to listen in plain text where others can reach it.

    It refuses and does not only warn, because a warning at the start of a log is read after the
    accident.

    Raises:
        ConfigError: Says what to set.
    """
    if is_loopback(config.host) or tls is not None:
        return
    if not config.allow_plaintext:
        raise ConfigError(
            f"serving.host = {config.host} can be reached by others, and there is no TLS; set "
            "--ssl_config_file, or serving.allow_plaintext=true where a TLS proxy or the network "
            "keeps others out"
        )
    logging.warning(
        "listening on %s without TLS: anyone who reaches it can read and send requests", config.host
    )


def rest_host(config: ServingConfig) -> str:
    """Returns the address of the REST port, which has no TLS: loopback unless plain text may be."""
    return config.host if config.allow_plaintext or is_loopback(config.host) else LOOPBACK


def reload_over_network(config: ServingConfig, tls: Tls | None) -> bool:
    """Returns whether HandleReloadConfigRequest may come over the gRPC port."""
    return (
        is_loopback(config.host)
        or config.allow_remote_reload
        or (tls is not None and tls.client_verify)
    )
