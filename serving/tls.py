"""TLS of the gRPC port: a text proto of SSLConfig becomes grpc's credentials.

The keys and certificates are PEM texts in the file itself, as TensorFlow Serving reads them.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc

from cmdcm.core.errors import ConfigError
from cmdcm.serving.config_protos import SSLConfig, read_text_proto


@dataclass(frozen=True)
class Tls:
    """How connections are encrypted.

    Attributes:
        credentials: What grpc needs to know.
        client_verify: Whether clients have to show a certificate of the CA: mutual TLS.
    """

    credentials: grpc.ServerCredentials
    client_verify: bool


def read_tls(path: Path) -> Tls:
    """Reads an SSL config file.

    Raises:
        ConfigError: Names the file and the field that is missing or is no PEM. The contents are
            secret and are not shown.
    """
    what = "SSL config file"
    config = read_text_proto(path, SSLConfig, what, secret=True)
    server_key, server_cert, custom_ca, client_verify = (
        getattr(config, name)
        for name in ("server_key", "server_cert", "custom_ca", "client_verify")
    )
    for name, text in (("server_key", server_key), ("server_cert", server_cert)):
        if "-----BEGIN " not in text:
            raise ConfigError(f"{what} {path}: {name} should be a PEM text")
    if custom_ca and "-----BEGIN CERTIFICATE-----" not in custom_ca:
        raise ConfigError(f"{what} {path}: custom_ca should be a PEM text of certificates")
    if client_verify and not custom_ca:
        # grpc would take any certificate that the machine's own list of authorities has issued.
        raise ConfigError(f"{what} {path}: client_verify needs custom_ca, which signs the clients")
    credentials = grpc.ssl_server_credentials(
        [(server_key.encode(), server_cert.encode())],
        root_certificates=custom_ca.encode() or None,
        require_client_auth=client_verify,
    )
    return Tls(credentials, client_verify)
