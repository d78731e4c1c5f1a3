"""`cmdcm gate` from outside: exit code, files, audit log, and what export makes of it."""

import json

import pytest

from cmdcm.core.errors import ExportError
from cmdcm.core.files import read_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.jobs.main import main, parse
from cmdcm.jobs.rollout.audit import audit_path
from cmdcm.model.trained import MODEL, seen_days
from cmdcm.model.training import train

LOOSE = (
    "gate.overall={min_pcoc=0, max_pcoc=0, max_normalised_entropy=0, min_auc=0}",
    "gate.slices={min_pcoc=0, max_pcoc=0, min_auc=0, max_normalised_entropy=0}",
    "gate.min_positives=1",
    "gate.max_latency_ms=0",
    "gate.min_effective_rows=0",
    "gate.max_clipped_share=1",
    "evaluation.bootstrap=20",
    "export.warmup_candidates=[1, 10]",
)


@pytest.fixture(scope="module")
def trained(small_world, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    config = small_world.config
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 1})}
    )
    data = ExampleSet.open(small_world.examples, config.split)
    train(data, output, config, progress=False)
    return output / MODEL


def cmdcm(*words: object, settings: tuple[str, ...] = LOOSE) -> int:
    line = ["cmdcm", *map(str, words)]
    for setting in settings:
        line += ["--set", setting]
    return main(parse(line))


def test_accepted_refused_overridden_and_what_export_does(trained, small_world, tmp_path, capsys):
    judged = ("gate", "--model", trained, "--examples", small_world.examples)
    export = ("export", "--model", trained, "--examples", small_world.examples)
    fine, bad = tmp_path / "fine", tmp_path / "bad"
    assert cmdcm(*judged, "--serving-model", trained, "--output", fine) == 0
    result = json.loads((fine / "gate.json").read_text())
    rises = [v for v in result["verdicts"] if v["check"] == "log_loss_rise" and not v["slice"]]
    assert [v["estimate"] for v in rises] == pytest.approx([0.0] * 4, abs=1e-6)
    slices = {v["slice"].partition("=")[0] for v in result["verdicts"] if v["head"]}
    assert {"day", "category_id"} <= slices
    assert "accepted" in (fine / "gate.html").read_text()

    strict = (*LOOSE, "gate.overall.min_auc=0.999")
    assert cmdcm(*judged, "--output", bad, settings=strict) == ExportError.exit_code
    assert "auc" in capsys.readouterr().out
    base = tmp_path / "serving"
    small = ("export.warmup_candidates=[1]", "export.check_rows=10")
    refused = (*export, "--output", base, "--gate", bad)
    assert cmdcm(*refused, settings=small) == ExportError.exit_code
    assert not base.exists()

    overridden = (*judged, "--output", bad, "--overwrite", "--override")
    assert cmdcm(*overridden, settings=strict) == 2
    signed = (*overridden, "--by", "ann", "--reason", "the label has changed")
    assert cmdcm(*signed, settings=strict) == 0
    lines = [json.loads(line) for line in audit_path(bad).read_text().splitlines()]
    assert [line["result"] for line in lines] == ["refused", "accepted by override"]
    assert lines[1]["override"] == {"by": "ann", "reason": "the label has changed"}
    assert cmdcm(*refused, settings=small) == 0
    assert (base / "1" / "saved_model.pb").exists()
    assert set(read_manifest(base / "1", "export")["seen_days"]) == seen_days(trained)
