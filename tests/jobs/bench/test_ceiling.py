"""Examples that are taught the truth: the label alone differs, and of the training rows alone."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cmdcm.core.errors import DataError
from cmdcm.core.files import verify_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.rows import sample_rows
from cmdcm.jobs.bench.ceiling import soft_examples
from cmdcm.jobs.bench.cost import TrainingSpeed


@pytest.fixture(scope="module")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="module")
def soft(small_world, data, tmp_path_factory) -> ExampleSet:
    target = tmp_path_factory.mktemp("soft") / "examples"
    soft_examples(data, small_world.truth, target)
    verify_manifest(target)
    return ExampleSet.open(target, small_world.config.split)


def rows_of(data: ExampleSet, days) -> pl.DataFrame:
    chosen = {day: data.manifest["days"][day] for day in days}
    whole = {"rows": sum(day["rows"] for day in chosen.values()), "days": chosen}
    return pl.DataFrame(pl.from_arrow(sample_rows(data.directory, whole, data.spec, 10**9)))


def test_the_training_rows_learn_the_true_probability(small_world, data, soft):
    true = pl.read_parquet(small_world.truth / "part-*.parquet").with_columns(
        click_time_ms=pl.col("timestamp").dt.epoch("ms")
    )
    keys = ["user_id", "item_id", "click_time_ms"]
    expected = rows_of(data, data.split.train).join(
        true.select(*keys, "p_conversion"), on=keys, maintain_order="left"
    )
    got = rows_of(soft, soft.split.train)
    np.testing.assert_allclose(got["conversion"], expected["p_conversion"], rtol=1e-6)
    assert not set(np.unique(got["conversion"])) <= {0.0, 1.0}
    others = [name for name in data.spec.names() if name != "conversion"]
    assert got.select(others).equals(expected.select(others))


def test_validation_keeps_what_happened(data, soft):
    before, after = (rows_of(d, d.split.validation)["conversion"] for d in (data, soft))
    assert before.cast(pl.Float32).equals(after.cast(pl.Float32))
    assert before.sum() > 0


def test_the_manifest_counts_what_the_rows_hold(data, soft):
    assert soft.split == data.split
    assert soft.total("train") == data.total("train")
    expected = rows_of(soft, soft.split.train)["conversion"].sum()
    assert soft.total("train", "conversion") == pytest.approx(expected, rel=1e-4)
    assert soft.total("train", "direct") == data.total("train", "direct")


def test_the_truth_of_another_world_is_refused(small_world, data, tmp_path):
    other = tmp_path / "truth"
    other.mkdir()
    for file in small_world.truth.iterdir():
        if file.suffix == ".parquet":
            pl.read_parquet(file).head(0).write_parquet(other / file.name)
        else:
            (other / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="the truth is not that of these examples"):
        soft_examples(data, other, tmp_path / "soft")
    assert not (tmp_path / "soft").exists()


def test_what_is_there_is_left_alone(small_world, data, soft):
    before = (soft.directory / "manifest.json").stat().st_mtime_ns
    soft_examples(replace(data), small_world.truth, soft.directory)
    assert (soft.directory / "manifest.json").stat().st_mtime_ns == before


def test_the_speed_is_that_of_the_best_epoch():
    speed = TrainingSpeed()
    assert speed.examples_per_second is None
    for epoch, value in enumerate((100.0, 900.0, 800.0), start=1):
        speed.finished_epoch(epoch, {"speed/examples_per_second": value})
    speed.finished_epoch(4, {})
    assert speed.examples_per_second == 900
