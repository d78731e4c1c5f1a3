"""The feature spec: what it refuses, what is derived from it, and its file."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.spec import Feature, FeatureSpec, subset


def hashed(name: str, buckets: int = 10, table: str = "item", **more) -> Feature:
    values: dict[str, Any] = {"dtype": "int64", "side": "item", "encoding": "hash"}
    return Feature(**{**values, "name": name, "buckets": buckets, "table": table, **more})


@pytest.fixture
def spec():
    clicked: dict[str, Any] = {
        "side": "user",
        "shape": "sequence",
        "length": 5,
        "sequence": "clicked",
    }
    return FeatureSpec(
        features=(
            hashed("user_id", 7, "user", side="user"),
            hashed("clicked_item", **clicked),
            Feature(name="clicked_age", dtype="float32", encoding="age", default=-1.0, **clicked),
            Feature(name="hour", dtype="int64", side="context", encoding="raw"),
            hashed("item_id"),
            Feature(
                name="kind",
                dtype="string",
                side="item",
                encoding="vocabulary",
                vocabulary=("a", "b"),
                table="kind",
                default="",
            ),
            Feature(
                name="counts",
                dtype="float32",
                side="cross",
                shape="vector",
                length=2,
                components=("click", "cart"),
                encoding="log1p",
            ),
            Feature(name="bought", dtype="int64", side="label"),
            Feature(name="click_time", dtype="int64", side="meta"),
        )
    )


def names(features) -> list[str]:
    return [feature.name for feature in features]


class TestFeature:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"length": 2}, "a scalar has length 1. Received: 2"),
            (
                {"shape": "vector", "length": 3, "components": ("a", "b")},
                "2 components for length 3",
            ),
            ({"encoding": "hash", "buckets": 3}, "hash needs `buckets` and `table`"),
            ({"encoding": "known", "table": "t"}, "known needs `buckets` and `table`"),
            ({"encoding": "identity", "buckets": 3}, "identity needs `buckets` and `table`"),
            ({"encoding": "vocabulary", "table": "t"}, "vocabulary needs `vocabulary`"),
            ({"encoding": "onehot"}, "Input should be 'hash', 'known'"),
            ({"side": "seller"}, "Input should be 'user'"),
            ({"size": 3}, "Extra inputs are not permitted"),
        ],
    )
    def test_refuses_what_does_not_fit_together(self, values, message):
        with pytest.raises(ValidationError) as error:
            Feature(**{"name": "x", "dtype": "int64", "side": "item", **values})
        assert message in str(error.value)

    def test_labels_and_meta_are_no_inputs(self, spec):
        assert names(f for f in spec.features if not f.is_input) == ["bought", "click_time"]


class TestFeatureSpec:
    def test_sides(self, spec):
        assert names(spec.user_inputs) == ["user_id", "clicked_item", "clicked_age", "hour"]
        assert names(spec.candidate_inputs) == ["item_id", "kind", "counts"]
        assert spec.inputs == spec.user_inputs + spec.candidate_inputs
        assert names(spec.of("label")) == ["bought"]

    def test_lookup(self, spec):
        assert spec["hour"].side == "context"
        assert "hour" in spec
        assert "minute" not in spec
        with pytest.raises(ConfigError, match=r"unknown feature 'minute'; .*'hour'"):
            spec["minute"]

    def test_columns_of_a_sequence_are_grouped(self, spec):
        assert {name: names(columns) for name, columns in spec.sequences().items()} == {
            "clicked": ["clicked_item", "clicked_age"]
        }

    def test_tables_are_shared_and_a_vocabulary_has_a_row_for_the_unknown(self, spec):
        assert spec.tables() == {"user": 7, "item": 10, "kind": 3}

    def test_a_table_has_one_number_of_rows(self):
        spec = FeatureSpec(features=(hashed("a", 10), hashed("b", 11)))
        with pytest.raises(ConfigError, match=r"'b' wants 11 rows of table 'item', .* 10"):
            spec.tables()

    def test_a_table_whose_rows_are_not_chosen_yet_cannot_be_made(self):
        spec = FeatureSpec(features=(hashed("a", 0),))
        with pytest.raises(ConfigError, match="the rows of table 'item' are not chosen yet"):
            spec.tables()

    def test_one_name_twice(self):
        with pytest.raises(ValidationError, match=r"features defined twice: \['a'\]"):
            FeatureSpec(features=(hashed("a"), hashed("b"), hashed("a")))

    def test_subset_keeps_the_order_of_the_spec(self, spec):
        assert subset(spec, ["item_id", "user_id"]).names() == ("user_id", "item_id")
        with pytest.raises(ConfigError, match="unknown feature 'x'"):
            subset(spec, ["item_id", "x"])


class TestFile:
    def test_what_is_loaded_is_what_was_saved(self, spec, tmp_path):
        spec.save(tmp_path / "spec.json")
        loaded = FeatureSpec.load(tmp_path / "spec.json")
        assert loaded == spec
        assert isinstance(loaded["clicked_age"].default, float)
        assert isinstance(loaded["clicked_item"].default, int)

    @given(
        st.builds(
            Feature,
            name=st.text(min_size=1),
            dtype=st.sampled_from(["int64", "float32", "string"]),
            side=st.sampled_from(["user", "context", "item", "cross", "label", "meta"]),
            shape=st.just("sequence"),
            length=st.integers(1, 100),
            default=st.one_of(
                st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
            ),
            description=st.text(),
        )
    )
    def test_any_feature_survives_json(self, feature):
        spec = FeatureSpec(features=(feature,))
        text = json.dumps(spec.model_dump(mode="json"))
        read = FeatureSpec.model_validate(json.loads(text))
        assert read == spec
        assert type(read.features[0].default) is type(feature.default)

    def test_a_file_that_is_no_spec_is_named(self, tmp_path):
        path = tmp_path / "spec.json"
        with pytest.raises(DataError, match=f"feature spec not found at {path}"):
            FeatureSpec.load(path)
        path.write_text('{"features": [{"name": "x"}]}')
        with pytest.raises(DataError, match=f"feature spec at {path} is not usable: (?s:.*)dtype"):
            FeatureSpec.load(path)
