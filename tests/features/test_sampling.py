"""Row weights and down-sampling, through `examples`: what is kept and what it weighs."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import examples, input_errors
from cmdcm.features.sampling import WEIGHT, RowWeights
from cmdcm.features.spec import Feature, FeatureSpec

SPEC = FeatureSpec(
    features=(
        Feature(name="row", dtype="int64", side="meta"),
        Feature(name="importance", dtype="float32", side="meta", default=1.0),
        Feature(name="copies", dtype="int64", side="item"),
        Feature(name="name", dtype="string", side="meta", default=""),
        Feature(name="counts", dtype="int64", side="user", shape="vector", length=2),
        Feature(name="direct", dtype="int64", side="label"),
        Feature(name="value", dtype="float32", side="label"),
    )
)
ROWS, FILES = 1500, 3
DIRECT = np.arange(ROWS) % 10 == 3
VALUE = np.where(np.arange(ROWS) % 7 == 0, 0.25, 0.0)
NEGATIVE = ~(DIRECT | (VALUE > 0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files of 500 rows; a row is positive by either label."""
    folder, paths = tmp_path_factory.mktemp("sampling"), []
    for number, rows in enumerate(np.split(np.arange(ROWS), FILES)):
        paths.append(folder / f"part-{number}")
        table = pa.table(
            {
                "row": rows,
                "importance": pa.array(rows % 5 / 2, pa.float32()),
                "copies": rows % 3,
                "direct": DIRECT[rows].astype(np.int64),
                "value": pa.array(VALUE[rows], pa.float32()),
            }
        )
        write_tfrecords(paths[-1], [table], gzip=number == 1)
    return paths


def read(files: list[Path], rate: float = 1.0, column: str = "", **options: Any) -> tuple:
    """Returns the rows and their weights, in order, and the sizes of the batches."""
    weights = RowWeights(SPEC, rate, column)
    options = {"batch_size": 64, "shuffle_seed": 5, "columns": ["row"], **options}
    got = list(examples(files, SPEC, weights=weights, **options).as_numpy_iterator())
    assert all(batch[WEIGHT].dtype == np.float32 for batch in got)
    return (
        np.concatenate([batch["row"] for batch in got]),
        np.concatenate([batch[WEIGHT] for batch in got]),
        [len(batch["row"]) for batch in got],
    )


def test_no_weights_unless_asked_for(files):
    plain = list(examples(files, SPEC, batch_size=64, shuffle_seed=5).as_numpy_iterator())
    neutral = examples(files, SPEC, batch_size=64, shuffle_seed=5, weights=RowWeights(SPEC))
    assert list(neutral.element_spec) == list(SPEC.names())
    for one, other in zip(plain, neutral.as_numpy_iterator(), strict=True):
        for name in SPEC.names():
            np.testing.assert_array_equal(one[name], other[name])


def test_positives_stay_and_kept_negatives_weigh_the_inverse_of_the_rate(files):
    rows, weights, sizes = read(files, 0.25)
    assert len(set(rows)) == len(rows)
    assert set(np.flatnonzero(~NEGATIVE)) <= set(rows)
    np.testing.assert_array_equal(weights, np.where(NEGATIVE[rows], 4, 1))
    kept, negatives = NEGATIVE[rows].sum(), NEGATIVE.sum()
    assert abs(kept - 0.25 * negatives) < 4 * np.sqrt(negatives * 0.25 * 0.75)
    assert set(sizes[:-1]) == {64}, "batches stay full"
    assert 0 < sizes[-1] <= 64


def test_what_is_kept_depends_on_the_record_the_seed_and_the_epoch_alone(files):
    def kept(**options: Any) -> set[int]:
        return set(read(options.pop("files", files), 0.5, **options)[0])

    first = kept()
    assert kept(batch_size=7, shuffle_buffer=10) == first
    assert kept(files=files[::-1]) == first
    assert kept(files=files[:1]) | kept(files=files[1:]) == first
    for workers in (3, 4):  # by file, by record
        parts = [kept(worker=w, workers=workers) for w in range(workers)]
        assert set.union(*parts) == first
        assert sum(map(len, parts)) == len(first)
    negatives = NEGATIVE.sum()
    for other in (kept(epoch=1), kept(shuffle_seed=6)):
        both = len(other & first & set(np.flatnonzero(NEGATIVE)))
        assert abs(both - negatives / 4) < 4 * np.sqrt(negatives * 3 / 16), "independent draws"


def test_skipping_batches_resumes_exactly(files):
    rows, weights, _ = read(files, 0.5)
    for skip in (1, 6, 50):
        if len(rows) > 64 * skip:
            rest, rest_weights, _ = read(files, 0.5, skip_batches=skip)
            np.testing.assert_array_equal(rest, rows[64 * skip :])
            np.testing.assert_array_equal(rest_weights, weights[64 * skip :])


def test_the_expected_sums_are_those_of_all_rows(files):
    """Horvitz and Thompson's estimate over epochs, of a loss that differs by row."""
    losses = np.random.default_rng(0).exponential(size=ROWS) + 2 * NEGATIVE
    rate, sums, counts = 0.2, [], []
    for epoch in range(40):
        rows, weights, _ = read(files, rate, epoch=epoch, batch_size=ROWS)
        sums.append(np.sum(weights * losses[rows]))
        counts.append(np.sum(weights))
    # Variance of one estimate: sum over negatives of l^2 (1 - r) / r.
    error = np.sqrt(np.sum(losses[NEGATIVE] ** 2) * (1 - rate) / rate / len(sums))
    assert abs(np.mean(sums) - losses.sum()) < 4 * error
    assert abs(np.mean(counts) - ROWS) < 4 * np.sqrt(NEGATIVE.sum() * (1 - rate) / rate / 40)
    assert np.mean(sums) / np.mean(counts) == pytest.approx(losses.mean(), rel=0.02)
    assert np.std(sums) > error, "another epoch keeps other rows"


@pytest.mark.parametrize("column", ["importance", "copies"])
def test_a_column_weights_the_rows(files, column):
    values = {"importance": np.arange(ROWS) % 5 / 2, "copies": np.arange(ROWS) % 3}[column]
    rows, weights, _ = read(files, column=column)
    assert sorted(rows) == list(range(ROWS))
    np.testing.assert_array_equal(weights, values[rows].astype(np.float32))
    rows, weights, _ = read(files, 0.5, column)
    np.testing.assert_array_equal(weights, (values * np.where(NEGATIVE, 2, 1))[rows])


def test_the_weight_has_a_static_size_where_the_batch_has(files):
    weights = RowWeights(SPEC, 0.5)
    dataset = examples(files, SPEC, batch_size=8, drop_remainder=True, weights=weights)
    assert dataset.element_spec[WEIGHT].shape == (8,)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_bad_weight_is_named(tmp_path, bad):
    table = pa.table({"importance": pa.array([1, bad], pa.float32())})
    write_tfrecords(tmp_path / "part", [table])
    with pytest.raises(DataError, match=rf"'importance' is {bad} in an example"), input_errors():
        read([tmp_path / "part"], column="importance")


def test_settings_that_cannot_be_used():
    for column, problem in (
        ("counts", "'counts' should be one number a row; it is a vector of int64"),
        ("name", "'name' should be one number a row; it is a scalar of string"),
        ("nope", "unknown feature 'nope'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            RowWeights(SPEC, column=column)
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match="`negative_rate` should be in"):
            RowWeights(SPEC, rate)
    without = FeatureSpec(features=SPEC.features[:4])
    with pytest.raises(ConfigError, match="the examples have no labels"):
        RowWeights(without, 0.5)


def test_a_column_with_the_weights_name_is_refused_only_where_both_are_in_a_batch(files):
    own = Feature(name=WEIGHT, dtype="float32", side="meta", default=3.0)
    spec = FeatureSpec(features=(*SPEC.features, own))
    weights = RowWeights(spec, column=WEIGHT)
    with pytest.raises(ConfigError, match="a column of the batch is called 'row_weight'"):
        examples(files, spec, batch_size=4, weights=weights)
    batch = next(iter(examples(files, spec, batch_size=4, columns=["row"], weights=weights)))
    assert batch[WEIGHT].numpy().tolist() == [3.0] * 4
