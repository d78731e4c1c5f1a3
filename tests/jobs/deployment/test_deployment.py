"""The deployment files, each read back by what will read it: protos, YAML, schemas, servers."""

import re
import shutil
import stat
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.jobs.commands import serve
from cmdcm.jobs.deployment.groups import GROUPS
from cmdcm.jobs.deployment.render import Versions, write_deployment
from cmdcm.jobs.rollout.audit import audit, audit_path
from cmdcm.jobs.rollout.config_file import ModelConfigFile
from cmdcm.serving.batching_options import read_batching_options
from cmdcm.serving.config_protos import MonitoringConfig, SSLConfig, read_text_proto
from cmdcm.tests.jobs.deployment.files import deployment, documents, flags, pod, write
from cmdcm.tests.jobs.test_serve import parse
from cmdcm.tests.serving.certificates import Authority

NAMES = [group.name for group in GROUPS]
KUBERNETES = ["1.30", kubernetes_validate.latest_version()]
KINDS = ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """The overrides of a deployment with mutual TLS, and the secret key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority("cmdcm test")
    signed = authority.issue("localhost")
    texts = {
        "tls_key": signed.key,
        "tls_certificate": signed.certificate,
        "tls_client_ca": authority.certificate,
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [f"deploy.{name}={folder / name}" for name in texts], signed.key


@pytest.fixture(scope="module", params=["plain", "tls"])
def written(request, tls, tmp_path_factory):
    overrides = tls[0] if request.param == "tls" else []
    return write(tmp_path_factory.mktemp("deploy") / "out", *overrides)


def test_the_model_config_names_versions_and_labels(written):
    text = (written / "config" / "models.config").read_text()
    (entry,) = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert (entry.name, entry.base_path) == ("cmdcm", "/models/cmdcm")
    assert entry.model_platform == "tensorflow"
    assert list(entry.model_version_policy.specific.versions) == [3, 4]
    assert dict(entry.version_labels) == {"stable": 3, "canary": 4}


def test_without_a_canary_there_is_no_such_label(tmp_path):
    write(tmp_path / "out", canary=None)
    entry = ModelConfigFile(tmp_path / "out" / "config" / "models.config", "cmdcm").entry()
    assert list(entry.model_version_policy.specific.versions) == [3]
    assert dict(entry.version_labels) == {"stable": 3}


def test_batches_have_the_sizes_to_which_clients_pad(tmp_path):
    write(tmp_path / "out", "export.warmup_candidates=[50, 8, 50]", "deploy.examples.cpus=3")
    options = read_batching_options(tmp_path / "out" / "config" / "batching_parameters.config")
    assert options.allowed_batch_sizes == (8, 50)
    assert (options.max_batch_size, options.num_batch_threads) == (50, 3)
    assert (options.batch_timeout_micros, options.max_enqueued_batches) == (1000, 20)


def test_the_metrics_page_is_where_the_annotations_say(written):
    path = written / "config" / "monitoring.config"
    prometheus = read_text_proto(path, MonitoringConfig, "monitoring").prometheus_config
    assert prometheus.enable
    for name in NAMES:
        template = deployment(written, name)["spec"]["template"]
        assert template["metadata"]["annotations"]["prometheus.io/path"] == prometheus.path


def test_the_key_is_in_the_secret_alone(tls, tmp_path):
    overrides, key = tls
    out = write(tmp_path / "out", *overrides)
    secret = out / "secret" / "ssl.config"
    config = text_format.Parse(secret.read_text(), SSLConfig())
    assert config.server_key == key
    assert config.client_verify
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    others = [path for path in out.rglob("*") if path.is_file() and path != secret]
    assert all("PRIVATE KEY" not in path.read_text() for path in others)


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_obey_the_schemas_of_kubernetes(written, version):
    for path in (written / "kubernetes").iterdir():
        for document in documents(path):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_checker_sees_a_misspelt_field(written):
    document = deployment(written, "examples")
    document["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)


def test_all_that_kustomize_reads_is_there(written):
    kustomization = yaml.safe_load((written / "kustomization.yaml").read_text())
    resources = {f"kubernetes/{path.name}" for path in (written / "kubernetes").iterdir()}
    assert set(kustomization["resources"]) == resources
    generators = kustomization["configMapGenerator"] + kustomization.get("secretGenerator", [])
    named = {generator["name"]: generator["files"] for generator in generators}
    assert {f"config/{path.name}" for path in (written / "config").iterdir()} == set(
        named["cmdcm-config"]
    )
    assert named.get("cmdcm-ssl") == (["secret/ssl.config"] if _has_tls(written) else None)
    for files in named.values():
        assert all((written / file).is_file() for file in files)
    for name in NAMES:
        volumes = pod(written, name)["volumes"]
        used = {v["configMap"]["name"] for v in volumes if "configMap" in v}
        used |= {v["secret"]["secretName"] for v in volumes if "secret" in v}
        assert used == set(named)


def _has_tls(written: Path) -> bool:
    return (written / "secret").exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_the_command_is_mounted(written, name):
    (container,) = pod(written, name)["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    folders = {"/config": "config", "/secret": "secret"}
    files = [v for k, v in flags(container["command"]).items() if k.endswith("_file")]
    assert len(files) == 2 + (name == "examples") + _has_tls(written)
    for file in files:
        folder = str(Path(file).parent)
        assert mounts[folder]["readOnly"]
        assert (written / folders[folder] / Path(file).name).is_file()
    assert mounts["/models/cmdcm"]["readOnly"]
    assert {m["name"] for m in mounts.values()} == {
        v["name"] for v in pod(written, name)["volumes"]
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_server_has_no_more_rights_than_it_needs(written, name):
    spec = pod(written, name)
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"] == {"cpu": 2, "memory": "4096Mi"}
    service = yaml.safe_load((written / "docker-compose.yaml").read_text())["services"][name]
    assert (service["user"], service["read_only"]) == ("65532:65532", True)
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume["read_only"] for volume in service["volumes"])
    assert service["command"] == container["command"]


def test_a_server_that_stops_drains_first(tmp_path):
    write(tmp_path / "out", "deploy.drain_seconds=90", "deploy.max_connection_age_seconds=45")
    spec = pod(tmp_path / "out", "candidates")
    (container,) = spec["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "90"]
    assert spec["terminationGracePeriodSeconds"] > 90
    arguments = flags(container["command"])["grpc_channel_arguments"]
    assert "grpc.max_connection_age_ms=45000" in arguments.split(",")
    with pytest.raises(ConfigError, match="at least twice max_connection_age_seconds"):
        load_config(overrides=["deploy.drain_seconds=59"])


def test_services_and_budgets_select_the_pods_of_their_group(written):
    for name in NAMES:
        found = documents(written / "kubernetes" / f"{name}.yaml")
        assert [document["kind"] for document in found] == KINDS
        of_pods = found[0]["spec"]["template"]["metadata"]["labels"]
        assert of_pods["app.kubernetes.io/component"] == name
        assert found[1]["spec"]["clusterIP"] == "None"
        assert found[1]["spec"]["selector"] == of_pods
        assert found[2]["spec"]["selector"]["matchLabels"] == of_pods
        assert found[3]["spec"]["scaleTargetRef"]["name"] == found[0]["metadata"]["name"]
        (network,) = documents(written / "kubernetes" / "network.yaml")
        assert network["spec"]["podSelector"]["matchLabels"].items() <= of_pods.items()


def test_only_clients_of_the_namespace_reach_the_port_that_takes_reloads(written):
    (network,) = documents(written / "kubernetes" / "network.yaml")
    spec = network["spec"]
    assert (spec["policyTypes"], spec["egress"]) == (["Ingress", "Egress"], [])
    senders = [rule["from"] for rule in spec["ingress"] if {"grpc"} & ports_of(rule)]
    assert senders == [[{"podSelector": {"matchLabels": {"cmdcm-client": "true"}}}]]


def ports_of(rule: dict) -> set[str]:
    return {port["port"] for port in rule["ports"]}


def test_only_the_servers_of_serving_default_batch(written):
    commands = {name: pod(written, name)["containers"][0]["command"] for name in NAMES}
    batching = {name: "enable_batching" in flags(command) for name, command in commands.items()}
    assert batching == {"candidates": False, "examples": True}
    assert "enable_model_warmup" not in flags(commands["candidates"])
    assert flags(commands["examples"])["enable_model_warmup"] == "false"
    assert {flags(c)["tensorflow_intra_op_parallelism"] for c in commands.values()} == {"1"}
    threads = {n: flags(c)["tensorflow_inter_op_parallelism"] for n, c in commands.items()}
    assert threads == {"candidates": "2", "examples": "1"}


@pytest.mark.parametrize("name", NAMES)
def test_flags_are_those_that_the_embedded_server_takes(written, name):
    command = pod(written, name)["containers"][0]["command"]
    assert command[0] == "tensorflow_model_server"
    parse(serve, *(f"--{flag}={value}" for flag, value in flags(command).items()))


def test_the_image_is_small_and_not_root(written):
    lines = (written / "Dockerfile").read_text().splitlines()
    assert "FROM tensorflow/serving:2.21.0" in lines
    assert "USER 65532:65532" in lines
    pinned = "tensorflow/serving:2.21.0@sha256:" + "a" * 64
    assert load_config(overrides=[f"deploy.base_image={pinned}"]).deploy.base_image == pinned


def test_writing_again_keeps_the_state_of_the_rollouts(tmp_path):
    out = write(tmp_path / "out")
    file = ModelConfigFile(out / "config" / "models.config", "cmdcm")
    state = file.read()
    state.model_config_list.config[0].version_labels["stable"] = 4
    file.write(state)
    audit(file.path, {"action": "promote"})
    log = audit_path(file.path).read_bytes()
    config = load_config(overrides=["deploy.user_id=77"])
    with pytest.raises(OutputError, match="--overwrite"):
        write_deployment(out, config, Versions(Path("/srv"), 3))
    assert write_deployment(out, config, Versions(Path("/srv"), 3), overwrite=True)
    assert file.read() == state
    assert audit_path(file.path).read_bytes() == log
    assert "USER 77:77" in (out / "Dockerfile").read_text()


@given(st.text("ab /'\"$:#{}%\\é\n", min_size=1, max_size=12))
@settings(deadline=None, max_examples=30)
def test_any_base_path_survives_yaml(tmp_path_factory, name):
    out = tmp_path_factory.mktemp("path") / "out"
    write(out, base=f"/{name}")
    services = yaml.safe_load((out / "docker-compose.yaml").read_text())["services"]
    (source,) = [v["source"] for v in services["examples"]["volumes"] if "/models" in v["target"]]
    assert source.replace("$$", "$") == str(Path(f"/{name}"))
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", source)  # nothing for compose to fill in
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("export.name=7th", "gives no name for Kubernetes"),
        ("deploy.namespace=Upper", "deploy.namespace"),
        ("deploy.tls_key=only.pem", "given together"),
        ("deploy.tls_client_ca=only.pem", "needs tls_key"),
        ("deploy.candidates.max_replicas=1", "at least min_replicas"),
    ],
)
def test_settings_that_cannot_be(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "out", override)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"no key", b"\xff"])
def test_a_key_that_is_none(tmp_path, tls, content):
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"deploy\.tls_key: .*key\.pem"):
        write(tmp_path / "out", *tls[0], f"deploy.tls_key={path}")
    assert not (tmp_path / "out").exists()


def test_defaults_are_a_deployment():
    assert Config().deploy.candidates.min_replicas >= 2
