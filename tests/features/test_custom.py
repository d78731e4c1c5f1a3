"""Features of one's own: the handbook's module from the command line to the model's input."""

import importlib
import re
import sys

import numpy as np
import pyarrow as pa
import pytest

from cmdcm.core.config import FeaturesConfig
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.datasets.calendar import to_ms
from cmdcm.features.custom import Clicks, custom_feature
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.spec import FeatureSpec
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.features.logs import Log, dense_log, event
from cmdcm.tests.features.reference import DAY, HOUR
from cmdcm.tests.features.test_pipeline import ZONE, config, events, log, shard_rows
from cmdcm.tests.model.batches import random_batch, shake, tiny_model

__all__ = ["events", "log"]  # fixtures

OPENS = to_ms("2024-03-02", ZONE)


def handbook_module() -> str:
    page = (ROOT / "docs" / "features.md").read_text("utf-8")
    match = re.search(r"```python\n# my_features.py\n(.*?)```", page, re.DOTALL)
    assert match
    return match[1]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Writes a module that can be imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made = []

    def write(name: str, text: str) -> str:
        (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def test_the_handbooks_feature_takes_less_than_ten_lines_and_is_written(
    log, events, modules, tmp_path
):
    text = handbook_module()
    assert len([line for line in text.splitlines() if line.strip()]) < 10
    build_dataset(events, tmp_path / "out", config(modules=(modules("my_features", text),)))
    spec = FeatureSpec.load(tmp_path / "out" / "spec.json")
    feature = spec["hours_since_cart"]
    assert (feature.side, feature.encoding, feature.is_input) == ("user", "log1p", True)
    rows = shard_rows(sorted((tmp_path / "out").glob("*/part-*")))
    assert len(rows) > 30
    times = set()
    for row in rows:
        user, time = row["user_id"][1], row["click_time_ms"][1]
        carts = [
            e["time"]
            for e in log.events
            if (e["user_id"], e["kind"]) == (user, "cart") and e["time"] < time
        ]
        expected = (time - max(carts)) / HOUR if carts else 10_000
        assert row["hours_since_cart"][1] == np.float32(expected)
        times.add(expected)
    assert len(times) > 5


def test_the_model_takes_the_feature_as_any_other(modules):
    name = modules("my_features", handbook_module())
    spec = Log([], features=FeaturesConfig(modules=(name,), user_buckets=9, item_buckets=9)).spec
    assert "hours_since_cart" in [f.name for f in spec.user_inputs]
    batch = random_batch(spec, rows=4)
    model = shake(tiny_model(spec))
    before = model(batch)["direct"].numpy()
    after = model({**batch, "hours_since_cart": batch["hours_since_cart"] + 50})
    assert (after["direct"].numpy() != before).all()


def clicks_of(log: Log) -> Clicks:
    """What the engine gives to a feature of the log's clicks, in order."""
    seen: list[Clicks] = []

    @custom_feature(dtype="int64", side="user")
    def watch(clicks):
        seen.append(clicks)
        return np.zeros(len(clicks.rows), np.int64)

    module = type(sys)("watching_features")
    vars(module)["watch"] = watch
    sys.modules["watching_features"] = module
    try:
        features = log.features.model_copy(update={"modules": ("watching_features",)})
        Log(log.events, columns=log.columns, features=features).examples()
    finally:
        del sys.modules["watching_features"]
    (clicks,) = seen
    return clicks


def test_clicks_know_what_was_strictly_before_them():
    t = OPENS + DAY
    clicks = clicks_of(
        Log(
            [
                event(1, 2, "cart", t - HOUR, 8),
                event(1, 3, "cart", t - HOUR - 1, 9),
                event(1, 3, "cart", t, 9),
                event(1, 3, "click", t, 9),
                event(1, 3, "cart", t + 1, 9),
                event(2, 3, "click", t, None),
                event(2, 3, "cart", t - 5, None),
            ]
        )
    )
    assert clicks.times_ms.tolist() == [t, t]
    assert clicks.window_start_ms.tolist() == [OPENS, OPENS]
    assert clicks.promotion_start_ms.tolist() == [OPENS + 3 * DAY] * 2
    assert clicks.last_ms("user", "cart").tolist() == [t - HOUR, t - 5]
    assert clicks.last_ms("user_item", "cart").tolist() == [t - HOUR - 1, t - 5]
    assert clicks.last_ms("user_category", "cart").tolist() == [t - HOUR - 1, -1]
    assert clicks.last_ms("user", "refund").tolist() == [-1, -1]
    assert clicks.count("user", "cart", 1).tolist() == [1, 1]
    assert clicks.count("user", "cart", 2).tolist() == [2, 1]
    assert clicks.count("user_item", "cart", 1).tolist() == [0, 1]
    assert clicks.column("category_id").to_pylist() == [9, None]
    with pytest.raises(ConfigError, match="no column 'detail'"):
        clicks.column("detail")
    with pytest.raises(ConfigError, match="no events by 'shop'"):
        clicks.count("shop", "cart", 1)


VECTOR = """
import numpy as np
import pyarrow as pa
from cmdcm.features.custom import custom_feature

@custom_feature(dtype="float32", side="cross", shape="vector", length=2)
def pair(clicks):
    return np.column_stack([clicks.times_ms, -clicks.times_ms]).astype(np.float32)

@custom_feature(dtype="string", side="item", shape="sequence", length=3)
def words(clicks):
    return pa.array([["a"] * (n % 3) for n in range(len(clicks.rows))])
"""


def test_vectors_and_sequences_have_the_shape_of_their_feature(modules):
    features = FeaturesConfig(modules=(modules("vector_features", VECTOR),))
    (table, *_) = dense_log(0, features=features).examples()
    assert table["pair"].type == pa.list_(pa.float32(), 2)
    time = np.float32(table["click_time_ms"][0].as_py())
    assert table["pair"][0].as_py() == [time, -time]
    assert table["words"].to_pylist()[:4] == [[], ["a"], ["a", "a"], []]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("return np.zeros(3)", "a value for each of"),
        ("return np.zeros((len(clicks.rows), 2))", "should give values of float"),
        ("return ['x'] * len(clicks.rows)", "should give values of float"),
    ],
)
def test_values_that_do_not_fit_are_named(modules, body, error):
    text = (
        "import numpy as np\nfrom cmdcm.features.custom import custom_feature\n"
        f"@custom_feature(dtype='float32', side='user')\ndef wrong(clicks):\n    {body}\n"
    )
    log = dense_log(0, features=FeaturesConfig(modules=(modules("wrong_features", text),)))
    with pytest.raises(DataError, match=f"'wrong' .*{error}"):
        log.examples()


def test_modules_without_features_are_named(modules):
    with pytest.raises(ConfigError, match="cannot import 'no_such_module'"):
        _ = Log([], features=FeaturesConfig(modules=("no_such_module",))).spec
    empty = modules("empty_features", "x = 1\n")
    with pytest.raises(ConfigError, match="'empty_features' has no feature"):
        _ = Log([], features=FeaturesConfig(modules=(empty,))).spec


def test_a_feature_that_is_not_sound_is_named():
    with pytest.raises(ConfigError, match=r"feature 'bad': .*hash needs"):

        @custom_feature(dtype="int64", side="user", encoding="hash")
        def bad(clicks):
            return clicks.times_ms
