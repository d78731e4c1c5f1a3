"""Channels: TLS and mutual TLS against the embedded server, and messages above 4 MB."""

import json
import time

import numpy as np
import pytest

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.serving.channels import ClientTls, channel_options
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.config_protos import SSLConfig
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.status import StatusError
from cmdcm.tests.serving import models
from cmdcm.tests.serving.certificates import Authority
from cmdcm.tests.serving.clients import Awaited

NAME = "localhost"
KINDS = pytest.mark.parametrize("kind", [ScoringClient, Awaited], ids=["sync", "asyncio"])


@pytest.fixture(scope="module")
def authority():
    return Authority("the tests' authority")


def tls_server(exports, folder, authority, *, client_verify):
    issued = authority.issue(NAME)
    config = SSLConfig(
        server_key=issued.key,
        server_cert=issued.certificate,
        custom_ca=authority.certificate,
        client_verify=client_verify,
    )
    path = folder / "ssl.pbtxt"
    path.write_text(str(config))
    settings = ServingConfig(port=0, rest_port=-1, ssl_config_file=str(path))
    return EmbeddedServer(exports / "tiny", "tiny", settings)


@pytest.fixture(scope="module")
def tls(exports, tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("tls")
    with tls_server(exports, folder, authority, client_verify=False) as server:
        yield server


@pytest.fixture(scope="module")
def mutual_tls(exports, tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("mutual_tls")
    with tls_server(exports, folder, authority, client_verify=True) as server:
        yield server


def ask(kind, server, tls, deadline_ms=20_000):
    with kind(server.target, "tiny", models.SPEC, deadline_ms=deadline_ms, tls=tls) as client:
        return client.score_candidates(models.user_values(), models.candidate_arrays(3)).version


@KINDS
def test_a_server_that_the_authority_signed_is_trusted(tls, authority, kind, tmp_path):
    (tmp_path / "ca.pem").write_text(authority.certificate)
    assert ask(kind, tls, ClientTls(tmp_path / "ca.pem", server_name=NAME)) == 2
    assert ask(kind, tls, ClientTls(authority.certificate.encode(), server_name=NAME)) == 2


def test_other_servers_are_not(tls, authority):
    for distrusting in (
        ClientTls(Authority("another").certificate, server_name=NAME),
        ClientTls(authority.certificate, server_name="other.test"),
        None,
    ):
        with pytest.raises(StatusError, match="UNAVAILABLE"):
            ask(ScoringClient, tls, distrusting)


@KINDS
def test_a_client_shows_its_certificate(mutual_tls, authority, kind):
    issued = authority.issue(NAME)
    shown = ClientTls(authority.certificate, issued.key, issued.certificate, server_name=NAME)
    assert ask(kind, mutual_tls, shown) == 2
    with pytest.raises(StatusError, match="UNAVAILABLE"):
        ask(kind, mutual_tls, ClientTls(authority.certificate, server_name=NAME))


def test_pem_texts_that_cannot_be_used(tmp_path, authority):
    issued = authority.issue(NAME)
    with pytest.raises(ConfigError, match="both private_key and certificate_chain"):
        ClientTls(authority.certificate, private_key=issued.key)
    with pytest.raises(ConfigError, match=r"root_certificates: cannot read .*nowhere\.pem"):
        ClientTls(tmp_path / "nowhere.pem").credentials()
    with pytest.raises(ConfigError, match="private_key: the value is no PEM") as caught:
        ClientTls(None, b"hidden text", issued.certificate).credentials()
    assert "hidden" not in str(caught.value)
    assert "PRIVATE" not in repr(ClientTls(None, issued.key, issued.certificate))


@KINDS
def test_messages_above_four_megabytes(v1_server, kind):
    words = np.array([b"w" * 1024] * 6000, object)
    with kind(v1_server.target, "v1", deadline_ms=20_000) as client:
        scores = client.predict("lookup", {"word": words})
    assert scores["word_bytes"].tolist() == words.tolist()


def test_calls_go_round_and_only_unavailable_is_retried():
    options = dict(channel_options(1 << 23, None))
    service = json.loads(options["grpc.service_config"])
    assert service["loadBalancingConfig"] == [{"round_robin": {}}]
    (method,) = service["methodConfig"]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert options["grpc.max_receive_message_length"] == 1 << 23


def test_calls_go_to_every_address(exports, base):
    settings = ServingConfig(port=0, rest_port=-1)
    with (
        EmbeddedServer(base, "tiny", settings) as one,
        EmbeddedServer(exports / "tiny", "tiny", settings) as two,
        ScoringClient(
            f"ipv4:{one.target},{two.target}", "tiny", models.SPEC, deadline_ms=20_000
        ) as client,
    ):
        candidates = models.candidate_arrays(1)

        def asked() -> int:
            return client.score_candidates(models.user_values(), candidates).version

        # The second connection may be a moment later than the first.
        deadline = time.monotonic() + 20
        while {asked(), asked()} != {1, 2}:
            assert time.monotonic() < deadline
        versions = [asked() for _ in range(10)]
    assert versions.count(1) == versions.count(2) == 5
