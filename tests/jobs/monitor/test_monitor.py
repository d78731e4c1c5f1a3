"""`cmdcm monitor` from outside: a small world's requests and events in, a status out."""

import datetime
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from typing import Any

import numpy as np
import pytest

from cmdcm.core.config import MonitorConfig
from cmdcm.core.files import write_json, write_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.tfrecord import read_records
from cmdcm.jobs.main import main, parse
from cmdcm.jobs.monitor.alerts import alerts
from cmdcm.jobs.monitor.findings import findings
from cmdcm.tests.conftest import SMALL
from cmdcm.tests.jobs.monitor.logs import logged, rates, records, write
from cmdcm.tests.jobs.page import Page
from cmdcm.tests.jobs.rollout.world import write_config

NOW = "2024-12-13T00:00+08:00"
FEW = ("monitor.min_rows=5", "validation.min_count=50")


def spread(factor):
    """Scores from half to one and a half times a factor of each label's rate, in the mean it."""

    def scores(frame):
        shape = np.linspace(0.5, 1.5, len(frame))
        return {name: shape * values for name, values in rates(frame, factor).items()}

    return scores


def run(world, output, *arguments: object, overrides: tuple[str, ...] = ()) -> int:
    settings = [f"--set={text}" for text in (*SMALL, *FEW, *overrides)]
    command = ["cmdcm", "monitor", "--examples", world.examples, "--output", output, *arguments]
    return main(parse([*map(str, command), *settings]))


def decided(work, name: str, outcome: str, time: str) -> None:
    """Writes a decision of the retraining job, as far as it is read."""
    record = {
        "outcome": outcome, "reason": f"why {outcome}", "decided": time,
        "window": {"promotion": "double12-2024"},
    }  # fmt: skip
    (work / "decisions" / name).mkdir(parents=True)
    write_json(work / "decisions" / name / "decision.json", record)


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def status(small_world, data, tmp_path_factory):
    """A look at scores that promise twice as much as happens; a version has no label."""
    root = tmp_path_factory.mktemp("monitor")
    requests = write(root / "requests", logged(data, "test", spread(2.0), (4, 4, 4, 5)))
    reference = write(root / "reference", logged(data, "test", spread(1.0)))
    for version in (4, 5):
        (root / "base" / str(version)).mkdir(parents=True)
        write_manifest(root / "base" / str(version), {"kind": "export"})
    config = write_config(root / "models.config", root / "base", {"stable": 4}, 4)
    work = root / "work"
    decided(work, "a", "refused", "2024-12-12T15:00:00+00:00")
    decided(work, "b", "promoted", "2024-12-11T15:00:00+00:00")
    decided(work, "c", "stopped", "2024-12-12T15:30:00+00:00")
    decided(work, "d", "promoted", "2024-12-12T16:30:00+00:00")  # after NOW
    code = run(
        small_world, root / "status", "--requests", requests, "--reference", reference,
        "--events", small_world.events, "--now", NOW, "--model_base_path", root / "base",
        "--model_config_file", config, "--retrain_work", work,
        "--textfile", root / "node" / "cmdcm.prom",
        overrides=("export.name=tiny",),
    )  # fmt: skip
    assert code == 0
    return root


@pytest.fixture(scope="module")
def result(status):
    return json.loads((status / "status" / "monitor.json").read_text())


def test_every_click_has_its_score_and_pcoc_is_what_was_promised(result, data):
    _, frame = records(data, "test")
    assert result["rows"] == result["matched"] == len(frame)
    for label in ("direct", "cart", "delayed", "conversion"):
        (whole,) = (
            e for e in result["calibration"] if (e["head"], e["by"]) == (label, "all")
        )  # fmt: skip
        assert whole["positives"] == frame[label].sum()
        assert whole["pcoc"] == pytest.approx(2.0, rel=1e-5)


def test_versions_have_their_share_labels_and_age(result):
    four, five = result["versions"]
    assert (four["version"], four["labels"]) == (4, ["stable"])
    assert (five["version"], five["labels"]) == (5, [])
    assert four["share"] + five["share"] == pytest.approx(1)
    assert five["share"] == pytest.approx(0.25, abs=0.02)
    assert four["age_seconds"] == 0  # it is younger than the simulated now


def test_findings_name_what_is_wrong(result):
    found = {(f["alert"], f["text"].split(" is ")[0]) for f in result["findings"]}
    assert ("CmdcmCalibrationOff", "PCOC of cart") in found
    assert ("CmdcmScoreDrift", "PSI of p_cart") in found
    alerted = {f["alert"] for f in result["findings"]}
    assert {"CmdcmUnlabelledVersion", "CmdcmRequestsLate"} <= alerted
    assert "CmdcmNullRate" not in alerted


def test_what_was_trained_on_does_not_drift(small_world, data, tmp_path):
    requests = write(tmp_path / "requests", logged(data, "train", rates))
    _, frame = records(data, "train")
    last = int(frame["click_time_ms"].max())  # type: ignore[arg-type]
    now = datetime.datetime.fromtimestamp(last / 1000, datetime.UTC).isoformat()
    assert run(small_world, tmp_path / "out", "--requests", requests, "--now", now) == 0
    found = json.loads((tmp_path / "out" / "monitor.json").read_text())
    of_training = {e["name"]: e for e in found["inputs"]}
    assert of_training["price"]["null_rate"] == of_training["price"]["training_null_rate"] == 0
    assert of_training["promotion_kind"]["oov_rate"] == 0
    assert found["calibration"] == []  # without events nothing is known of labels
    assert found["last_event_ms"] is None


def test_metrics_are_written_for_the_node_exporter(status, result):
    text = (status / "node" / "cmdcm.prom").read_text()
    assert text == (status / "status" / "metrics.prom").read_text()
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    assert float(values['cmdcm_monitor_rows{model="tiny"}']) == result["rows"]
    pcoc = 'cmdcm_monitor_pcoc{by="all",head="cart",model="tiny",value="all"}'
    assert float(values[pcoc]) == pytest.approx(2.0, rel=1e-5)
    share = 'cmdcm_monitor_traffic_share{label="none",model="tiny",version="5"}'
    assert float(values[share]) == pytest.approx(result["versions"][1]["share"])
    assert not any('by="hour"' in name for name in values)


def scraped(port: int, name: str) -> float:
    """A metric as Prometheus gets it; nan while it cannot be had."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return float("nan")
    return next((float(x.split()[-1]) for x in lines if x.startswith(f"{name}{{")), float("nan"))


def test_with_a_port_it_stays_and_looks_again_until_sigterm(small_world, data, tmp_path, caplog):
    logs = list(logged(data, "test", rates))
    write(tmp_path / "1.tfrecord", iter(logs[:2]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen: list[float] = []
    ended = threading.Event()

    def until(condition) -> None:
        end = time.monotonic() + 60
        while not condition() and not ended.is_set() and time.monotonic() < end:
            time.sleep(0.02)

    def scrapes() -> None:
        try:
            rows, looked = "cmdcm_monitor_rows", "cmdcm_monitor_last_run_timestamp_seconds"
            until(lambda: scraped(port, rows) > 0)
            seen.append(scraped(port, rows))
            first = scraped(port, looked)
            (tmp_path / "2.tfrecord").write_bytes(b"no record")
            until(lambda: "2.tfrecord" in caplog.text)
            seen.append(scraped(port, rows))  # a look that fails leaves the figures of the last
            write(tmp_path / "new", iter(logs[2:3])).replace(tmp_path / "2.tfrecord")
            until(lambda: scraped(port, rows) != seen[0])
            seen.extend((scraped(port, rows), scraped(port, looked) - first))
        finally:
            if not ended.is_set():  # else nobody hears it, and pytest would die of it
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=scrapes)
    thread.start()
    try:
        code = run(
            small_world, tmp_path / "out", "--requests", tmp_path / "*.tfrecord", "--port", port,
            "--every", 0.005,
        )  # fmt: skip
    finally:
        ended.set()
    thread.join()
    assert code == 0
    per_call = seen[0] / 2
    assert seen[:3] == [2 * per_call, 2 * per_call, 3 * per_call] and seen[3] > 0
    assert np.isnan(scraped(port, "cmdcm_monitor_rows"))  # nobody listens any more


def test_a_port_that_is_taken_or_a_replay_is_told(small_world, data, tmp_path, capsys):
    requests = write(tmp_path / "requests", logged(data, "test", rates))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("--requests", requests, "--port", port)
        assert run(small_world, tmp_path / "out", *words) == 7
        assert run(small_world, tmp_path / "out", *words, "--now", NOW) == 2
    told = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in told and "leave --now out" in told
    assert not (tmp_path / "out").exists()


def test_the_page_shows_findings_first_and_loads_nothing(status, result):
    page = Page((status / "status" / "status.html").read_text())
    assert not any(
        name in ("src", "href") and not value.startswith("data:")
        for _, name, value in page.attributes
    )
    text = "".join(page.text)
    assert text.index(f"{len(result['findings'])} findings") < text.index("What was looked at")
    assert page.row("Calibration on labels that are known", "cart")[3] == "2.000"
    assert len(page.table("Versions that answered")["rows"]) == 3
    assert page.images  # PCOC by hour


def test_what_the_retraining_job_last_decided_is_told(status, result):
    assert result["retraining"]["outcome"] == "refused"
    assert {"alert": "CmdcmRetrainUnwell", "text": "the job ended refused: why refused"} in (
        result["findings"]
    )
    text = (status / "status" / "metrics.prom").read_text()
    stamp = datetime.datetime.fromisoformat("2024-12-12T15:00:00+00:00").timestamp()
    [line] = [x for x in text.splitlines() if x.startswith("cmdcm_monitor_last_decision_")]
    assert 'outcome="refused"' in line and float(line.split()[-1]) == stamp
    page = Page((status / "status" / "status.html").read_text())
    row = page.row("What was looked at", "job")  # by its last word
    assert row[-1] == "refused, 2024-12-12 15:00 UTC"


def test_what_is_well_has_no_finding(result):
    well = {"outcome": "unchanged", "reason": "", "time_ms": result["now_ms"]}
    fine = {
        **result, "retraining": well,
        "calibration": [], "score_drift": [], "input_drift": [], "inputs": [],
        "versions": [], "last_request_ms": result["now_ms"], "last_event_ms": result["now_ms"],
    }  # fmt: skip
    assert findings(fine, MonitorConfig()) == []


def test_every_finding_is_an_alert(result, small_world):
    named = {rule.name for group in alerts(small_world.config).values() for rule in group}
    inputs = [{"name": "x", "null_rate": 1.0, "training_null_rate": 0.0, "oov_rate": 1.0}]
    drift = [{"name": f"x[{part}]", "psi": 9.0, "chance": 0.0} for part in "ab"]
    versions = [{"version": 1, "share": 1.0, "labels": [], "age_seconds": 1e9}]
    calibration: list[dict[str, Any]] = [
        {"head": "direct", "by": by, "value": "v", "pcoc": 3.0, "lower": 2.0, "upper": 4.0}
        for by in ("all", "kind")
    ]
    calibration.append({**calibration[0], "by": "none", "pcoc": None, "upper": None})
    broken = {
        **result, "inputs": inputs, "input_drift": drift, "versions": versions,
        "calibration": calibration, "registry_faults": ["they differ"],
        "score_drift": [{"output": "p", "psi": 9.0}], "last_request_ms": 0, "last_event_ms": 0,
        "retraining": {"outcome": "refused", "reason": "pcoc is 2", "time_ms": 0},
    }  # fmt: skip
    found = [f["alert"] for f in findings(broken, small_world.config.monitor)]
    assert len(found) == 14
    assert len(set(found)) == 13
    assert set(found) <= named


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--now", "2024-12-13"], 2, "has no time zone"),
        (["--now", "soon"], 2, "--now soon"),
        (["--now", "2001-01-01T00:00Z"], 3, "no logged prediction can be used"),
    ],
)
def test_bad_usage(small_world, status, tmp_path, capsys, arguments, code, message):
    out = tmp_path / "out"
    assert run(small_world, out, "--requests", status / "requests", *arguments) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_damaged_log_is_named(small_world, status, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copy(status / "requests", damaged)
    assert len(list(read_records(damaged))) > 1
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert run(small_world, tmp_path / "out", "--requests", damaged, "--now", NOW) == 3
    assert str(damaged) in capsys.readouterr().err
