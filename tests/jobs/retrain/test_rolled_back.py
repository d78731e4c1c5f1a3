"""Roll-outs that people or the freeze end: the real moves of labels, in a file without servers."""

import contextlib
import json
from pathlib import Path

import pytest

from cmdcm.core.config import Config, RolloutConfig
from cmdcm.core.errors import DataError, ExportError, RetrainError
from cmdcm.jobs.retrain import step_canary, step_promote
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.retrain.served import lineage_path
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.jobs.rollout.config_file import ModelConfigFile, placement_of
from cmdcm.jobs.rollout.rollout import Author, Rollout
from cmdcm.jobs.rollout.shift import Shift
from cmdcm.tests.jobs.retrain.worlds import AS_OF, PROMOTION, Clock, FakeSteps, config_of
from cmdcm.tests.jobs.rollout.world import write_config

SAME = Shift(1, 100, 0.1, 0.1, 0.0, 0.0, 0.0, 0)
FAR = Shift(1, 100, 0.1, 0.9, 8.0, 0.8, 5.0, 0)
TONIGHT = Request(PROMOTION, "2024-06-11", by="night")


class World:
    """Version 1 is stable, and tonight's model is another one.

    Attributes:
        config: Of the job with servers.
        fakes: Its steps; `canary` and `promote` move labels as the real ones do.
        shift: What promotions find between the scores of stable and canary.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fakes = FakeSteps().install(monkeypatch)
        first = config_of(folder)
        retrain(first, Request(PROMOTION, AS_OF, by="ann"), Clock())
        self.path = write_config(folder / "models.config", folder, {"stable": 1}, 1)
        self.config = with_servers(first, self.path)
        self.shift = SAME
        monkeypatch.setattr(Rollout, "_shift", lambda *_: self.shift)
        for module in (step_canary, step_promote):
            monkeypatch.setattr(module, "rollout", lambda context: self.moves(context.by))
        self.fakes.model, self.fakes.features = "model-2", "features-2"
        self.fakes.hooks = {"canary": step_canary.run, "promote": step_promote.run}
        self.fakes.ran.clear()

    @contextlib.contextmanager
    def moves(self, by: str):
        author = Author(by, "p99" if by == "ann" else "retraining")
        yield Rollout(ModelConfigFile(self.path, "tiny"), [], self.config.rollout, author)

    def roll(self, action: str, *args: int, by: str = "ann") -> None:
        with self.moves(by) as moves:
            getattr(moves, action)(*args)

    def labels(self) -> dict[str, int]:
        return dict(placement_of(ModelConfigFile(self.path, "tiny").entry()).labels)


def with_servers(config: Config, path: Path) -> Config:
    parts = {
        "retrain": config.retrain.model_copy(update={"targets": ("server:8500",)}),
        "serving": config.serving.model_copy(update={"model_config_file": str(path)}),
        "export": config.export.model_copy(update={"name": "tiny"}),
        "rollout": RolloutConfig(min_rows=1, registry=False),
    }
    return config.model_copy(update=parts)


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    return World(tmp_path, monkeypatch)


@pytest.mark.parametrize("request_again", [TONIGHT, Request(PROMOTION, "2024-06-12", by="night")])
def test_a_model_that_somebody_took_back_is_not_promoted_again(world, request_again):
    assert retrain(world.config, TONIGHT, Clock()).outcome == "promoted"
    assert retrain(world.config, TONIGHT, Clock()).reused
    world.roll("rollback")
    decision = retrain(world.config, request_again, Clock())
    assert (decision.outcome, decision.exit_code) == ("held", RetrainError.exit_code)
    assert decision.reason.startswith("version 2 was taken back by ann at ")
    assert ": p99. " in decision.reason and world.labels() == {"stable": 1}
    page = (decision.folder / "decision.html").read_text()
    assert "the serving model stays" in page and "taken back by ann" in page


def test_other_settings_of_the_roll_out_do_not_promote_it_again(world):
    retrain(world.config, TONIGHT, Clock())
    world.roll("rollback")
    looser = world.config.rollout.model_copy(update={"max_psi": 9.0})
    decision = retrain(world.config.model_copy(update={"rollout": looser}), TONIGHT, Clock())
    assert decision.outcome == "held" and world.labels() == {"stable": 1}


def test_another_model_is_promoted_after_a_roll_back(world):
    retrain(world.config, TONIGHT, Clock())
    world.roll("rollback")
    world.fakes.model, world.fakes.features = "model-3", "features-3"
    decision = retrain(world.config, Request(PROMOTION, "2024-06-12"), Clock())
    assert decision.outcome == "promoted"
    assert world.labels() == {"stable": 3, "previous": 1}


def test_who_took_it_back_may_bring_it_back(world):
    retrain(world.config, TONIGHT, Clock())
    world.roll("rollback")
    world.roll("canary", 2)
    world.roll("promote")
    world.roll("rollback", 1)
    assert retrain(world.config, TONIGHT, Clock()).outcome == "held"
    world.roll("rollback", 2)
    decision = retrain(world.config, Request(PROMOTION, "2024-06-12"), Clock())
    assert decision.outcome == "unchanged" and world.labels() == {"stable": 2}


def test_a_line_of_the_audit_log_that_was_cut_off_is_passed_over(world):
    retrain(world.config, TONIGHT, Clock())
    world.roll("rollback")
    log = audit_path(world.path)
    log.write_text(log.read_text() + '{"action": "can\n')
    assert retrain(world.config, TONIGHT, Clock()).outcome == "held"


def test_a_canary_that_is_refused_is_tried_anew_and_refused_for_the_same_reason(world):
    world.shift = FAR
    for _ in range(2):
        world.fakes.ran.clear()
        decision = retrain(world.config, TONIGHT, Clock())
        assert (decision.outcome, decision.exit_code) == ("failed", ExportError.exit_code)
        assert "psi" in decision.reason and world.labels() == {"stable": 1}
        assert world.fakes.ran[-2:] == ["canary", "promote"]
    # The page of the first try is kept beside that of the second.
    assert "psi" in (decision.folder / "decision-1.html").read_text()
    world.shift = SAME
    assert retrain(world.config, TONIGHT, Clock()).outcome == "promoted"
    assert world.labels() == {"stable": 2, "previous": 1}


@pytest.mark.parametrize(("step", "last"), [("export", "register"), ("canary", "promote")])
def test_a_freeze_that_begins_while_the_job_runs_leaves_labels_as_they_are(world, step, last):
    clock = Clock("2024-06-19T15:50")  # the promotion starts at 16:00 UTC
    before = world.fakes.hooks.get(step)

    def slow(context, output):
        if before:
            before(context, output)
        clock.now += 20 * 60

    world.fakes.hooks[step] = slow
    decision = retrain(world.config, Request(PROMOTION, "2024-06-19T23:00"), clock)
    assert (decision.outcome, decision.exit_code) == ("frozen", RetrainError.exit_code)
    assert "only a roll-back" in decision.reason
    assert world.fakes.ran[-1] == last and world.labels() == {"stable": 1}


def test_a_deadline_that_passes_while_the_canary_loads_takes_it_away(world):
    clock = Clock()

    def slow(context, output):
        said = step_canary.run(context, output)
        assert world.labels() == {"stable": 1, "canary": 2}
        clock.now += 3 * 3600
        return said

    world.fakes.hooks["canary"] = slow
    settings = world.config.retrain.model_copy(update={"deadline_hours": 2.0})
    decision = retrain(world.config.model_copy(update={"retrain": settings}), TONIGHT, clock)
    assert decision.outcome == "late" and world.labels() == {"stable": 1}


def test_a_replay_that_cannot_be_read_takes_the_canary_away(world, monkeypatch):
    def unreadable(*_):
        raise DataError("requests.tfrecord is cut off")

    monkeypatch.setattr(Rollout, "_shift", unreadable)
    decision = retrain(world.config, TONIGHT, Clock())
    assert (decision.outcome, decision.exit_code) == ("failed", DataError.exit_code)
    assert world.labels() == {"stable": 1}


def test_a_run_without_its_lock_leaves_the_canary_to_the_run_that_has_it(world):
    def expire(context, output):
        step_canary.run(context, output)
        path = context.work / "locks" / f"{PROMOTION}.json"
        path.write_text(path.read_text().replace('"token": "', '"token": "other'))

    world.fakes.hooks["canary"] = expire
    assert retrain(world.config, TONIGHT, Clock()).outcome == "late"
    assert world.labels() == {"stable": 1, "canary": 2}


def test_a_canary_that_somebody_took_away_meanwhile_does_not_bring_an_older_version_back(world):
    retrain(world.config, TONIGHT, Clock())
    world.fakes.model, world.fakes.features = "model-3", "features-3"

    def taken(context, output):
        step_canary.run(context, output)
        world.roll("rollback")

    world.fakes.hooks["canary"] = taken
    decision = retrain(world.config, Request(PROMOTION, "2024-06-12"), Clock())
    assert decision.outcome == "failed" and "has no canary" in decision.reason
    assert world.labels()["stable"] == 2


@pytest.mark.parametrize(("by", "labels"), [("night", {}), ("ann", {"canary": 2})])
def test_the_canary_of_a_killed_run_is_taken_away_in_the_freeze_and_a_persons_stays(
    world, by, labels
):
    class Killed(BaseException):
        pass

    def killed(context, output):
        world.roll("canary", 2, by=by)
        raise Killed

    world.fakes.hooks["canary"] = killed
    request = Request(PROMOTION, "2024-06-19T23:00", by="night")
    with pytest.raises(Killed):
        retrain(world.config, request, Clock("2024-06-19T15:50"))
    decision = retrain(world.config, request, Clock("2024-06-19T16:10"))
    assert decision.outcome == "frozen" and world.labels() == {"stable": 1, **labels}


def test_the_page_says_that_nobody_knows_the_serving_version(world):
    known = retrain(world.config, TONIGHT, Clock())
    assert "compared with no" not in (known.folder / "decision.html").read_text()
    lineage_path(Path(world.config.retrain.work), 2).unlink()  # as of one exported by hand
    decision = retrain(world.config, Request(PROMOTION, "2024-06-12"), Clock())
    page = (decision.folder / "decision.html").read_text()
    assert "No job of this directory made version 2" in page
    assert decision.record["serving_version"] == 2 and decision.record["serving"] is None


def test_the_audit_log_of_decisions_names_promotion_and_instant(world):
    decision = retrain(world.config, TONIGHT, Clock())
    log = audit_path(Path(world.config.retrain.work) / "retrain")
    entry = json.loads(log.read_text().splitlines()[-1])
    assert (entry["promotion"], entry["as_of"]) == (PROMOTION, decision.record["window"]["as_of"])
