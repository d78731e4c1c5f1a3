"""Roll-outs on running servers: canary, promote, roll back, and all that goes wrong on the way."""

import contextlib

import pytest
from google.protobuf import text_format

from cmdcm.core.config import RolloutConfig
from cmdcm.core.errors import ConfigError, DataError, ServingError
from cmdcm.jobs.rollout.config_file import ModelConfigFile, Placement, placement_of
from cmdcm.jobs.rollout.lock import rollout_lock
from cmdcm.jobs.rollout.rollout import Author, Rollout
from cmdcm.jobs.rollout.server import Server, addresses
from cmdcm.serving.channels import ClientTls
from cmdcm.serving.config_protos import SSLConfig
from cmdcm.tests.jobs.rollout.world import Traffic, answered, entries, serving, write_config
from cmdcm.tests.serving import models
from cmdcm.tests.serving.certificates import Authority

SETTINGS = RolloutConfig(min_rows=5, poll_seconds=0.02, load_timeout_seconds=20)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Versions 1 to 3 of the tiny model, and a version 4 that is damaged."""
    path = tmp_path_factory.mktemp("rollout") / "base"
    for version in (1, 2, 3, 4):
        models.write_tiny_model(path / str(version), version)
    graph = path / "4" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-1])
    return path


@pytest.fixture
def path(base, tmp_path):
    return write_config(tmp_path / "config" / "models.config", base, {"stable": 1}, 1)


@contextlib.contextmanager
def rollout_of(path, servers, settings=SETTINGS, **author):
    targets = [getattr(server, "target", server) for server in servers]
    with contextlib.ExitStack() as stack:
        yield Rollout(
            ModelConfigFile(path, "tiny"),
            [stack.enter_context(Server(target, "tiny")) for target in targets],
            settings,
            Author(**{"by": "ann", **author}),
        )


def placement(path) -> Placement:
    return placement_of(ModelConfigFile(path, "tiny").entry())


def test_a_version_is_tried_promoted_and_rolled_back_while_traffic_flows(path):
    with serving(path) as servers, rollout_of(path, servers) as rollout:
        targets = [server.target for server in servers]
        with Traffic(targets) as traffic:
            rollout.canary(2)
            assert [answered(t, "canary") for t in targets] == [2, 2]
            assert [answered(t, "stable") for t in targets] == [1, 1]
            placed, shift = rollout.promote()
            assert placed == Placement(frozenset({1, 2}), {"stable": 2, "previous": 1})
            assert (shift.requests, shift.rows, shift.psi) == (1, 10, 0.0)
            assert [answered(t, "stable") for t in targets] == [2, 2]
            assert [answered(t, "previous") for t in targets] == [1, 1]
            rollout.rollback()
            assert [answered(t, "stable") for t in targets] == [1, 1]
        assert traffic.failures == []
        assert traffic.calls > 20
        assert traffic.versions == {1, 2}
        assert placement(path) == Placement(frozenset({1}), {"stable": 1})
        assert [answered(t, None) for t in targets] == [1, 1]
    with serving(path, count=1) as (restarted,):
        assert answered(restarted.target, "stable") == 1
        assert answered(restarted.target, "live", "other") == 1


def test_the_audit_log_tells_who_did_what(path):
    with serving(path, count=1) as servers:
        with rollout_of(path, servers, reason="new features") as rollout:
            rollout.canary(2)
        with rollout_of(path, servers, by="bob") as rollout:
            rollout.promote()
    started, done, *promotion = entries(path)
    assert started["result"] == "started"
    assert done == {**started, "time": done["time"], "result": "done"}
    assert (done["action"], done["by"], done["reason"]) == ("canary", "ann", "new features")
    assert (done["model"], done["targets"]) == ("tiny", [servers[0].target])
    assert done["from"] == {"versions": [1], "labels": {"stable": 1}}
    assert done["to"] == {"versions": [1, 2], "labels": {"canary": 2, "stable": 1}}
    assert [entry["result"] for entry in promotion] == ["started", "done"]
    assert promotion[1]["by"] == "bob"
    assert promotion[1]["shift"]["rows"] == 10


def test_a_canary_can_be_taken_away_and_another_version_be_returned_to(path):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        rollout.canary(2)
        assert rollout.rollback() == Placement(frozenset({1}), {"stable": 1})
        with pytest.raises(ServingError, match=r"neither a canary nor a previous.*--version"):
            rollout.rollback()
        assert rollout.rollback(3) == Placement(frozenset({3}), {"stable": 3})
        assert answered(servers[0].target, "stable") == 3
        assert rollout.faults() == []


def test_a_new_canary_ends_the_way_back(path):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        rollout.canary(2)
        rollout.promote()
        rollout.canary(3)
        assert placement(path) == Placement(frozenset({2, 3}), {"stable": 2, "canary": 3})
        assert rollout.servers[0].labelled("previous") is None


def test_a_version_that_cannot_be_loaded_changes_nothing(path):
    before = path.read_bytes()
    with serving(path) as servers, rollout_of(path, servers) as rollout:
        refused = pytest.raises(ServingError, match=r"cannot load version 4.*SHA-256 differs")
        with Traffic([server.target for server in servers]) as traffic, refused:
            rollout.canary(4)
        assert traffic.failures == []
        assert traffic.versions == {1}
        assert path.read_bytes() == before
        assert rollout.faults() == []
        assert rollout.servers[0].labelled("canary") is None
        assert entries(path)[-1]["result"] == "failed"
        assert "cannot load version 4" in entries(path)[-1]["detail"]
        rollout.canary(2)


def test_a_version_that_is_not_there_is_waited_for_and_then_given_up(path):
    settings = SETTINGS.model_copy(update={"load_timeout_seconds": 0.2})
    with serving(path, count=1) as servers, rollout_of(path, servers, settings) as rollout:
        with pytest.raises(ServingError, match=r"version 9 after 0.2 s.*not found there"):
            rollout.canary(9)
        assert placement(path) == Placement(frozenset({1}), {"stable": 1})


@pytest.mark.parametrize("fault", [ServingError("the second is down"), KeyboardInterrupt()])
def test_servers_that_were_moved_go_back_when_a_later_one_fails(path, monkeypatch, fault):
    before = path.read_bytes()
    with serving(path) as servers, rollout_of(path, servers) as rollout:
        reload = Server.reload

        def fail_at_labels(server, config):
            labels = config.model_config_list.config[0].version_labels
            if server is rollout.servers[1] and "canary" in labels:
                raise fault
            reload(server, config)

        monkeypatch.setattr(Server, "reload", fail_at_labels)
        with pytest.raises(type(fault)):
            rollout.canary(2)
        assert path.read_bytes() == before
        assert [server.labelled("canary") for server in rollout.servers] == [None, None]
        assert [server.labelled("stable") for server in rollout.servers] == [1, 1]
        assert entries(path)[-1]["result"] == "failed"


def test_a_canary_whose_scores_are_too_far_away_is_not_promoted(path):
    settings = SETTINGS.model_copy(update={"output": "cart_effect"})  # answers the version
    with (
        serving(path, count=1) as servers,
        rollout_of(path, servers, settings, reason="meant to change") as rollout,
    ):
        rollout.canary(2)
        with pytest.raises(ServingError, match=r"version 2 is not promoted.*max_mean_shift"):
            rollout.promote()
        assert placement(path).labels == {"stable": 1, "canary": 2}
        assert answered(servers[0].target, "stable") == 1
        refused = entries(path)[-1]
        assert refused["result"] == "refused"
        assert refused["shift"]["mean_shift"] == 1.0
        rollout.promote(force=True)
        assert answered(servers[0].target, "stable") == 2
        forced = entries(path)[-1]
        assert (forced["result"], forced["reason"]) == ("done", "meant to change")
        assert len(forced["forced"]) == 2


def test_too_few_scores_are_no_comparison(path):
    settings = SETTINGS.model_copy(update={"min_rows": 11})
    with serving(path, count=1) as servers, rollout_of(path, servers, settings) as rollout:
        rollout.canary(2)
        with pytest.raises(ServingError, match=r"10 scores are too few.*--replay"):
            rollout.promote()
        request = {**models.user_arrays(), **models.candidate_arrays(20)}
        dearer = request | {"price": request["price"] + 1}
        (path.parent / "log").mkdir()
        made = [("score_candidates", inputs) for inputs in (request, dearer, request)]
        models.write_warmup(path.parent / "log", made)  # the third is the first once more
        warm_up = path.parent / "log" / "assets.extra" / "tf_serving_warmup_requests"
        assert rollout.promote([warm_up])[1].rows == 40


def test_replays_that_cannot_be(path, tmp_path):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        with pytest.raises(ServingError, match="has no canary of 'tiny'"):
            rollout.promote()
        rollout.canary(2)
        (tmp_path / "no.tfrecord").write_bytes(b"no records at all")
        with pytest.raises(DataError, match=r"no\.tfrecord"):
            rollout.promote([tmp_path / "no.tfrecord"])
        config = rollout.file.read()
        config.model_config_list.config[0].base_path = "/elsewhere"
        rollout.file.write(config)
        with pytest.raises(ConfigError, match=r"no warm-up requests at /elsewhere/2.*--replay"):
            rollout.promote()


def test_a_rollout_that_was_killed_is_done_again(path, base):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        # As if killed after the file of the first step was written, before the server was told.
        write_config(path, base, {"stable": 1}, 1, 2)
        rollout.canary(2)
        assert answered(servers[0].target, "canary") == 2


def test_the_way_back_does_not_wait_for_a_version_that_is_broken(path, base):
    write_config(path, base, {"stable": 1, "canary": 4}, 1, 4)
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        assert rollout.servers[0].labelled("canary") is None
        assert rollout.rollback() == Placement(frozenset({1}), {"stable": 1})
        assert rollout.faults() == []


def test_one_rollout_at_a_time(path):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        with rollout_lock(path), pytest.raises(ServingError, match="another roll-out"):
            rollout.canary(2)
        rollout.canary(2)


def test_a_server_that_is_behind_is_not_rolled_out_on(path, base):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        write_config(path, base, {"stable": 2}, 2)
        message = r"answers 'stable' with version 1, and .* says 2.*Restart"
        with pytest.raises(ServingError, match=message):
            rollout.canary(3)
        assert answered(servers[0].target, "stable") == 1


def test_the_way_back_does_not_wait_for_a_server_that_is_down(path):
    with serving(path) as servers:
        targets = [server.target for server in servers]
        with rollout_of(path, targets) as rollout:
            rollout.canary(2)
            rollout.promote()
            servers[0].stop(0)
            with pytest.raises(ServingError, match=rf"not everywhere: .*{targets[0]}"):
                rollout.rollback()
            assert answered(targets[1], "stable") == 1
            assert placement(path) == Placement(frozenset({1}), {"stable": 1})
            assert rollout.servers[1].available() == [1]


def test_without_labels_the_newest_version_is_the_stable_one(base, tmp_path):
    path = write_config(tmp_path / "models.config", base, {}, 1)
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        assert rollout.canary(2).labels == {"stable": 1, "canary": 2}
        assert answered(servers[0].target, "stable") == 1


def test_the_stable_version_is_no_canary(path):
    refused = pytest.raises(ServingError, match="version 1 is the stable one already")
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout, refused:
        rollout.canary(1)


def test_unlabelled_requests_are_warned_of(path, caplog):
    with serving(path, count=1) as servers, rollout_of(path, servers) as rollout:
        with caplog.at_level("WARNING", logger="absl"):
            rollout.canary(2)
        assert "no version and no label go to the newest version, which will be 2" in caplog.text
        assert answered(servers[0].target, None) == 2


def test_a_model_that_the_file_does_not_list(path):
    with pytest.raises(ConfigError, match=r"'missing'; it has \['tiny', 'other'\]"):
        ModelConfigFile(path, "missing")


def test_over_mutual_tls(path, tmp_path):
    authority = Authority("cmdcm test")
    signed, client = authority.issue("localhost"), authority.issue("operator")
    config = SSLConfig(
        server_key=signed.key,
        server_cert=signed.certificate,
        custom_ca=authority.certificate,
        client_verify=True,
    )
    (tmp_path / "ssl.config").write_text(text_format.MessageToString(config))
    tls = ClientTls(authority.certificate, client.key, client.certificate, "localhost")
    with (
        serving(path, count=1, ssl_config_file=str(tmp_path / "ssl.config")) as (running,),
        Server(running.target, "tiny", tls=tls) as server,
    ):
        Rollout(ModelConfigFile(path, "tiny"), [server], SETTINGS, Author("ann")).canary(2)
        assert server.labelled("canary") == 2


@pytest.mark.parametrize("target", ["localhost", "host:port", ":8500", "dns:///host"])
def test_targets_that_are_none(target):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        addresses([target])


def test_a_name_stands_for_all_of_its_addresses(monkeypatch):
    infos = [(2, 1, 6, "", ("10.0.0.1", 8500)), (10, 1, 6, "", ("fd00::1", 8500, 0, 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [*infos, infos[0]])
    assert addresses(["dns:///cmdcm:8500", "a:1"]) == ["10.0.0.1:8500", "[fd00::1]:8500", "a:1"]
