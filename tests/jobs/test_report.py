"""The report: what the page shows, that it loads nothing, and the command that writes it."""

import argparse
import copy
import json

import pytest

from cmdcm.core.config import Config, EvaluationConfig
from cmdcm.core.errors import DataError, OutputError
from cmdcm.jobs import tables
from cmdcm.jobs.commands import report as command
from cmdcm.jobs.report import METRIC_NAMES, render, write_report
from cmdcm.model.evaluation import evaluate, load_evaluation
from cmdcm.tests.jobs.page import Page
from cmdcm.tests.model.predictions_data import predictions

CONFIG = EvaluationConfig(bootstrap=20, min_slice_rows=20, calibration_bins=4)


@pytest.fixture(scope="module")
def arguments():
    frames = predictions(rows=600, models=("vanilla", "esmm", "oracle"), base_rate=0.2)
    records = [
        {"epoch": 1, "loss": 0.5, "val_log_loss_conversion": 0.25, "seconds": 3},
        {"epoch": 2, "loss": 0.4, "val_log_loss_conversion": 0.125, "seconds": 4},
    ]
    return {
        "evaluation": evaluate(frames, CONFIG, 1, "vanilla"),
        "training": {"vanilla": records[:1], "esmm": records},
        "data": {"events": {"rows": 123456, "rows_by_kind": {"click": 100000, "cart": 23456}}},
        "config": Config().model_dump(mode="json"),
        "title": "A <title> & more",
    }


@pytest.fixture(scope="module")
def small(arguments):
    """The arguments of a page with one head and no slices, which is drawn faster."""
    config = EvaluationConfig(bootstrap=20, min_slice_rows=1_000)
    frames = {
        name: frame.drop("p_direct", "p_delayed", "p_cart", strict=False)
        for name, frame in predictions(rows=100, models=("vanilla", "esmm")).items()
    }
    return {**arguments, "evaluation": evaluate(frames, config, 1, "vanilla"), "training": {}}


@pytest.fixture(scope="module")
def html(arguments):
    return render(**arguments)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def shown(interval, metric):
    digits = tables.DIGITS[metric]
    return f"{interval['estimate']:.{digits}f}", tables.bounds(interval, digits)


def test_every_metric_of_the_evaluation_is_in_its_table(page, arguments):
    for name, model in arguments["evaluation"]["models"].items():
        for head, result in model["heads"].items():
            caption = f"Metrics of head {head}"
            header = page.table(caption)["rows"][0]
            cells = dict(zip(header, page.row(caption, name), strict=True))
            for metric, interval in result["metrics"].items():
                estimate, bounds = shown(interval, metric)
                assert bounds
                assert cells[METRIC_NAMES[metric]].startswith(estimate)
                assert cells[METRIC_NAMES[metric]].endswith(bounds)


def test_a_calibrated_model_is_shown_before_and_after(small):
    frames = predictions(rows=100, models=("vanilla", "esmm"))
    raw = frames["esmm"]["p_conversion"] * 0.5
    frames["esmm"] = frames["esmm"].with_columns(uncalibrated_p_conversion=raw)
    evaluation = evaluate(frames, EvaluationConfig(bootstrap=20, min_slice_rows=1_000), 1)
    page = Page(render(**{**small, "evaluation": evaluation}))
    caption = "Calibration of head conversion: before and after"
    header, *rows = page.table(caption)["rows"]
    assert len(rows) == 1  # vanilla is not calibrated
    cells = dict(zip(header, page.row(caption, "esmm"), strict=True))
    result = evaluation["models"]["esmm"]["heads"]["conversion"]
    for metric in ("pcoc", "ece", "log_loss"):
        name = METRIC_NAMES[metric]
        assert cells[f"{name} before"].startswith(shown(result["uncalibrated"][metric], metric)[0])
        assert cells[f"{name} after"].startswith(shown(result["metrics"][metric], metric)[0])
    assert "before and after" not in render(**small)


def test_the_summary_shows_differences_and_relative_improvement(page, arguments):
    evaluation = arguments["evaluation"]
    row = page.row("Models on the same clicks", "esmm")
    result = evaluation["models"]["esmm"]["heads"]["conversion"]
    difference = result["differences"]["log_loss"]
    assert row[3] == f"{difference['estimate']:+.5f} {tables.bounds(difference, 5, signed=True)}"
    improvement = evaluation["relative_improvement"]["models"]["esmm"]
    assert row[-1] == f"{improvement['estimate']:.3f} {tables.bounds(improvement, 3)}"
    assert "not predicted" in page.row("Models on the same clicks", "vanilla")


def test_every_slice_is_in_a_table(page, arguments):
    evaluation = arguments["evaluation"]
    captions = {"day": "Day of", "user_history": "User's", "hours_to_promotion": "Hours"}
    for dimension, caption in captions.items():
        first = next(table for table in page.tables if table["caption"].startswith(caption))
        cells = [" ".join(cell.split()) for row in first["rows"] for cell in row]
        for name, model in evaluation["models"].items():
            entries = model["heads"]["conversion"]["slices"][dimension]
            assert entries
            for entry in entries:
                assert {entry["slice"], f"{entry['rows']:,}", name} <= {
                    cell.split(maxsplit=1)[-1] for cell in cells
                }
                assert " ".join(shown(entry["metrics"]["auc"], "auc")).strip() in cells


def test_best_is_marked_only_where_the_corrected_p_value_is_small(small):
    evaluation = copy.deepcopy(small["evaluation"])
    heads = evaluation["best"]
    for best in heads.values():
        for entry in best.values():
            # The interval excludes zero: it is uncorrected and does not count.
            entry["difference"].update(lower=1.0, upper=2.0, p_value=0.04, adjusted_p_value=0.06)

    def marked():
        shown = Page(render(**{**small, "evaluation": evaluation}))
        return [
            (table["caption"].split()[-1], row[0].split()[-1], column)
            for table in shown.tables
            if table["caption"].startswith("Metrics of head")
            for row in table["rows"][1:]
            for column, cell in zip(table["rows"][0], row, strict=True)
            if "best" in cell
        ]

    assert marked() == []
    heads["conversion"]["log_loss"]["difference"]["adjusted_p_value"] = None
    heads["conversion"]["auc"]["model"] = "esmm"
    heads["conversion"]["auc"]["difference"]["adjusted_p_value"] = 0.049
    assert marked() == [("conversion", "esmm", "AUC")]


def test_notes_are_shown(page, arguments):
    text = " ".join("".join(page.text).split())
    assert arguments["evaluation"]["notes"]
    for note in arguments["evaluation"]["notes"]:
        assert note in text


def test_the_page_loads_nothing(html, page):
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith(("#", "data:image/svg+xml;base64,")), (tag, value)
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html


def test_every_plot_has_an_alternative_text(page):
    alts = [image["alt"] for image in page.images]
    # Three for each of four heads, the delays, and two training curves.
    assert len(alts) == 4 * 3 + 1 + 2
    assert all(len(alt) > 20 for alt in alts)
    assert len(set(alts)) == len(alts)


def test_tables_have_captions_and_scoped_headers(page):
    for table in page.tables:
        assert table["caption"].strip()
        assert table["scopes"]
        assert None not in table["scopes"]


def test_text_is_escaped(small):
    evaluation = json.loads(json.dumps(small["evaluation"]).replace('"esmm"', '"<b>x</b>"'))
    html = render(**{**small, "evaluation": evaluation})
    assert "<b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<h1>A &lt;title&gt; &amp; more</h1>" in html


def test_training_data_and_configuration_are_shown(page):
    epochs = page.table("What was measured after each epoch")["rows"]
    assert epochs[0] == ["Model", "epoch", "loss", "seconds", "val_log_loss_conversion"]
    assert epochs[3] == ["esmm", "2", "0.4", "4", "0.125"]
    assert ["rows", "123,456"] in page.table("events")["rows"]
    assert ["cart", "23,456"] in page.table("events: rows_by_kind")["rows"]
    assert ["seed", "1"] in page.table("configuration")["rows"]
    assert ["batch_size", "1024"] in page.table("configuration: training")["rows"]


def test_a_page_without_training_data_or_positives():
    frame = predictions(rows=200, models=("cmdcm",), base_rate=1e-9)["cmdcm"]
    assert frame["conversion"].sum() == 0
    evaluation = evaluate({"cmdcm": frame}, EvaluationConfig(bootstrap=10), 1)
    html = render(evaluation=evaluation, training={}, data={}, config={}, title="Empty")
    page = Page(html)
    text = " ".join("".join(page.text).split())
    assert "All 200 rows are negative" in text
    assert "No test click converted." in text
    assert page.row("Metrics of head delayed", "cmdcm")[1] == "–"
    for section in ("training", "data", "configuration"):
        assert f'id="{section}"' not in html


def test_the_page_and_its_numbers_are_written_side_by_side(tmp_path, small):
    path = tmp_path / "site" / "report.html"
    write_report(path, **small)
    saved = load_evaluation(path.with_name("evaluation.json"))
    assert saved == small["evaluation"]
    # The file's keys are sorted; the page must not depend on their order.
    assert render(**{**small, "evaluation": saved}) == path.read_text(encoding="utf-8")


def run(*flags):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(flag) for flag in flags]), Config())


def test_the_command_reads_an_evaluation_directory(tmp_path, small, capsys):
    source, output = tmp_path / "evaluation", tmp_path / "report.html"
    source.mkdir()
    training = {"esmm": [{"epoch": 1, "loss": 0.5}]}
    for name in ("evaluation", "training", "data", "config"):
        (source / f"{name}.json").write_text(json.dumps({**small, "training": training}[name]))
    assert run("--evaluation", source, "--output", output) == 0
    printed = capsys.readouterr().out
    assert "vanilla, esmm" in printed
    assert str(output) in printed
    page = Page(output.read_text(encoding="utf-8"))
    assert ["seed", "1"] in page.table("configuration")["rows"]
    assert page.table("What was measured after each epoch")["rows"][1][0] == "esmm"
    with pytest.raises(OutputError, match="pass --overwrite"):
        run("--evaluation", source, "--output", output)
    assert run("--evaluation", source, "--output", output, "--overwrite") == 0


def test_the_command_reads_a_file_and_spares_another_evaluation(tmp_path, small):
    source, output = tmp_path / "some.json", tmp_path / "out" / "report.html"
    source.write_text(json.dumps(small["evaluation"]))
    output.parent.mkdir()
    beside = output.with_name("evaluation.json")
    beside.write_text(json.dumps({**small["evaluation"], "baseline": None}))
    before = beside.read_bytes()
    with pytest.raises(OutputError, match="pass --overwrite"):
        run("--evaluation", source, "--output", output)
    assert beside.read_bytes() == before
    assert not output.exists()
    beside.unlink()
    assert run("--evaluation", source, "--output", output) == 0
    assert "configuration</caption>" not in output.read_text(encoding="utf-8")


def test_the_command_names_what_is_missing_or_wrong(tmp_path, small):
    with pytest.raises(DataError, match="evaluation not found at"):
        run("--evaluation", tmp_path / "none", "--output", tmp_path / "r.html")
    (tmp_path / "evaluation.json").write_text(json.dumps(small["evaluation"]))
    (tmp_path / "training.json").write_text("[1]")
    with pytest.raises(DataError, match=r"training\.json should hold a JSON object"):
        run("--evaluation", tmp_path, "--output", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_nested_summaries_become_tables():
    summary = {
        "rows": 2,
        "files": {"a": {"sha256": "x"}},
        "days": {"d1": {"rows": 1, "cart": None}, "d2": {"rows": 1, "direct": True}},
        "deep": {"one": {"two": {"three": 3}}},
        "empty": {},
    }
    result = {table.caption: table for table in tables.tables(summary, "examples")}
    assert list(result) == ["examples", "examples: days", "examples: deep: one"]
    assert result["examples"].rows == (("rows", "2"),)
    assert result["examples: days"].columns == ("days", "rows", "cart", "direct")
    assert result["examples: days"].rows == (("d1", "1", "–", "–"), ("d2", "1", "–", "yes"))
    assert result["examples: deep: one"].rows == (("two", "3"),)


def test_numbers_are_shown_plainly():
    assert tables.number(-0.00001, 3) == "0.000"
    assert tables.number(1.0, 2, signed=True) == "+1.00"
    assert tables.bounds({"lower": None, "upper": 1.0}, 2) == ""
    assert tables.text(float("nan")) == "–"
    assert tables.text(list(range(20))).endswith("11, ... (20 in all)")
