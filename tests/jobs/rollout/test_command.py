"""`cmdcm rollout`, as a shell calls it."""

import re
import shutil
import time

import pytest
from google.protobuf import text_format

from cmdcm.jobs.main import main, parse
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.serving.config_protos import SSLConfig
from cmdcm.tests.jobs.rollout.world import answered, entries, serving, write_config
from cmdcm.tests.serving import models
from cmdcm.tests.serving.certificates import Authority


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "base"
    for version in (1, 2):
        models.write_tiny_model(path / str(version), version)
    return path


@pytest.fixture
def path(base, tmp_path):
    return write_config(tmp_path / "models.config", base, {"stable": 1}, 1)


def run(capsys, path, action, target, *flags) -> tuple[int, str, str]:
    """Exit code, output and errors of a roll-out of `tiny`."""
    command = ["cmdcm", "rollout", action, "--target", target, "--model", "tiny"]
    command += ["--model_config_file", str(path), "--set", "rollout.min_rows=5"]
    command += ["--set", "rollout.freeze_after_hours=0", *flags]
    code = main(parse(command))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_in_a_freeze_only_a_roll_back_moves_labels(path, capsys):
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 600))
    promotion = (
        f"{{name='now', kind='own', warmup_start='2020-01-01', pre_promotion_start='2020-01-01', "
        f"promotion_start='{start}', promotion_end='2200-01-01'}}"
    )
    flags = ["--set", "calendar.timezone=UTC", "--set", f"calendar.promotions=[{promotion}]"]
    flags += ["--set", "rollout.freeze_after_hours=2"]
    code, _, error = run(capsys, path, "canary", "127.0.0.1:1", "--version", "2", *flags)
    assert code == 8 and "frozen for now until" in error and "--force" in error
    assert not audit_path(path).exists()
    forced = ("--version", "2", "--force", "--by", "ann", "--reason", "prices are wrong")
    with serving(path, count=1) as (server,):
        assert run(capsys, path, "canary", server.target, *forced, *flags)[0] == 0
        assert run(capsys, path, "rollback", server.target, *flags)[0] == 0
    assert [e["reason"] for e in entries(path)] == ["prices are wrong"] * 2 + [""] * 2


def test_a_whole_rollout(path, capsys, monkeypatch):
    monkeypatch.setenv("LOGNAME", "carol")
    with serving(path, count=1) as (server,):
        target = server.target
        assert run(capsys, path, "canary", target, "--version", "2")[:2] == (
            0,
            "stable = 1, canary = 2; loaded: 1, 2\n",
        )
        code, out, _ = run(capsys, path, "status", target)
        assert code == 0
        assert f"{path}: canary = 2, stable = 1; loaded: 1, 2\n" in out
        states = re.search(rf"{target}: (.*)", out)
        assert states is not None
        assert sorted(states[1].split(", ")) == ["1 AVAILABLE", "2 AVAILABLE"]
        code, out, _ = run(capsys, path, "promote", target, "--by", "ann")
        assert code == 0
        assert "requests 1, scores 10: mean" in out
        assert "stable = 2, previous = 1; loaded: 1, 2" in out
        assert run(capsys, path, "rollback", target, "--reason", "complaints")[0] == 0
        assert answered(target, "stable") == 1
    logged = [entry for entry in entries(path) if entry["result"] == "done"]
    assert [(e["action"], e["by"], e["reason"]) for e in logged] == [
        ("canary", "carol", ""),
        ("promote", "ann", ""),
        ("rollback", "carol", "complaints"),
    ]


def test_a_refused_promotion_has_an_exit_code(path, capsys):
    output = ["--set", "rollout.output=cart_effect"]
    with serving(path, count=1) as (server,):
        run(capsys, path, "canary", server.target, "--version", "2")
        code, _, err = run(capsys, path, "promote", server.target, *output)
        assert code == 6
        assert "version 2 is not promoted" in err
        force = ["--force", "--by", "ann", "--reason", "meant to change"]
        assert run(capsys, path, "promote", server.target, *output, *force)[0] == 0
        assert answered(server.target, "stable") == 2


def test_a_version_that_was_changed_is_no_canary(path, base, tmp_path, capsys):
    here = tmp_path / "here"
    shutil.copytree(base, here)
    (here / "2" / "more").touch()
    flags = ["--version", "2", "--model_base_path", str(here)]
    for action in ("canary", "rollback"):
        code, _, err = run(capsys, path, action, "127.0.0.1:1", *flags)
        assert code == 6
        assert "version 2 should not be served" in err and "more: not in the manifest" in err
    assert not audit_path(path).exists()


def test_where_the_servers_have_the_versions_elsewhere(path, base, tmp_path, capsys, caplog):
    there = tmp_path / "there"
    shutil.copytree(base, there)
    write_config(path, there, {"stable": 1}, 1)
    with serving(path, count=1) as (server,):
        assert run(capsys, path, "canary", server.target, "--version", "2")[0] == 0
        there.rename(tmp_path / "here")  # loaded versions need their folder no more
        with caplog.at_level("WARNING", logger="absl"):
            assert run(capsys, path, "canary", "127.0.0.1:1", "--version", "2")[0] == 6
        assert f"version 2 are not checked: {there / '2'} is not on this machine" in caplog.text
        code, _, err = run(capsys, path, "promote", server.target)
        assert (code, "with --replay, or --model_base_path" in err) == (2, True)
        flags = ["--model_base_path", str(tmp_path / "here")]
        assert run(capsys, path, "promote", server.target, *flags)[0] == 0


def test_over_mutual_tls(path, capsys, tmp_path):
    authority = Authority("cmdcm test")
    signed, client = authority.issue("localhost"), authority.issue("operator")
    config = SSLConfig(
        server_key=signed.key,
        server_cert=signed.certificate,
        custom_ca=authority.certificate,
        client_verify=True,
    )
    texts = {
        "ssl": text_format.MessageToString(config),
        "tls_ca": authority.certificate,
        "tls_key": client.key,
        "tls_certificate": client.certificate,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    flags = [f"--{name}={tmp_path / name}" for name in texts if name != "ssl"]
    flags.append("--tls_server_name=localhost")
    with serving(path, count=1, ssl_config_file=str(tmp_path / "ssl")) as (server,):
        assert run(capsys, path, "status", server.target, *flags)[0] == 0
        code, _, err = run(capsys, path, "status", server.target)
        assert (code, "UNAVAILABLE" in err) == (6, True)


def test_status_tells_what_differs(path, base, capsys):
    with serving(path, count=1) as (server,):
        write_config(path, base, {"stable": 2}, 2)
        code, out, err = run(capsys, path, "status", server.target)
        assert code == 6
        assert "1 AVAILABLE" in out
        assert "answers 'stable' with version 1" in err
        code, _, err = run(capsys, path, "status", "127.0.0.1:1")
        assert code == 6
        assert "GetModelMetadata at 127.0.0.1:1 failed: UNAVAILABLE" in err


@pytest.mark.parametrize(
    ("action", "flags", "message"),
    [
        ("canary", [], "set --version"),
        ("promote", ["--version", "2"], "--version does not go with promote"),
        ("promote", ["--force"], "--force needs --reason and --by"),
        ("promote", ["--force", "--by", "ann"], "--force needs --reason and --by"),
        ("promote", ["--force", "--reason", "x"], "--force needs --reason and --by"),
    ],
)
def test_flags_that_do_not_go_together(path, capsys, action, flags, message):
    code, _, err = run(capsys, path, action, "127.0.0.1:1", *flags)
    assert (code, message in err) == (2, True)


def test_without_a_model_config_file(capsys):
    code = main(parse(["cmdcm", "rollout", "status", "--target", "127.0.0.1:1"]))
    assert code == 2
    assert "set --model_config_file" in capsys.readouterr().err
