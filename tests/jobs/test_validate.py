"""`cmdcm validate` from outside: exit codes, the JSON and the page, on a simulated world."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from absl import flags
from google.protobuf import text_format

from cmdcm.core.files import read_manifest, write_manifest
from cmdcm.export.signatures import CANDIDATES_SIGNATURE
from cmdcm.export.warmup import requests, write_requests
from cmdcm.features.dataset import EXAMPLES
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import parse_examples
from cmdcm.features.rows import sample_rows
from cmdcm.features.schema import read_schema, write_schema
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.statistics import StatisticsBuilder
from cmdcm.features.tfrecord import read_records
from cmdcm.jobs import main as cli
from cmdcm.tests.jobs.page import Page

KEYS = (
    "version", "passed", "errors", "warnings", "anomalies", "notes", "examples", "against",
    "schema", "requests", "features", "drift", "skew", "labels", "maturity", "leakage", "settings",
)  # fmt: skip
FEW = ["--set", "validation.min_count=100"]


@pytest.fixture(autouse=True)
def parsed_flags():
    flags.FLAGS.mark_as_parsed()


def cmdcm(*arguments: object) -> int:
    return cli.main(cli.parse(["cmdcm", *map(str, arguments)]))


@dataclass
class Outcome:
    """What a run left."""

    code: int
    result: dict[str, Any]
    page: Page

    def found(self, severity: str = "") -> set[tuple[str, str, str]]:
        return {
            (a["code"], a["source"], a["feature"])
            for a in self.result["anomalies"]
            if severity in ("", a["severity"])
        }


def validate(tmp_path: Path, *arguments: object) -> Outcome:
    output = tmp_path / "validation"
    code = cmdcm("validate", "--output", output, "--overwrite", *arguments)
    assert sorted(path.name for path in output.iterdir()) == ["validation.html", "validation.json"]
    result = json.loads((output / "validation.json").read_text(), parse_constant=pytest.fail)
    assert result["passed"] == (result["errors"] == 0)
    assert code == (0 if result["passed"] else 3)
    page = (output / "validation.html").read_text()
    assert page.startswith("<!doctype html>")
    return Outcome(code, result, Page(page))


@pytest.fixture(scope="module")
def rows(small_world) -> tuple[FeatureSpec, dict[str, Any], pa.Table]:
    spec = FeatureSpec.load(small_world.examples / "spec.json")
    manifest = read_manifest(small_world.examples, EXAMPLES)
    return spec, manifest, sample_rows(small_world.examples, manifest, spec, 3_000)


def write_examples(directory: Path, spec: FeatureSpec, table: pa.Table) -> Path:
    """A directory of examples of one day and promotion."""
    (directory / "2024-11-08").mkdir(parents=True)
    write_tfrecords(directory / "2024-11-08" / "part-00000.tfrecord", [table])
    statistics = StatisticsBuilder(spec)
    statistics.add(table)
    statistics.write(directory / "statistics.pbtxt")
    spec.save(directory / "spec.json")
    write_schema(directory / "schema.pbtxt", spec)
    labels = {
        f.name: int(np.sum(table[f.name].to_numpy()))
        for f in spec.of("label")
        if f.dtype == "int64"
    }
    day = {"promotion": "double11-2024", "rows": len(table), **labels}
    promotion = {**day, "first_day": "2024-11-08", "last_day": "2024-11-08"}
    write_manifest(
        directory,
        {
            "kind": EXAMPLES,
            "rows": len(table),
            "days": {"2024-11-08": day},
            "promotions": {"double11-2024": promotion},
        },
    )
    return directory


def replaced(table: pa.Table, **columns: Any) -> pa.Table:
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values, table[name].type))
    return table


def write_log(path: Path, spec: FeatureSpec, examples: Path, **scale: float) -> Path:
    """Logged requests of the examples in either layout, some features multiplied."""
    shards = sorted(examples.glob("*/part-*"))
    records = [record for shard in shards for record in read_records(shard)]
    np.random.default_rng(0).shuffle(records)
    made = requests(spec, records[:600], []) if not scale else []
    parsed = parse_examples(tf.constant(records[600:1_200]), spec.inputs)
    arrays = {name: tensor.numpy() for name, tensor in parsed.items()}
    for start in range(0, 600, 4):
        inputs = {f.name: arrays[f.name][start : start + 1] for f in spec.user_inputs}
        inputs |= {f.name: arrays[f.name][start : start + 4] for f in spec.candidate_inputs}
        made.append((CANDIDATES_SIGNATURE, inputs))
    for _, inputs in made if scale else []:
        for name, factor in scale.items():
            inputs[name] = (inputs[name] * factor).astype(inputs[name].dtype)
    write_requests(path, "cmdcm", made)
    return path


def test_a_data_set_against_itself_and_its_own_requests(tmp_path, small_world, rows):
    spec = rows[0]
    log = write_log(tmp_path / "log", spec, write_examples(tmp_path / "e", spec, rows[2]))
    outcome = validate(
        tmp_path,
        "--examples", small_world.examples, "--against", small_world.examples,
        "--requests", log, log, *FEW,
    )  # fmt: skip
    result = outcome.result
    assert outcome.code == 0
    assert list(result) == sorted(KEYS) and result["version"] == 1
    assert {code for code, _, _ in outcome.found()} <= {
        "hash_collision_rate", "split_prevalence_change", "linf_skew", "js_skew"
    }  # fmt: skip
    assert result["drift"] and {entry["value"] for entry in result["drift"]} <= {0.0, None}
    assert result["requests"] == {
        "files": 2, "requests": 302, "examples": 1_200, "candidates": 1_200, "skipped": 0,
    }  # fmt: skip
    assert not any(a["severity"] == "error" for a in result["anomalies"])
    assert result["maturity"] == {"direct": 0, "delayed": 0}
    names = [feature["name"] for feature in result["features"]]
    assert names == list(spec.names())
    inputs = {f.name for f in spec.inputs}
    assert {e["feature"].partition("[")[0] for e in result["skew"]} == inputs
    for feature in result["features"]:
        assert feature["against"] == feature["examples"]
        assert (feature["requests"] is None) == (feature["name"] not in inputs)
    # Every number of the labels is the manifest's.
    for label, shares in result["labels"].items():
        days = rows[1]["days"].values()
        expected = sum(day[label] for day in days) / sum(day["rows"] for day in days)
        assert shares["all"] == shares["against"] == pytest.approx(expected)
        assert 0 < shares["train"] < 1
    assert result["leakage"]["rows"] == rows[1]["rows"]
    assert "user_history" in {entry["feature"] for entry in result["leakage"]["aucs"]}


def test_the_page_shows_what_the_json_holds_and_loads_nothing(tmp_path, small_world, rows):
    spec, _, table = rows
    price = [math.nan if i == 0 else value for i, value in enumerate(table["price"].to_pylist())]
    examples = write_examples(tmp_path / "<b>", spec, replaced(table, price=price))
    outcome = validate(tmp_path, "--examples", examples, "--against", small_world.examples, *FEW)
    page, result = outcome.page, outcome.result
    assert outcome.code == 3
    shown = [row[:4] for row in page.table("What the checks found")["rows"][1:]]
    sources = {"data": "itself", "against": "other data set", "schema": "schema"}
    assert shown == [
        [a["code"], a["severity"], sources[a["source"]], a["feature"]] for a in result["anomalies"]
    ]
    assert result["anomalies"][0]["code"] == "not_finite"
    assert "Validation of <b>" in "".join(page.text)
    largest = next(entry for entry in result["drift"] if entry["value"])
    bars = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert bars[0] == f"Shares of the bins of {largest['feature']}"
    links = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert page.table("Share of positives")["rows"][1][0] in result["labels"]


def test_leakage_is_an_error(tmp_path, rows):
    spec, _, table = rows
    labels = table["conversion"].to_numpy()
    assert labels.sum() >= 20
    leaky = replaced(table, price=np.where(labels, 9.0, 1.0))
    examples = write_examples(tmp_path / "e", spec, leaky)
    positives = ["--set", "validation.min_positives=20"]
    outcome = validate(tmp_path, "--examples", examples, *positives)
    assert outcome.code == 3
    assert ("leakage", "data", "price") in outcome.found("error")
    # An AUC needs positives of its label; and the settings decide.
    assert validate(tmp_path, "--examples", examples, "--set", "validation.min_positives=3000").code == 0  # fmt: skip # noqa: E501
    for setting in ('severity.leakage="warning"', "max_auc=1.0", 'exclude=["leakage:price"]'):
        outcome = validate(
            tmp_path, "--examples", examples, *positives, "--set", f"validation.{setting}"
        )
        assert outcome.code == 0


def test_immature_rows_are_an_error(tmp_path, rows):
    spec, _, table = rows
    observed = table["observation_time_ms"].to_numpy().copy()
    observed[:30] = table["delayed_known_ms"].to_numpy()[:30] - 1
    examples = write_examples(tmp_path / "e", spec, replaced(table, observation_time_ms=observed))
    outcome = validate(tmp_path, "--examples", examples)
    assert outcome.code == 3
    assert ("immature_delayed", "data", "delayed") in outcome.found("error")
    assert outcome.result["maturity"]["delayed"] == 30 / len(table)
    bounds = [f"validation.max_immature_{label}=0.02" for label in ("direct", "delayed")]
    settings = [word for bound in bounds for word in ("--set", bound)]
    assert validate(tmp_path, "--examples", examples, *settings).code == 0


def test_a_schema_of_ones_own(tmp_path, small_world):
    schema = read_schema(small_world.examples / "schema.pbtxt")
    for feature in schema.feature:
        if feature.name == "hour_of_day":
            feature.int_domain.max = 22
    path = tmp_path / "mine.pbtxt"
    path.write_text(text_format.MessageToString(schema))
    outcome = validate(tmp_path, "--examples", small_world.examples, "--schema", path)
    assert outcome.found("error") == {("out_of_range", "schema", "hour_of_day")}
    (anomaly,) = (a for a in outcome.result["anomalies"] if a["code"] == "out_of_range")
    assert (anomaly["value"], anomaly["bound"]) == (23, 22)
    assert outcome.result["schema"] == "mine.pbtxt"


def test_drift_and_changed_labels_between_data_sets(tmp_path, rows):
    spec, _, table = rows
    base = write_examples(tmp_path / "base", spec, table)
    changed = replaced(
        table,
        price=[price and 4 * price for price in table["price"].to_pylist()],
        cart=np.minimum(table["cart"].to_numpy() + (np.arange(len(table)) % 3 == 0), 1),
        user_counts=[[0, *row[1:]] for row in table["user_counts"].to_pylist()],
    )
    examples = write_examples(tmp_path / "changed", spec, changed)
    outcome = validate(
        tmp_path, "--examples", examples, "--against", base, "--set", "validation.max_js_drift=0.01"
    )
    assert outcome.code == 0
    component = f"user_counts[{spec['user_counts'].components[0]}]"
    assert outcome.found() >= {
        ("js_drift", "against", "price"),
        ("js_drift", "against", component),
        ("prevalence_change", "against", "cart"),
    }
    drifted = {e["feature"] for e in outcome.result["drift"] if e["value"]}
    assert drifted == {"price", component}
    # One day cannot be split: said, not hidden.
    assert any("split" in note for note in outcome.result["notes"])


def test_skew_of_logged_requests(tmp_path, rows):
    spec, _, table = rows
    examples = write_examples(tmp_path / "e", spec, table)
    sound = write_log(tmp_path / "sound", spec, examples)
    outcome = validate(tmp_path, "--examples", examples, "--requests", sound, *FEW)
    assert not {f for c, _, f in outcome.found() if c.endswith("_skew")} & {"price", "item_counts"}
    skewed = write_log(tmp_path / "skewed", spec, examples, price=100, hour_of_day=2)
    outcome = validate(tmp_path, "--examples", examples, "--requests", skewed, *FEW)
    assert {("js_skew", "requests", "price"), ("linf_skew", "requests", "hour_of_day")} <= (
        outcome.found("warning")
    )
    # Twice an hour of the day is beyond its buckets.
    assert outcome.found("error") == {("out_of_range", "requests", "hour_of_day")}


def test_features_that_requests_lack_or_add(tmp_path, rows):
    spec, _, table = rows
    examples = write_examples(tmp_path / "e", spec, table)
    records = list(read_records(next(examples.glob("*/part-*"))))
    made = [requests(spec, records[i : i + 10], [10])[1] for i in range(0, 100, 10)]
    del made[0][1]["price"]
    made[1][1]["prize"] = made[1][1]["price"]
    made[2][1]["user_id"] = made[2][1]["user_id"].astype(np.int32)
    for _, inputs in made:
        del inputs["weekday"]
        inputs["item_counts"] = inputs["item_counts"][:, 1:]
    write_requests(tmp_path / "log", "cmdcm", made)
    outcome = validate(tmp_path, "--examples", examples, "--requests", tmp_path / "log")
    assert outcome.found("error") == {
        ("feature_missing", "requests", "price"),
        ("feature_missing", "requests", "weekday"),
        ("feature_missing", "requests", "item_counts"),
        ("length", "requests", "item_counts"),
        ("type", "requests", "user_id"),
    }
    assert ("feature_new", "requests", "prize") in outcome.found("warning")
    assert any("not compared with the logged requests" in n for n in outcome.result["notes"])


def test_an_existing_output_is_kept(tmp_path, small_world, capsys):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "precious").write_text("x")
    arguments = ("validate", "--examples", small_world.examples, "--output", tmp_path / "v")
    assert cmdcm(*arguments) == 7
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["precious"]
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('validation.severity.null_rat="off"', ["null_rat", "did you mean 'null_rate'"]),
        ('validation.exclude=["prise"]', ["'prise'", "did you mean 'price'"]),
        ('validation.severity.null_rate="loud"', ["validation.severity.null_rate", "'loud'"]),
        ("validation.max_auc=0.2", ["validation.max_auc", "0.5"]),
    ],
)
def test_a_bad_setting_is_named(tmp_path, small_world, capsys, setting, words):
    output = tmp_path / "v"
    arguments = ("--examples", small_world.examples, "--output", output, "--set", setting)
    assert cmdcm("validate", *arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not output.exists()


def test_missing_and_corrupted_inputs_are_named(tmp_path, small_world, rows, capsys):
    output = tmp_path / "v"
    for arguments, words in (
        (("--examples", tmp_path / "none"), "none"),
        (("--examples", small_world.examples, "--against", small_world.events), "event"),
        (("--examples", small_world.examples, "--schema", tmp_path / "none"), "schema"),
        (("--examples", small_world.examples, "--requests", tmp_path / "none"), "none"),
    ):
        assert cmdcm("validate", *arguments, "--output", output) == 3
        assert words in capsys.readouterr().err
        assert not output.exists()
    examples = write_examples(tmp_path / "e", *rows[::2])
    shard = next(examples.glob("*/part-*"))
    data = bytearray(shard.read_bytes())
    data[5_000] ^= 1
    shard.write_bytes(data)
    assert cmdcm("validate", "--examples", examples, "--output", output) == 3
    message = capsys.readouterr().err
    assert str(shard) in message and "corrupted" in message
