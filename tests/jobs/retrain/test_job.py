"""The job's flow with fake steps: what runs, what is found again, what is decided, what stays."""

import json
from pathlib import Path

import pytest

from cmdcm.core.errors import ConfigError, DataError, ExportError, RetrainError, ServingError
from cmdcm.features.custom import custom_features
from cmdcm.jobs.retrain.dry_run import describe
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.retrain.served import serving_model
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.tests.jobs.retrain.worlds import (
    ALL,
    AS_OF,
    PROMOTION,
    Clock,
    FakeSteps,
    config_of,
    down,
)

REQUEST = Request(PROMOTION, AS_OF, by="ann")


@pytest.fixture
def fakes(monkeypatch) -> FakeSteps:
    return FakeSteps().install(monkeypatch)


@pytest.fixture
def config(tmp_path):
    return config_of(tmp_path)


def serves(config):
    model = serving_model(config, Path(config.retrain.work))
    return model and model["identity"]


def audit(config) -> list[dict]:
    lines = audit_path(Path(config.retrain.work) / "retrain").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_first_run_does_all_steps_and_the_same_again_does_none(fakes, config):
    decision = retrain(config, REQUEST, Clock())
    assert (decision.outcome, decision.exit_code, decision.version) == ("published", 0, 1)
    assert fakes.ran == ALL and serves(config) == "model-1"
    again = retrain(config, REQUEST, Clock())
    assert fakes.ran == ALL and again.reused and again.record == decision.record
    page = (decision.folder / "decision.html").read_text()
    assert "version 1 is published" in page and PROMOTION in page


def test_what_has_no_page_yet_is_not_decided(fakes, config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cmdcm.jobs.retrain.page.page", lambda record: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            retrain(config, REQUEST, Clock())
    decision = retrain(config, REQUEST, Clock())
    assert (decision.folder / "decision.html").exists()
    assert decision.outcome == "published" and not decision.reused


def test_a_log_of_requests_that_is_not_there_is_named(fakes, config):
    settings = config.retrain.model_copy(update={"replay": ("logs/tuesday.tfrecord",)})
    decision = retrain(config.model_copy(update={"retrain": settings}), REQUEST, Clock())
    assert decision.outcome == "failed" and not serves(config)
    assert "retrain.replay: logs/tuesday.tfrecord is no file" in decision.reason


def test_nothing_new_known_changes_nothing(fakes, config):
    retrain(config, REQUEST, Clock())
    fakes.ran.clear()
    decision = retrain(config, Request(PROMOTION, "2024-06-11"), Clock())
    assert decision.outcome == "unchanged" and decision.exit_code == 0
    assert fakes.ran == ["snapshot", "check", "features"]  # nothing is trained
    assert serves(config) == "model-1"


def test_new_examples_start_from_the_serving_model_and_equal_ones_from_where_it_started(
    fakes, config
):
    bases = []
    fakes.hooks["train"] = lambda context, output: bases.append(context.base)
    retrain(config, REQUEST, Clock())
    fakes.model, fakes.features = "model-2", "features-2"
    retrain(config, Request(PROMOTION, "2024-06-11"), Clock())
    assert bases == [None, {"model": "trained", "identity": "model-1"}]
    decision = retrain(config, Request(PROMOTION, "2024-06-12"), Clock())
    assert decision.outcome == "unchanged" and len(bases) == 2


def test_a_refused_model_is_kept_with_the_reason_and_never_published(fakes, config):
    fakes.accepted = False
    decision = retrain(config, REQUEST, Clock())
    assert decision.outcome == "refused" and decision.exit_code == ExportError.exit_code
    assert "pcoc conversion is 2" in decision.reason
    assert fakes.ran == ALL[: ALL.index("gate") + 1] and serves(config) is None
    assert (decision.folder / "decision.json").exists()
    assert [e["result"] for e in audit(config) if e["action"] == "gate"] == ["refused"]
    retrain(config, REQUEST, Clock())
    assert fakes.ran == ALL[: ALL.index("gate") + 1]


def test_an_override_publishes_by_name_and_reason(fakes, config):
    fakes.accepted = False
    retrain(config, REQUEST, Clock())
    fakes.ran.clear()
    signed = Request(PROMOTION, AS_OF, by="ann", override="labels changed on purpose")
    decision = retrain(config, signed, Clock())
    assert decision.outcome == "published"
    assert fakes.ran == ALL[ALL.index("export") :]
    entry = next(e for e in audit(config) if e.get("result") == "overridden")
    assert (entry["by"], entry["reason"]) == ("ann", "labels changed on purpose")
    assert entry["reasons"] == ["pcoc conversion is 2"]
    with pytest.raises(ConfigError, match="--by"):
        retrain(config, Request(PROMOTION, AS_OF, by="", override="x"), Clock())


def test_a_failed_step_leaves_the_serving_model_and_is_tried_again(fakes, config):
    retrain(config, REQUEST, Clock())
    fakes.model, fakes.features = "model-2", "features-2"
    fakes.hooks["canary"] = down
    later = Request(PROMOTION, "2024-06-11")
    decision = retrain(config, later, Clock())
    assert decision.outcome == "failed" and decision.exit_code == ServingError.exit_code
    assert "step canary failed: 127.0.0.1:1 cannot be reached" in decision.reason
    assert serves(config) == "model-1"
    del fakes.hooks["canary"]
    fakes.ran.clear()
    assert retrain(config, later, Clock()).outcome == "published"
    assert fakes.ran == ["canary", "promote"] and serves(config) == "model-2"


def test_bad_data_are_a_decision_with_its_cause(fakes, config):
    def bad(context, output):
        raise DataError("2024-06-09 has no purchases")

    fakes.hooks["check"] = bad
    decision = retrain(config, REQUEST, Clock())
    assert (decision.outcome, decision.exit_code) == ("failed", DataError.exit_code)
    assert "2024-06-09 has no purchases" in (decision.folder / "decision.html").read_text()


@pytest.mark.parametrize("step", ["features", "train", "export", "register", "promote"])
def test_a_killed_job_goes_on_where_it_was(fakes, config, step):
    class Killed(BaseException):
        pass

    def kill(context, output):
        raise Killed

    fakes.hooks[step] = kill
    with pytest.raises(Killed):
        retrain(config, REQUEST, Clock())
    del fakes.hooks[step]
    fakes.ran.clear()
    assert retrain(config, REQUEST, Clock()).outcome == "published"
    # What was a canary when the job was killed may have been taken away since.
    assert fakes.ran == ALL[ALL.index("canary" if step == "promote" else step) :]


def test_a_job_killed_after_it_promoted_decides_as_if_it_had_not_been(fakes, config, monkeypatch):
    retrain(config, REQUEST, Clock())
    fakes.model, fakes.features = "model-2", "features-2"
    later = Request(PROMOTION, "2024-06-11")
    with monkeypatch.context() as patch:
        patch.setattr("cmdcm.jobs.retrain.job._Job._decide", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            retrain(config, later, Clock())
    assert serves(config) == "model-2"
    fakes.ran.clear()
    decision = retrain(config, later, Clock())
    assert decision.outcome == "published" and fakes.ran == []
    assert decision.record["serving"] == "model-1"


def test_two_jobs_of_one_promotion_do_not_run_at_once(fakes, config):
    told = []

    def second(context, output):
        with pytest.raises(RetrainError, match="has been at it since") as error:
            retrain(config, Request(PROMOTION, "2024-06-11"), Clock())
        told.append(error)

    fakes.hooks["train"] = second
    assert retrain(config, REQUEST, Clock()).outcome == "published"
    assert len(told) == 1


def test_a_late_job_stops_and_the_serving_model_stays(fakes, tmp_path):
    config, clock = config_of(tmp_path, deadline_hours=2.0), Clock()

    def slow(context, output):
        clock.now += 3 * 3600

    fakes.hooks["train"] = slow
    decision = retrain(config, REQUEST, clock)
    assert (decision.outcome, decision.exit_code) == ("late", RetrainError.exit_code)
    assert "after 2 hours" in decision.reason and fakes.ran[-1] == "train"
    assert serves(config) is None
    # A new run has its own deadline and finds the model trained.
    assert retrain(config, REQUEST, clock).outcome == "published"


def test_in_the_freeze_nothing_is_published(fakes, config):
    # The promotion starts on 2024-06-20 in Shanghai: 16:00 UTC of the day before.
    request = Request(PROMOTION, "2024-06-20T01:00")
    decision = retrain(config, request, Clock("2024-06-19T17:00"))
    assert (decision.outcome, decision.exit_code) == ("frozen", RetrainError.exit_code)
    assert fakes.ran[-1] == "gate" and "only a roll-back" in decision.reason
    assert retrain(config, request, Clock("2024-06-19T22:00")).outcome == "published"


def test_a_run_that_lost_its_lock_promotes_nothing(fakes, config):
    clock = Clock()

    def expire(context, output):
        clock.now += 13 * 3600
        path = context.work / "locks" / f"{PROMOTION}.json"
        path.write_text(path.read_text().replace('"token": "', '"token": "other'))

    fakes.hooks["canary"] = expire
    decision = retrain(config, REQUEST, clock)
    assert decision.outcome == "late" and serves(config) is None


def test_until_stops_and_a_later_run_goes_on(fakes, config):
    decision = retrain(config, Request(PROMOTION, AS_OF, until="gate"), Clock())
    assert decision.outcome == "stopped" and fakes.ran[-1] == "gate"
    fakes.ran.clear()
    assert retrain(config, REQUEST, Clock()).outcome == "published"
    assert fakes.ran[0] == "export"
    with pytest.raises(ConfigError, match="no such step"):
        retrain(config, Request(PROMOTION, AS_OF, until="bake"), Clock())


def test_a_promotion_that_is_over_or_unknown_is_refused(fakes, config):
    with pytest.raises(ConfigError, match="is over"):
        retrain(config, Request(PROMOTION, "2024-06-21"), Clock())
    with pytest.raises(ConfigError, match="unknown promotion"):
        retrain(config, Request("c-2024", AS_OF), Clock())


def test_settings_decide_which_steps_are_done_again(fakes, config):
    retrain(config, REQUEST, Clock())
    fakes.ran.clear()
    training = config.training.model_copy(update={"epochs": 7})
    retrain(config.model_copy(update={"training": training}), REQUEST, Clock())
    assert fakes.ran[0] == "train" and "features" not in fakes.ran
    fakes.ran.clear()
    memory = config.features.model_copy(update={"memory_gib": 9.0})
    retrain(config.model_copy(update={"features": memory}), REQUEST, Clock())
    assert "features" not in fakes.ran and "train" not in fakes.ran


def test_another_shape_of_the_tables_trains_again(fakes, config):
    retrain(config, REQUEST, Clock())
    fakes.ran.clear()
    tables = config.tables.model_copy(update={"hashes": {"item": 2}})
    retrain(config.model_copy(update={"tables": tables}), REQUEST, Clock())
    assert fakes.ran[0] == "train"


def test_other_code_of_one_s_own_features_makes_examples_again(
    fakes, config, tmp_path, monkeypatch
):
    module = tmp_path / "features_of_ours.py"
    module.write_text("WEEK = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    features = config.features.model_copy(update={"modules": ("features_of_ours",)})
    config = config.model_copy(update={"features": features})
    retrain(config, REQUEST, Clock())
    retrain(config, Request(PROMOTION, "2024-06-11"), Clock())
    assert fakes.ran.count("train") == 1
    module.write_text("WEEK = 8\n")
    fakes.ran.clear()
    retrain(config, Request(PROMOTION, "2024-06-12"), Clock())
    assert "features" in fakes.ran


def test_what_was_refused_is_judged_again_the_same_day_once_the_cause_is_mended(
    fakes, tmp_path, monkeypatch
):
    log, module = tmp_path / "requests.tfrecord", tmp_path / "features_mended.py"
    log.write_bytes(b"requests")
    module.write_text("WEEK = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = config_of(tmp_path, replay=(str(log),))
    features = config.features.model_copy(update={"modules": ("features_mended",)})
    config = config.model_copy(update={"features": features})

    def first_of(config):
        fakes.ran.clear()
        decision = retrain(config, REQUEST, Clock())
        assert decision.outcome == "refused"
        assert decision.reused is not bool(fakes.ran)
        return fakes.ran[0] if fakes.ran else "reused"

    fakes.accepted = False
    assert first_of(config) == "snapshot"
    assert first_of(config) == "reused"
    module.write_text("WEEK = 8\n")
    assert first_of(config) == "features"
    log.write_bytes(b"better requests")
    assert first_of(config) == "validate"
    cold = config.retrain.model_copy(update={"warm_start": False})
    assert first_of(config.model_copy(update={"retrain": cold})) == "check"
    later = cold.model_copy(update={"deadline_hours": 7.0})
    assert first_of(config.model_copy(update={"retrain": later})) == "reused"


def test_a_module_in_a_package_that_is_not_there_is_a_decision(fakes, config):
    fakes.hooks["features"] = lambda c, _: custom_features(c.config.features.modules)
    features = config.features.model_copy(update={"modules": ("no_such_package.features",)})
    decision = retrain(config.model_copy(update={"features": features}), REQUEST, Clock())
    assert (decision.outcome, decision.exit_code) == ("failed", ConfigError.exit_code)
    assert "features.modules: cannot import 'no_such_package.features'" in decision.reason


def test_logged_requests_are_not_read_to_find_that_nothing_changed(fakes, tmp_path, monkeypatch):
    log = tmp_path / "requests.tfrecord"
    log.write_bytes(b"requests")
    config = config_of(tmp_path, replay=(str(log),))
    retrain(config, REQUEST, Clock())
    monkeypatch.setattr("cmdcm.jobs.retrain.plan.sha256", lambda _: 1 / 0)
    plan = "\n".join(describe(config, PROMOTION, AS_OF))
    assert "validate    done" in plan
    log.write_bytes(b"more requests")
    plan = "\n".join(describe(config, PROMOTION, AS_OF))
    assert "validate    to do" in plan


def test_a_model_that_is_to_start_from_one_base_is_refused(fakes, config):
    model = config.model.model_copy(update={"name": "hdr"})
    with pytest.raises(ConfigError, match="adapts a base that stands still"):
        retrain(config.model_copy(update={"model": model}), REQUEST, Clock())
    assert fakes.ran == []


def test_the_dry_run_tells_sizes_and_times_and_writes_nothing(fakes, config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    lines = "\n".join(describe(config, PROMOTION, AS_OF))
    assert sorted(tmp_path.rglob("*")) == before
    assert "1 files, 1 events" in lines and "not known" in lines
    assert "labels     known: a-2024; not yet: none" in lines
    retrain(config, REQUEST, Clock())
    lines = "\n".join(describe(config, PROMOTION, AS_OF))
    assert "snapshot    done" in lines and "version 1 of b-2024" in lines
