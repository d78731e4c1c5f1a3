"""Contract 3, the feature spec: every column of an example, defined once.

The encoder, the parser, Keras' inputs, the serving signatures, schema.pbtxt and the checks of a
request derive from it. A data set carries the spec that made it as `spec.json`.

Raw values (ids, counts, ages, prices) are stored and sent; hashing, bucketing and normalisation
happen inside the model's graph (`cmdcm.model.inputs`), so training and serving cannot differ.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_json, write_json

DType = Literal["int64", "float32", "string"]
Shape = Literal["scalar", "vector", "sequence"]
Side = Literal["user", "context", "item", "cross", "label", "meta"]
Encoding = Literal["hash", "known", "vocabulary", "log1p", "raw", "age", "identity", "none"]


class Feature(BaseModel):
    """One named column of an example.

    Attributes:
        name: Unique name; also the name of the input in every serving signature.
        dtype: Type of the raw value.
        shape: `scalar` is [batch]; `vector` is [batch, length]; `sequence` has at most `length`
            elements, newest first, and becomes [batch, length] padded with `default`.
        length: Elements of a vector, or the most of a sequence; 1 for a scalar.
        side: Whose feature it is. `user` and `context` are sent once a request, `item` and `cross`
            once a candidate. `label` and `meta` are never model inputs.
        encoding: What the graph does with the raw value: `hash` (into `buckets` rows of `table`),
            `known` (place in a list of ids among the model's weights, one row of `table` each; the
            last row is that of all other ids), `vocabulary` (index into `vocabulary`, then
            `table`), `identity` (integer below `buckets`, then `table`), `log1p`, `raw` (as it is),
            `age` (seconds, into log buckets).
        buckets: Rows of the embedding table, for `hash`, `known` and `identity`; 0 of a `hash`
            whose rows are still to be chosen.
        hashes: Hash functions of `hash`, each of which gives a row; their embeddings are summed.
        table: Name of the embedding table; features that name one table share it.
        vocabulary: Known values for `vocabulary`; any other value has a row of its own.
        default: Value of a missing scalar and padding of a sequence.
        components: Names of a vector's elements, in order.
        sequence: Name of the sequence that this column belongs to; columns of one sequence are
            aligned, and a padded position has a negative age.
        description: Formula, window and unit, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: DType
    side: Side
    shape: Shape = "scalar"
    length: int = 1
    encoding: Encoding = "none"
    buckets: int = 0
    hashes: int = 1
    table: str = ""
    vocabulary: tuple[str, ...] = ()
    default: int | float | str = 0
    components: tuple[str, ...] = ()
    sequence: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Feature":
        if self.shape == "scalar" and self.length != 1:
            raise ValueError(f"{self.name}: a scalar has length 1. Received: {self.length}")
        if self.shape == "vector" and self.components and len(self.components) != self.length:
            raise ValueError(
                f"{self.name}: {len(self.components)} components for length {self.length}"
            )
        if self.encoding in ("hash", "known", "identity") and (
            self.buckets < (self.encoding != "hash") or not self.table
        ):
            raise ValueError(f"{self.name}: {self.encoding} needs `buckets` and `table`")
        if self.encoding == "vocabulary" and not (self.vocabulary and self.table):
            raise ValueError(f"{self.name}: vocabulary needs `vocabulary` and `table`")
        return self

    @property
    def is_input(self) -> bool:
        """Whether the model reads this column."""
        return self.side not in ("label", "meta")


class FeatureSpec(BaseModel):
    """All columns of an example, in the order in which they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[Feature, ...]

    @model_validator(mode="after")
    def _check(self) -> "FeatureSpec":
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"features defined twice: {twice}")
        return self

    def __getitem__(self, name: str) -> Feature:
        """Returns the feature called `name`."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise ConfigError(f"unknown feature {name!r}; the spec has {list(self.names())}")

    def __contains__(self, name: object) -> bool:
        return any(feature.name == name for feature in self.features)

    def names(self) -> tuple[str, ...]:
        """Returns all names in order."""
        return tuple(feature.name for feature in self.features)

    def of(self, *sides: Side) -> tuple[Feature, ...]:
        """Returns the features of the given sides, in order."""
        return tuple(feature for feature in self.features if feature.side in sides)

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The columns that the model reads."""
        return tuple(feature for feature in self.features if feature.is_input)

    @property
    def user_inputs(self) -> tuple[Feature, ...]:
        """The inputs that a request carries once."""
        return self.of("user", "context")

    @property
    def candidate_inputs(self) -> tuple[Feature, ...]:
        """The inputs that a request carries for each candidate."""
        return self.of("item", "cross")

    def sequences(self) -> dict[str, tuple[Feature, ...]]:
        """Returns the aligned columns of each sequence, by the sequence's name."""
        groups: dict[str, tuple[Feature, ...]] = {}
        for feature in self.inputs:
            if feature.sequence:
                groups[feature.sequence] = (*groups.get(feature.sequence, ()), feature)
        return groups

    def tables(self) -> dict[str, int]:
        """Returns the rows of each embedding table, by name.

        Raises:
            ConfigError: Two features share a table but not its number of rows, or the rows are
                still to be chosen.
        """
        rows: dict[str, int] = {}
        for feature in self.inputs:
            if not feature.table:
                continue
            size = len(feature.vocabulary) + 1 if feature.vocabulary else feature.buckets
            if not size:
                raise ConfigError(
                    f"the rows of table {feature.table!r} are not chosen yet: `cmdcm features` does"
                )
            if rows.setdefault(feature.table, size) != size:
                raise ConfigError(
                    f"feature {feature.name!r} wants {size} rows of table {feature.table!r}, "
                    f"another feature {rows[feature.table]}"
                )
        return rows

    def save(self, path: Path) -> None:
        """Writes the spec as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "FeatureSpec":
        """Reads a spec that `save` wrote."""
        try:
            return cls.model_validate(read_json(path, "feature spec"))
        except ValueError as error:
            raise DataError(f"feature spec at {path} is not usable: {error}") from error


def subset(spec: FeatureSpec, names: Iterable[str]) -> FeatureSpec:
    """Returns the spec of the named features alone, in the spec's order."""
    wanted = set(names)
    for name in wanted:
        spec[name]
    return FeatureSpec(features=tuple(f for f in spec.features if f.name in wanted))


def arrow_type(feature: Feature) -> pa.DataType:
    """Returns the Arrow type of a feature's column."""
    scalar = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.string()}[feature.dtype]
    if feature.shape == "scalar":
        return scalar
    if feature.shape == "vector":
        return pa.list_(pa.int32() if feature.dtype == "int64" else scalar, feature.length)
    return pa.list_(scalar)
