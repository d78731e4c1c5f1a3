"""The reader of the Criteo conversion log, against the file's own lines."""

import gzip

import numpy as np
import pytest

from cmdcm.core.config import SplitConfig, load_config
from cmdcm.core.errors import ConfigError, DataError, OutputError
from cmdcm.core.files import verify_manifest
from cmdcm.features.criteo import CriteoDays, read_criteo
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.rows import sample_rows
from cmdcm.tests.features.criteo_log import DAY, write_log

CONFIG = load_config(overrides=["model.waiting_hours=6", "features.item_buckets=100"])
DAYS = CriteoDays(history=6, validation=2, gap=1, horizon=2.0)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("criteo") / "data.txt"
    return path, write_log(path)


@pytest.fixture(scope="module")
def examples(log):
    output = log[0].parent / "examples"
    counts = read_criteo(log[0], output, CONFIG, DAYS)
    data = ExampleSet.open(output, SplitConfig())
    rows = sample_rows(output, data.manifest, data.spec, 10**6)
    return data, rows.sort_by("click_time_ms"), counts


def test_parts_are_days_of_the_log(log, examples):
    data, rows, counts = examples
    day = log[1]["click"] // DAY
    expected = {
        "history": int(np.sum(day < 4)),
        "validation": int(np.sum((day >= 4) & (day < 6))),
        "stream": int(np.sum(day >= 7)),
        "left_out": int(np.sum(day == 6)),
    }
    assert counts == expected
    assert len(rows) == len(day) - expected["left_out"] == data.manifest["rows"]
    parts = {"train": "history", "validation": "validation", "test": "stream"}
    assert {part: data.total(part) for part in parts} == {p: expected[n] for p, n in parts.items()}
    assert data.split.test[0] == "1970-01-08"
    verify_manifest(data.directory)


def test_labels_and_times(log, examples):
    _, rows, _ = examples
    click, conversion = log[1]["click"], log[1]["conversion"]
    kept = click // DAY != 6
    click, conversion = click[kept], conversion[kept]
    delay = np.where(conversion >= 0, conversion - click, -1)
    converts = (delay >= 0) & (delay <= 2 * DAY)
    early = converts & (delay <= DAY // 4)
    assert 0 < early.sum() < converts.sum() < np.sum(delay >= 0)
    for name, expected in {
        "click_time_ms": click * 1000,
        "conversion": converts,
        "direct": early,
        "delayed": converts & ~early,
        "cart": np.zeros(len(click)),
        "conversion_delay_ms": np.where(converts, delay * 1000, -1),
        "direct_known_ms": click * 1000 + 6 * 3_600_000,
        "delayed_known_ms": click * 1000 + 2 * DAY * 1000,
    }.items():
        np.testing.assert_array_equal(rows[name].to_numpy(), expected, err_msg=name)


def test_inputs_are_those_of_the_lines(log, examples):
    _, rows, _ = examples
    lines = [line.split("\t") for line in log[0].read_text().splitlines()]
    by_click: dict[int, list] = {}
    for fields in lines:
        by_click.setdefault(int(fields[0]) * 1000, []).append(fields[2:])
    times = rows["click_time_ms"].to_pylist()
    integers, missing = (rows[n].to_pylist() for n in ("integers", "integers_missing"))
    categories = [rows[f"category_{n}"].to_pylist() for n in range(1, 10)]
    for n, time in enumerate(times):
        words = [column[n].decode() for column in categories]
        numbers = [
            "" if gone else f"{value:.0f}"
            for value, gone in zip(integers[n], missing[n], strict=True)
        ]
        assert [*numbers, *words] in by_click[time]


def test_gzip_gives_the_same(log, examples, tmp_path):
    packed = tmp_path / "data.txt.gz"
    packed.write_bytes(gzip.compress(log[0].read_bytes()))
    read_criteo(packed, tmp_path / "out", CONFIG, DAYS)
    again = ExampleSet.open(tmp_path / "out", SplitConfig())
    assert again.manifest["files"] == examples[0].manifest["files"]


def line(click: str = "5", conversion: str = "") -> str:
    return "\t".join([click, conversion, *["1"] * 8, *["a"] * 9]) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t2\t3\n", "is no Criteo conversion log .19 tab-separated columns"),
        (line("x"), "is no Criteo conversion log"),
        (line(""), "no click timestamp"),
        (line("50", "20"), "before its click.*'click': 50, 'conversion': 20"),
        (line(), r"no clicks for \['validation', 'stream'\]"),
    ],
)
def test_malformed_logs_are_refused(text, message, tmp_path):
    (tmp_path / "data.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_criteo(tmp_path / "data.txt", tmp_path / "out", CONFIG, DAYS)
    assert not (tmp_path / "out").exists()


def test_a_log_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no log at"):
        read_criteo(tmp_path / "data.txt", tmp_path / "out", CONFIG, DAYS)


def test_an_output_that_exists_is_kept(log, examples):
    with pytest.raises(OutputError):
        read_criteo(log[0], examples[0].directory, CONFIG, DAYS)


def test_days_that_make_no_sense():
    with pytest.raises(ConfigError, match="0 < validation < history"):
        CriteoDays(history=3, validation=3)
