"""`cmdcm deploy`, as a shell calls it."""

import json

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from cmdcm.core.files import write_manifest
from cmdcm.jobs.main import main, parse
from cmdcm.jobs.rollout.config_file import ModelConfigFile


@pytest.fixture
def base(tmp_path):
    """A base path with versions 2 and 10, and a version 11 that has not arrived yet."""
    model = saved_model_pb2.SavedModel()
    model.meta_graphs.add()
    for version in ("2", "00000010", "11"):
        (tmp_path / "base" / version).mkdir(parents=True)
    for version in ("2", "00000010"):
        (tmp_path / "base" / version / "saved_model.pb").write_bytes(model.SerializeToString())
    return tmp_path / "base"


def run(capsys, base, output, *flags) -> tuple[int, str, str]:
    command = ["cmdcm", "deploy", "--model_base_path", str(base), "--output", str(output), *flags]
    code = main(parse(command))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def labels(output) -> dict[str, int]:
    entry = ModelConfigFile(output / "config" / "models.config", "cmdcm").entry()
    return dict(entry.version_labels)


def test_the_newest_complete_version_is_served(base, tmp_path, capsys):
    out = tmp_path / "out"
    code, printed, _ = run(capsys, base, out)
    assert code == 0
    assert "stable is version 10\n" in printed
    assert f"kubectl apply -k {out}" in printed
    assert labels(out) == {"stable": 10}
    code, _, err = run(capsys, base, out)
    assert code == 7
    assert "--overwrite" in err
    code, printed, _ = run(capsys, base, out, "--overwrite", "--stable", "2")
    assert "kept versions and labels" in printed
    assert labels(out) == {"stable": 10}


def test_versions_of_ones_own_choice(base, tmp_path, capsys):
    flags = ["--stable", "2", "--canary", "10"]
    assert "stable is version 2, canary 10" in run(capsys, base, tmp_path / "out", *flags)[1]
    assert labels(tmp_path / "out") == {"stable": 2, "canary": 10}


def test_a_version_that_was_changed_is_not_deployed(base, tmp_path, capsys):
    write_manifest(base / "00000010", {"kind": "export"})
    assert run(capsys, base, tmp_path / "out")[0] == 0
    (base / "00000010" / "more").touch()
    for flags in ([], ["--stable", "2", "--canary", "10"]):
        code, _, err = run(capsys, base, tmp_path / "other", *flags)
        assert code == 6
        assert "version 10 should not be served" in err and "more: not in the manifest" in err
    assert not (tmp_path / "other").exists()
    strict = ["--stable", "2", "--set", "serving.require_manifest=true"]
    assert run(capsys, base, tmp_path / "other", *strict)[0] == 6


def test_servers_for_the_peak_come_from_the_load_test(base, tmp_path, capsys):
    result = {"signature": "score_candidates", "server_cpu_ms": 12.0}
    (tmp_path / "loadtest.json").write_text(json.dumps({"results": [result]}))
    flags = ["--loadtest", str(tmp_path / "loadtest.json")]
    flags += ["--set", "deploy.candidates.peak_requests_per_second=300"]
    # 300/s x 12 ms = 3.6 CPUs; servers of 2 CPUs at 60 % take 1.2: three, and one to spare.
    printed = run(capsys, base, tmp_path / "out", *flags)[1]
    assert "candidates: 300 requests/s x 12 ms = 3.6 busy CPUs; " in printed
    assert "2 CPUs at 60%: 4 servers, one of them to spare" in printed
    assert "examples: no sizing" in printed


def test_a_load_test_without_the_servers_cpu_is_told(base, tmp_path, capsys):
    result = {"signature": "score_candidates", "server_cpu_ms": None}
    path = tmp_path / "loadtest.json"
    path.write_text(json.dumps({"results": [result]}))
    flags = ["--loadtest", str(path), "--set", "deploy.candidates.peak_requests_per_second=300"]
    printed = run(capsys, base, tmp_path / "out", *flags)[1]
    assert f"candidates: no sizing; {path} has no server CPU of score_candidates; repeat" in printed
    assert "--server_pid PID --signature score_candidates\n" in printed


@pytest.mark.parametrize("pinned", [False, True])
def test_an_image_without_a_digest_is_warned_of(base, tmp_path, capsys, caplog, pinned):
    image = "tensorflow/serving:2.21.0" + ("@sha256:" + "0" * 64 if pinned else "")
    with caplog.at_level("WARNING", logger="absl"):
        run(capsys, base, tmp_path / "out", "--set", f"deploy.base_image={image}")
    assert ("not pinned" in caplog.text) != pinned
    assert f"FROM {image}\n" in (tmp_path / "out" / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stable", "11"], "--stable 11: .* has no such version; it has [2, 10]"),
        (["--canary", "10"], "--canary 10 is the stable version"),
        (["--canary", "3"], "--canary 3: "),
    ],
)
def test_versions_that_cannot_be(base, tmp_path, capsys, flags, message):
    code, _, err = run(capsys, base, tmp_path / "out", *flags)
    assert code == 2
    assert all(part in err for part in message.split(".*"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folder", "message"), [("gone", "No such file"), (".", "no complete")])
def test_a_base_path_without_versions(tmp_path, capsys, folder, message):
    code, _, err = run(capsys, tmp_path / folder, tmp_path / "out")
    assert (code, message in err) == (2, True)
