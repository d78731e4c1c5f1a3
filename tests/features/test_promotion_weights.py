"""Weights of promotions against numbers worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cmdcm.core.config import TrainingConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import DAY_MS, yearly
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.encode import write_tfrecords
from cmdcm.features.input import examples
from cmdcm.features.plan import STATISTICS
from cmdcm.features.promotion_weights import PromotionWeights, distances, promotion_weights
from cmdcm.features.sampling import WEIGHT, RowWeights
from cmdcm.features.shards import Shards
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.split import Split
from cmdcm.features.statistics import StatisticsBuilder

CALENDAR = yearly(["618", "double11"], [2023, 2024], "UTC")
SPEC = FeatureSpec(
    features=(
        Feature(name="pieces", dtype="int64", side="item", encoding="log1p"),
        Feature(
            name="counts", dtype="int64", side="user", shape="vector", length=2, encoding="log1p"
        ),
        Feature(name="direct", dtype="int64", side="label"),
        Feature(name="promotion", dtype="string", side="meta", default=""),
        Feature(name="click_time_ms", dtype="int64", side="meta"),
    )
)
PIECES = {"618-2023": [1, 2], "double11-2023": [1, 1], "618-2024": [1, 1], "double11-2024": [1, 1]}
COUNTS = {"double11-2023": [[7, 0], [7, 0]]}
ROWS = {"618-2023": 100, "double11-2023": 300, "618-2024": 50, "double11-2024": 50}


@pytest.fixture
def data(tmp_path) -> ExampleSet:
    """The first two promotions train, the third validates."""
    shards = Shards()
    for name in ROWS:
        builder = shards.statistics[name] = StatisticsBuilder(SPEC)
        labels = [len(name) % 2] * 2  # differ without counting
        columns = {
            "pieces": PIECES[name],
            "counts": COUNTS.get(name, [[0, 0]] * 2),
            "direct": labels,
        }
        builder.add(pa.table({name: pa.array(values) for name, values in columns.items()}))
    shards.save(tmp_path / STATISTICS)
    days = {f"{CALENDAR.get(name).name}-day": name for name in ROWS}
    manifest = {"days": {d: {"promotion": p, "rows": ROWS[p]} for d, p in days.items()}}
    parts = list(days)
    split = Split("promotion", tuple(parts[:2]), (parts[2],), (parts[3],))
    return ExampleSet(tmp_path, manifest, SPEC, CALENDAR, split)


def weighted(data: ExampleSet, **settings: Any) -> PromotionWeights:
    found = promotion_weights(data, TrainingConfig(**settings))
    assert found is not None
    return found


def test_nothing_is_weighted_unless_asked_for(data):
    assert promotion_weights(data, TrainingConfig()) is None


def test_recency_halves_and_the_mean_over_rows_is_one(data):
    # 618 starts on June 18th, Double 11 on November 11th: 146 days.
    found = weighted(data, recency_half_life_days=73.0)
    assert found.names == ("618-2023", "double11-2023")
    # 1/4 and 1, on 100 and 300 rows: the mean is (25 + 300) / 400.
    assert found.weights == pytest.approx([0.25 / 0.8125, 1 / 0.8125])
    assert np.average(found.weights, weights=found.rows) == pytest.approx(1)
    # (25 + 300)^2 / (100 / 16 + 300)
    assert found.effective_rows() == pytest.approx(325**2 / 306.25)
    assert found.describe()["618-2023"] == pytest.approx(0.25 / 0.8125)


def test_similarity_is_the_mean_divergence_of_the_inputs(data):
    # Of 618-2023 only `pieces` differs: p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4).
    pieces = (0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25) + np.log2(1 / 0.75)) / 2
    # Of double11-2023 only the first of two counts: its divergence is 1, that of the vector 1/2.
    assert distances(data, list(ROWS), "618-2024") == pytest.approx([pieces / 2, 0.25, 0, 0])
    found = weighted(data, similarity_scale=0.2)
    raw = np.exp(-np.array([pieces / 2, 0.25]) / 0.2)
    assert found.weights == pytest.approx(raw * 400 / (100 * raw[0] + 300 * raw[1]))


def test_both_multiply_and_the_reference_can_be_named(data):
    settings = {"similarity_scale": 0.2, "similar_to": "double11-2023"}
    both = weighted(data, recency_half_life_days=73.0, **settings)
    one, other = (weighted(data, **given) for given in (settings, {"recency_half_life_days": 73.0}))
    product = one.weights * other.weights
    assert both.weights == pytest.approx(product * 400 / np.sum(product * both.rows))
    assert one.weights[1] > one.weights[0]


def test_equal_distributions_leave_all_weights_at_one(data):
    days = tuple(data.manifest["days"])
    alike = ExampleSet(
        data.directory, data.manifest, SPEC, CALENDAR, Split("promotion", days[2:], days[2:3], ())
    )
    found = weighted(alike, similarity_scale=1e-3)
    assert found.weights.tolist() == [1.0, 1.0]


def test_extreme_settings_stay_finite(data):
    found = weighted(data, recency_half_life_days=1e-3)
    assert found.weights == pytest.approx([0, 400 / 300])


def test_faults_are_named(data):
    unknown = TrainingConfig(similarity_scale=0.1, similar_to="x")
    with pytest.raises(
        ConfigError, match=r"no examples of the promotion 'x'; there are \['618-2023'"
    ):
        promotion_weights(data, unknown)
    with pytest.raises(ValidationError, match="similar_to needs a similarity_scale above 0"):
        TrainingConfig(similar_to="618-2023")
    (data.directory / STATISTICS).unlink()
    with pytest.raises(DataError, match="cannot read"):
        weighted(data, similarity_scale=0.1)


def test_rows_get_the_weight_of_their_click_s_promotion(tmp_path: Path):
    opening = np.array([10, 100]) * DAY_MS
    weights = PromotionWeights(("a", "b"), opening, np.array([3, 2]), np.array([0.5, 1.75]))
    clicks = np.array([10, 50, 99.9, 100, 120]) * DAY_MS
    table = pa.table(
        {
            "pieces": [1, 2, 3, 4, 5],
            "direct": [1, 0, 0, 0, 1],
            "click_time_ms": clicks.astype(np.int64),
        }
    )
    write_tfrecords(tmp_path / "part", [table])

    def read(**settings) -> list[float]:
        rows = RowWeights(SPEC, promotions=weights, **settings)
        dataset = examples(
            [tmp_path / "part"], SPEC, batch_size=8, columns=["pieces"], weights=rows,
            pad_remainder=True,
        )  # fmt: skip
        (batch,) = dataset.as_numpy_iterator()
        assert set(batch) == {"pieces", WEIGHT}
        return batch[WEIGHT].tolist()

    assert read() == [0.5, 0.5, 0.5, 1.75, 1.75, 0, 0, 0]
    assert read(column="pieces") == [0.5, 1.0, 1.5, 7.0, 8.75, 0, 0, 0]
