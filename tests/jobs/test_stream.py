"""`cmdcm criteo` and `cmdcm stream`: a small log, all the way to the table."""

import shutil
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from cmdcm.core.config import SplitConfig, load_config
from cmdcm.core.errors import ConfigError, DataError, OutputError
from cmdcm.features.arrivals import Policy, entries
from cmdcm.features.criteo import CriteoDays, read_criteo
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.tfrecord import read_records
from cmdcm.jobs.main import main, parse
from cmdcm.jobs.stream import ORACLE, PRETRAINED, VANILLA, methods, rows_of, run_streams
from cmdcm.jobs.stream_heads import head_means
from cmdcm.jobs.stream_results import by_period, measure, table
from cmdcm.model.metrics import auc, log_loss, pcoc
from cmdcm.model.multiplicity import adjusted
from cmdcm.model.online.click_store import ClickStore, last_known_ms
from cmdcm.model.online.loop import Periods, Stream
from cmdcm.model.trained import MODEL, load_model
from cmdcm.tests.conftest import SMALL
from cmdcm.tests.features.criteo_log import DAY, write_log

HOUR = 3_600_000
SETTINGS = [
    "features.item_buckets=50",
    "model.waiting_hours=6",
    "model.embedding_dim=2",
    "model.cross_layers=0",
    "model.trunk_units=[4]",
    "model.tower_units=[]",
    "training.batch_size=256",
    "training.epochs=1",
    "training.learning_rate=0.01",
    "evaluation.bootstrap=50",
]
CONFIG = load_config(overrides=SETTINGS)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    write_log(folder / "data.txt", rows=2_400)
    days = CriteoDays(history=6, validation=2, gap=2, horizon=2.0)
    read_criteo(folder / "data.txt", folder / "examples", CONFIG, days)
    return ExampleSet.open(folder / "examples", SplitConfig())


@pytest.fixture(scope="module")
def finished(data):
    """A table of 12-hour periods, and where it is."""
    config = CONFIG.model_copy(
        update={"stream": CONFIG.stream.model_copy(update={"step_hours": 12.0})}
    )
    output = data.directory.parent / "stream"
    return config, run_streams(data, ["es_dfm"], output, config, progress=False), output


# The store


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("store") / "clicks"
    return ClickStore.build(data.files("test"), data.spec, directory)


def test_the_store_has_the_clicks_in_the_order_of_time(data, store):
    assert len(store) == data.total("test")
    assert (np.diff(store.clicks_ms) >= 0).all()
    assert store.labels("conversion").sum() == data.total("test", "conversion")
    assert store.labels("direct").sum() == data.total("test", "direct")
    records = [record for file in data.files("test") for record in read_records(file)]
    assert sorted(store.records(np.arange(len(store)))) == sorted(records)
    np.testing.assert_array_equal(store.users, np.unique(store.users))


def test_delays_of_a_label(store):
    converts = store.labels("conversion") == 1
    delays = store.delays_ms("conversion")
    assert (delays[~converts] == -1).all() and (delays[converts] >= 0).all()
    np.testing.assert_array_equal(store.delays_ms("conversion", 7)[converts], delays[converts] + 7)
    direct = store.delays_ms("direct")
    np.testing.assert_array_equal(direct >= 0, converts & (delays <= 6 * HOUR))
    np.testing.assert_array_equal(store.known_ms("conversion"), store.clicks_ms + 2 * DAY * 1000)


def test_examples_without_times_make_no_stream(data, tmp_path):
    kept = tuple(f for f in data.spec.features if f.name != "direct_known_ms")
    spec = data.spec.model_copy(update={"features": kept})
    with pytest.raises(DataError, match="direct_known_ms"):
        ClickStore.build(data.files("test"), spec, tmp_path / "clicks")


def test_when_the_last_label_is_known(data, store):
    files = data.files("test")
    assert last_known_ms(files, data.spec, "conversion") == store.known_ms("conversion").max()


# Periods


def test_periods_part_all_clicks(store):
    periods = Periods.of(store.clicks_ms, 5 * HOUR)
    parts = [periods.clicks(n, store.clicks_ms) for n in range(len(periods))]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(len(store)))
    tested = np.concatenate(parts[1:])
    np.testing.assert_array_equal(np.flatnonzero(periods.tested(store.clicks_ms)), tested)
    assert periods.bounds_ms[0] % HOUR == 0


def test_one_period_is_too_few(store):
    with pytest.raises(DataError, match=r"lower stream\.step_hours"):
        Periods.of(store.clicks_ms, 1000 * HOUR)


# The table


def test_rows_are_the_references_and_the_methods():
    rows = rows_of(["ulc", "fnw", "ulc"])
    assert [row.name for row in rows] == [PRETRAINED, VANILLA, "ulc", "fnw", ORACLE]
    policies = {row.name: row.policy for row in rows}
    assert policies[PRETRAINED] is None
    assert policies[VANILLA] == Policy() and policies[ORACLE] == Policy(final=True)
    assert policies["fnw"] == Policy(waits=False, again="late")
    with pytest.raises(ConfigError, match=r"\['cmdcm'\] are no delayed-feedback models"):
        rows_of(["cmdcm"])
    assert "as_observed" not in methods() and "defuse" in methods()


def test_results_are_of_all_tested_clicks_and_final_labels(data, finished):
    _, frame, output = finished
    store = ClickStore(output / "clicks")
    tested = store.clicks_ms >= Periods.of(store.clicks_ms, 12 * HOUR).bounds_ms[1]
    y = store.labels("conversion")[tested]
    names = [PRETRAINED, VANILLA, "es_dfm", ORACLE]
    assert frame["model"].unique(maintain_order=True).to_list() == names
    for name in names:
        p = np.load(output / "streams" / name / "scores.npy")
        np.testing.assert_array_equal(np.isnan(p), ~tested)
        for metric in (auc, log_loss, pcoc):
            row = frame.filter(pl.col("model") == name, pl.col("metric") == metric.__name__)
            assert row["estimate"].item() == pytest.approx(metric(y, p[tested]), rel=1e-6)
    relative = frame.filter(pl.col("metric") == "log_loss")
    by_name = dict(zip(relative["model"], relative["relative_estimate"], strict=True))
    assert by_name[VANILLA] == 0 and by_name[ORACLE] == 1
    periods = pl.read_parquet(output / "periods.parquet")
    each = periods.filter(pl.col("model") == VANILLA)
    assert each["rows"].sum() == len(y) and each["positives"].sum() == y.sum()
    text = (output / "results.md").read_text(encoding="utf-8")
    assert f"{len(y):,} tested clicks" in text
    assert "| vanilla |" in text and "| oracle |" in text
    assert "<h1>Training on a stream</h1>" in (output / "results.html").read_text(encoding="utf-8")


def test_the_auxiliary_heads_stand_beside_what_happened(data, finished):
    output = finished[2]
    store = ClickStore(output / "clicks")
    delays, waiting = store.delays_ms("conversion"), 6 * HOUR
    rows = np.arange(len(store))
    trained = output / "pretrained" / "es_dfm" / MODEL
    dp, z = head_means(load_model(trained), store, rows, delays, waiting)
    late, early = delays > waiting, (delays >= 0) & (delays <= waiting)
    assert (dp.head, dp.clicks, dp.happened) == ("dp", len(store), pytest.approx(late.mean()))
    assert (z.head, z.clicks) == ("z", (~early).sum())
    assert z.happened == pytest.approx(late[~early].mean())
    assert 0 < dp.predicted < 1 and 0 < z.predicted < 1
    text = (output / "results.md").read_text(encoding="utf-8")
    assert (
        "## Auxiliary heads" in text and "| es_dfm | dp |" in text and "| vanilla | dp" not in text
    )


def test_training_on_the_stream_changes_what_is_scored(finished):
    output = finished[2]
    scores = [np.load(output / "streams" / n / "scores.npy") for n in (PRETRAINED, VANILLA, ORACLE)]
    for a, b in pairwise(scores):
        assert np.nanmax(np.abs(a - b)) > 1e-4


def test_a_stream_has_a_share_of_the_learning_rates(data, finished):
    """A share of next to nothing leaves the pre-trained model as it is."""
    config, _, output = finished
    still = config.stream.model_copy(update={"learning_rate_share": 1e-9})
    other = config.model_copy(update={"stream": still})
    store = ClickStore(output / "clicks")
    delays = store.delays_ms("conversion")
    entered = entries(store.clicks_ms, delays, store.known_ms("conversion"), 6 * HOUR, Policy())
    periods = Periods.of(store.clicks_ms, 12 * HOUR)
    trained = output / "pretrained" / "as_observed" / MODEL
    folder = output.parent / "still"
    way = Stream(
        load_model(trained), load_model(trained), store, entered, delays, periods, other, folder
    )
    scores = way.run("still", progress=False)
    before = np.load(output / "streams" / PRETRAINED / "scores.npy")
    np.testing.assert_allclose(scores, before, rtol=1e-5)


def test_a_finished_table_is_not_made_again(data, finished, monkeypatch):
    config, frame, output = finished
    monkeypatch.setattr(Stream, "_fit", None)
    again = run_streams(data, ["es_dfm"], output, config, progress=False)
    assert again.equals(frame)


def test_an_interrupted_stream_goes_on_as_if_undisturbed(data, finished, monkeypatch):
    config, frame, output = finished
    update = {"stream": config.stream.model_copy(update={"checkpoint_periods": 1})}
    folder = output / "streams" / "es_dfm"
    shutil.rmtree(folder)
    fit, fitted = Stream._fit, []

    def stopped(self, number: int) -> None:
        fitted.append(number)
        if fitted.count(2) == 1 and number == 2:
            raise KeyboardInterrupt
        fit(self, number)

    monkeypatch.setattr(Stream, "_fit", stopped)
    resumed = config.model_copy(update=update)
    with pytest.raises(KeyboardInterrupt):
        run_streams(data, ["es_dfm"], output, resumed, progress=False)
    again = run_streams(data, ["es_dfm"], output, resumed, progress=False)
    assert fitted == [0, 1, 2, *range(2, fitted[-1] + 1)]
    for column in ("estimate", "lower", "upper"):
        np.testing.assert_allclose(
            again[column].to_numpy(), frame[column].to_numpy(), rtol=1e-5, equal_nan=True
        )


def test_a_finished_stream_leaves_the_model_as_its_last_period_did(data, finished):
    """What is published after a kill between the last period and the publication."""
    config, _, output = finished
    folder, trained = output / "streams" / "es_dfm", output / "pretrained" / "es_dfm" / MODEL
    store = ClickStore(output / "clicks")
    periods = Periods.of(store.clicks_ms, 12 * HOUR)
    nothing = entries(store.clicks_ms, store.clicks_ms * 0 - 1, store.clicks_ms, 0, Policy())
    model, auxiliary = load_model(trained), load_model(trained)
    before = [v.numpy() for v in model.towers["conversion"].weights]
    way = Stream(model, auxiliary, store, nothing, store.clicks_ms, periods, config, folder)
    way.run("es_dfm", progress=False)
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    assert reader.get_tensor("period/.ATTRIBUTES/VARIABLE_VALUE") == len(periods)
    after = [v.numpy() for v in model.towers["conversion"].weights]
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    kept = {name.split("/.ATTRIBUTES")[0]: name for name in reader.get_variable_to_shape_map()}
    saved = [reader.get_tensor(n) for k, n in kept.items() if "towers/conversion" in k]
    assert saved and all(any(np.array_equal(a, s) for s in saved) for a in after)


def test_other_settings_do_not_mix(data, finished):
    config, _, output = finished
    other = config.model_copy(update={"seed": 2})
    with pytest.raises(OutputError, match="other settings or examples"):
        run_streams(data, [], output, other, progress=False)


def test_a_folder_of_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="holds no streams"):
        run_streams(data, [], tmp_path, CONFIG, progress=False)


def test_history_that_is_not_final_is_refused(data, tmp_path):
    days = CriteoDays(history=6, validation=2, gap=0, horizon=2.0)
    read_criteo(data.directory.parent / "data.txt", tmp_path / "examples", CONFIG, days)
    early = ExampleSet.open(tmp_path / "examples", SplitConfig())
    with pytest.raises(DataError, match=r"final up to 4\d\.\d h after the stream's start"):
        run_streams(early, [], tmp_path / "out", CONFIG, progress=False)


def test_the_command(data, tmp_path, capsys):
    log, examples = data.directory.parent / "data.txt", tmp_path / "examples"
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    days = ["--history-days", "6", "--validation-days", "2", "--gap-days", "2"]
    command = ["cmdcm", "criteo", "--input", str(log), "--output", str(examples), *days]
    assert main(parse([*command, "--horizon-days", "2", *settings])) == 0
    assert "left_out" in capsys.readouterr().out
    command = ["cmdcm", "stream", "--examples", str(examples), "--output", str(tmp_path / "out")]
    assert main(parse([*command, "--model", "fnw", *settings, "--overwrite"])) == 0
    assert "| fnw |" in capsys.readouterr().out


def test_the_command_on_an_event_log(small_world, tmp_path, capsys):
    """Its clicks have users, refunds and vector inputs, which the public log has not."""
    settings = [*SMALL, "training.epochs=1", "stream.step_hours=24", "stream.immature='keep'"]
    command = ["cmdcm", "stream", "--examples", str(small_world.examples), "--model", "ulc"]
    command += ["--output", str(tmp_path / "out")]
    assert main(parse([*command, *(p for s in settings for p in ("--set", s))])) == 0
    assert "| ulc |" in capsys.readouterr().out
    store = ClickStore(tmp_path / "out" / "clicks")
    assert len(np.unique(store.users)) < len(store)
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    held = results.filter(pl.col("metric") == "log_loss", pl.col("model") == "ulc").to_dicts()
    assert held[0]["difference_lower"] <= held[0]["difference_estimate"]


# The results, by hand


def test_the_relative_improvement_has_its_anchors():
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.6, 4_000)
    y = (random.random(4_000) < truth).astype(np.int64)
    scores = {
        VANILLA: (truth / 2).astype(np.float32),
        "half": (0.75 * truth).astype(np.float32),
        ORACLE: truth.astype(np.float32),
    }
    frame = measure(scores, y, np.arange(4_000), CONFIG.evaluation, seed=1)
    rows = {r["model"]: r for r in frame.iter_rows(named=True) if r["metric"] == "log_loss"}
    losses = {name: log_loss(y, p) or 0.0 for name, p in scores.items()}
    expected = (losses["half"] - losses[VANILLA]) / (losses[ORACLE] - losses[VANILLA])
    assert rows["half"]["relative_estimate"] == pytest.approx(expected, rel=1e-5)
    assert rows["half"]["relative_lower"] < expected < rows["half"]["relative_upper"]
    assert rows["half"]["difference_upper"] < 0
    assert rows[VANILLA]["p_value"] is rows[VANILLA]["adjusted_p_value"] is None
    p = [row["p_value"] for row in frame.iter_rows(named=True)]
    assert len([value for value in p if value is not None]) == 4  # two rivals, two metrics
    assert frame["adjusted_p_value"].to_list() == adjusted(p, CONFIG.evaluation.correction)
    shown = table(frame, "caption")
    assert [row[0] for row in shown.rows] == [VANILLA, "half", ORACLE]
    assert shown.columns.count("RI") == 2
    assert " p < 0.001" in shown.rows[1][6] and " p " not in shown.rows[0][6]


def test_periods_without_a_positive_have_no_auc():
    periods = Periods(np.array([0, 10, 20, 30]))
    clicks = np.array([12, 15, 22, 25])
    y = np.array([0, 0, 1, 0])
    frame = by_period({"m": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}, y, clicks, periods)
    assert frame["start_ms"].to_list() == [10, 20]
    assert frame["auc"].to_list() == [None, 0.0]
    assert frame["rows"].to_list() == [2, 2]
