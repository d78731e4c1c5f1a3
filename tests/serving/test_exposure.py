"""Who can reach a server: TLS, mutual TLS, unix sockets, reload requests, other addresses."""

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.serving.config_protos import SSLConfig
from cmdcm.serving.exposure import check_exposure, reload_over_network, rest_host
from cmdcm.serving.model_config import single_model_config
from cmdcm.serving.server import EmbeddedServer
from cmdcm.serving.tls import read_tls
from cmdcm.tests.serving.certificates import Authority
from cmdcm.tests.serving.stubs import WAIT, Stubs, candidates_request, failure

Code = grpc.StatusCode
ANY = "0.0.0.0"  # noqa: S104


@pytest.fixture(scope="module")
def authority():
    return Authority("ours")


@pytest.fixture
def write(tmp_path, authority):
    """Writes an SSL config file with a certificate of `authority`; returns its path."""

    def make(**fields) -> str:
        server = authority.issue("localhost")
        config = SSLConfig(
            **{"server_key": server.key, "server_cert": server.certificate, **fields}
        )
        (tmp_path / "ssl.txt").write_text(text_format.MessageToString(config))
        return str(tmp_path / "ssl.txt")

    return make


def secure(server, authority, client=None) -> Stubs:
    """Stubs that speak TLS, with the client's certificate if there is one."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.encode(),
        client.key.encode() if client else None,
        client.certificate.encode() if client else None,
    )
    return Stubs(f"localhost:{server.port}", credentials)


def reload_request(exports) -> model_management_pb2.ReloadConfigRequest:
    config = single_model_config("tiny", exports / "tiny")
    return model_management_pb2.ReloadConfigRequest(config=config)


def test_tls(exports, write, authority):
    config = ServingConfig(port=0, rest_port=-1, ssl_config_file=write())
    with EmbeddedServer(exports / "tiny", "tiny", config) as server:
        assert secure(server, authority).served_version() == 2
        stranger = secure(server, Authority("other"))
        assert failure(stranger.prediction.Predict, candidates_request()).code() == (
            Code.UNAVAILABLE
        )
        plain = Stubs(server.target)
        assert failure(plain.prediction.Predict, candidates_request()).code() == Code.UNAVAILABLE


def test_mutual_tls(exports, write, authority):
    file = write(custom_ca=authority.certificate, client_verify=True)
    config = ServingConfig(host=ANY, port=0, rest_port=-1, ssl_config_file=file)
    with EmbeddedServer(exports / "tiny", "tiny", config) as server:
        known = secure(server, authority, authority.issue("client"))
        assert known.served_version() == 2
        # Who shows a certificate may also choose the models.
        known.model.HandleReloadConfigRequest(reload_request(exports), timeout=WAIT)
        for client in (None, Authority("other").issue("client")):
            stranger = secure(server, authority, client)
            error = failure(stranger.prediction.Predict, candidates_request())
            assert error.code() == Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"server_key": ""}, "server_key should be a PEM text"),
        ({"server_cert": "/etc/cert.pem"}, "server_cert should be a PEM text"),
        ({"custom_ca": "x"}, "custom_ca should be a PEM text"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
    ],
)
def test_ssl_configs_that_cannot_be(write, fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_tls(write(**fields))
    assert "PRIVATE KEY" not in str(caught.value)


def test_a_unix_socket(exports, tmp_path):
    path = tmp_path / "grpc.sock"
    config = ServingConfig(port=0, rest_port=-1, grpc_socket_path=str(path))
    with EmbeddedServer(exports / "tiny", "tiny", config) as server:
        assert Stubs(f"unix:{path}").served_version() == 2
        assert Stubs(server.target).served_version() == 2


def test_reloads_come_over_a_guarded_way_only(exports, tmp_path):
    path = tmp_path / "grpc.sock"
    config = ServingConfig(
        host=ANY, port=0, rest_port=-1, grpc_socket_path=str(path), allow_plaintext=True
    )
    with EmbeddedServer(exports / "tiny", "tiny", config) as server:
        network = Stubs(f"127.0.0.1:{server.port}")
        error = failure(network.model.HandleReloadConfigRequest, reload_request(exports))
        assert error.code() == Code.PERMISSION_DENIED
        assert "serving.allow_remote_reload" in error.details()
        assert network.served_version() == 2
        local = Stubs(f"unix:{path}")
        local.model.HandleReloadConfigRequest(reload_request(exports), timeout=WAIT)


def test_other_addresses_need_tls(write, authority):
    with pytest.raises(ConfigError, match="allow_plaintext"):
        check_exposure(ServingConfig(host=ANY), None)
    check_exposure(ServingConfig(host=ANY), read_tls(write()))
    check_exposure(ServingConfig(host="::1"), None)


@pytest.mark.parametrize(
    ("settings", "rest", "reload"),
    [
        ({"host": "127.0.0.1"}, "127.0.0.1", True),
        ({"host": "::1"}, "::1", True),
        ({"host": ANY}, "127.0.0.1", False),  # with TLS
        ({"host": ANY, "allow_plaintext": True}, ANY, False),
        ({"host": ANY, "allow_remote_reload": True}, "127.0.0.1", True),
    ],
)
def test_what_others_reach(write, settings, rest, reload):
    config = ServingConfig(**settings)
    assert rest_host(config) == rest
    assert reload_over_network(config, read_tls(write())) == reload
