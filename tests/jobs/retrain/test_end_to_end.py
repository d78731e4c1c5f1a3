"""The real job on the small world: first model, nothing new, and a second model on live servers."""

import json
from pathlib import Path
from typing import Any

import pytest

from cmdcm.core.config import Config, ServingConfig, load_config
from cmdcm.core.files import read_json, read_manifest
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.jobs.main import main, parse
from cmdcm.jobs.registry.registry import Registry
from cmdcm.jobs.retrain import job
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.retrain.plan import steps_of
from cmdcm.jobs.retrain.steps import Context, Done, Step, run_step
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.jobs.rollout.config_file import ModelConfigFile, Placement, placement_of
from cmdcm.model.trained import EXPORTED, seen_days
from cmdcm.serving.server import EmbeddedServer
from cmdcm.tests.conftest import SMALL
from cmdcm.tests.jobs.retrain.worlds import Clock
from cmdcm.tests.jobs.rollout.world import write_config
from cmdcm.tests.jobs.test_gate_command import LOOSE

pytestmark = pytest.mark.slow
PROMOTION = "double12-2024"
NOW = Clock("2024-12-01T00:00")
SETTINGS = (
    *SMALL,
    *LOOSE,
    "gate.max_psi=0",
    "gate.overall.max_log_loss_rise=0",
    "gate.overall.max_auc_drop=0",
    "gate.slices.max_log_loss_rise=0",
    "gate.slices.max_auc_drop=0",
    "training.epochs=1",
    "training.on_forgetting=warn",
    "training.max_forgetting=10",
    "export.check_rows=20",
    "rollout.max_psi=100",
    "rollout.max_mean_shift=100",
    "rollout.max_score_shift=1",
    "rollout.min_rows=1",
    "retrain.max_daily_ratio=1000",
    "retrain.max_price_ratio=1000",
)


def settings(folder: Path, events: Path, *more: str) -> list[str]:
    places = {"events": events, "work": folder / "work", "output": folder / "serving" / "tiny"}
    name = "export.name=tiny"
    store = f"tracking.uri=sqlite:///{folder}/mlflow.db"
    return [*SETTINGS, name, store, *(f"retrain.{n}={place}" for n, place in places.items()), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("retrain")


class Recording(Config):
    """Notes which of its sections the code asks for."""

    def __getattribute__(self, name: str) -> Any:
        if name in Config.model_fields:
            READ[-1].add(name)
        return super().__getattribute__(name)


READ: list[set[str]] = [set()]
READ_BY: dict[str, set[str]] = {}


def recorded(step: Step, context: Context, key: str) -> Done:
    """Runs a step and notes what it reads."""
    READ.append(set())
    try:
        return run_step(step, context, key)
    finally:
        READ_BY[step.name] = READ.pop()


@pytest.fixture(scope="module")
def first(small_world, folder):
    config = load_config(overrides=settings(folder, small_world.events))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run_step", recorded)
        recording = Recording.model_construct(**dict(config))
        decision = retrain(recording, Request(PROMOTION, "2024-12-01", by="ann"), NOW)
    return config, decision


def test_the_first_model_is_published_with_its_lineage(first, folder):
    _, decision = first
    assert decision.outcome == "published", decision.reason
    steps = decision.record["steps"]
    # Two counts of candidates, examples, and both signatures with a filter of outputs.
    assert steps["infra"]["summary"]["requests"] == 3  # each once, whatever outputs it asks for
    manifest = read_manifest(folder / "serving" / "tiny" / "1", "export")
    assert manifest["origin"]["model"] == steps["train"]["summary"]["digest"]
    lineage = read_json(folder / "work" / "versions" / "1.json", "lineage")
    assert lineage["as_of"] == "2024-11-30T16:00:00+00:00" and lineage["base"] is None
    assert set(manifest["seen_days"]) == seen_days(Path(lineage["model"]))
    assert seen_days(folder / "serving" / "tiny" / "1" / EXPORTED) == set(manifest["seen_days"])
    assert Config.load(Path(lineage["model"]) / "config.json").labels.observed_until
    # double11-2024 is the last promotion with known labels; double12-2024 makes no example.
    examples = read_manifest(Path(lineage["examples"]), "examples")
    assert "double11-2024" in examples["promotions"]
    assert PROMOTION not in examples["promotions"]
    assert all(step["peak_mib"] > 0 for step in steps.values())


def test_what_a_step_reads_is_in_its_key_or_in_that_of_what_it_needs(first):
    held: dict[str, set[str]] = {}
    for step in steps_of(first[0].model):
        held[step.name] = set(step.sections).union(*(held[name] for name in step.needs))
    # Where things are, how much is logged, and bounds of what a channel takes.
    elsewhere = {"retrain", "tracking", "serving"}
    found = {name: sorted(READ_BY[name] - held[name] - elsewhere) for name in held}
    # Of the gate's settings `plan.extra` names the one that `evaluate` reads: the slices' columns.
    assert {name: read for name, read in found.items() if read} == {"evaluate": ["gate"]}
    assert "tables" in READ_BY["train"]


def test_the_same_command_again_does_nothing(first, small_world, folder, capsys):
    line = ["cmdcm", "retrain", "--promotion", PROMOTION, "--as-of", "2024-12-01", "--by", "ann"]
    for setting in settings(folder, small_world.events):
        line += ["--set", setting]
    assert main(parse(line)) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 12 and "version 1 is published" in out
    assert main(parse([*line, "--dry-run"])) == 0
    assert "serving    version 1 of double12-2024" in capsys.readouterr().out


def test_a_night_later_no_new_label_is_known(first, folder):
    config, before = first
    decision = retrain(config, Request(PROMOTION, "2024-12-06"), Clock("2024-12-06T00:00"))
    assert decision.outcome == "unchanged", decision.reason
    steps = decision.record["steps"]
    assert not steps["snapshot"]["reused"] and steps["train"]["reused"]
    for step, same in (("snapshot", False), ("features", True), ("train", True)):
        digests = [d.record["steps"][step]["summary"]["digest"] for d in (decision, before)]
        assert (digests[0] == digests[1]) is same


def test_a_second_model_goes_through_canary_to_stable_on_running_servers(
    first, small_world, folder
):
    # The first version's warm-up requests stand for what a server logged.
    logged = folder / "serving" / "tiny" / "1" / WARMUP_FILE
    file = write_config(folder / "models.config", folder / "serving" / "tiny", {"stable": 1}, 1)
    serving = ServingConfig(
        port=0,
        rest_port=-1,
        poll_seconds=0.05,
        model_config_file=str(file),
        allow_version_labels_for_unavailable_models=True,
    )
    with EmbeddedServer(config=serving) as server:
        config = load_config(
            overrides=settings(
                folder,
                small_world.events,
                "seed=2",
                f"serving.model_config_file={file}",
                f'retrain.targets=["{server.target}"]',
                f'retrain.replay=["{logged}"]',
            )
        )
        decision = retrain(config, Request(PROMOTION, "2024-12-01", by="ann"), NOW)
        assert decision.outcome == "promoted", decision.reason
        validated = Path(decision.record["steps"]["validate"]["path"])
        assert read_json(validated / "validation.json", "it")["requests"]["files"] == 1
        placement = placement_of(ModelConfigFile(file, "tiny").entry())
        wanted = Placement(frozenset({1, 2}), {"stable": 2, "previous": 1})
        assert placement.as_dict() == wanted.as_dict()
        actions = [json.loads(line) for line in audit_path(file).read_text().splitlines()]
        assert [(a["action"], a["result"]) for a in actions] == [
            ("canary", "started"),
            ("canary", "done"),
            ("promote", "started"),
            ("promote", "done"),
        ]
        assert actions[0]["by"] == "ann" and "double12-2024" in actions[0]["reason"]
        assert decision.record["steps"]["evaluate"]["summary"]["against_serving"]
        registry = Registry.of(config)
        assert registry.aliases() == {"champion": 2, "previous": 1}
        assert registry.lineage("champion").promotion == PROMOTION
        assert retrain(config, Request(PROMOTION, "2024-12-01", by="ann"), NOW).reused
