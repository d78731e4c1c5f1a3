"""The spec of a model's tables, and which ids have a row of their own.

With `tables.min_count` an id has one if the training examples look it up often enough. The lists
are weights of the model (`model/rows.py`), so that evaluation and serving know exactly the same.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from cmdcm.core.config import TablesConfig, TrainingConfig
from cmdcm.core.errors import ConfigError
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.input import examples, input_errors
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.rows import id_keys

Keys = npt.NDArray[np.int64]

_BATCH = 8192
_PENDING = 1 << 22  # keys that are collected before they are counted


class KeyCounter:
    """Counts keys; memory grows with the distinct ones.

    Example:
        >>> counter = KeyCounter()
        >>> counter.add(np.array([5, 3, 5]))
        >>> counter.add(np.array([3, 5, 9]))
        >>> counter.at_least(2).tolist()
        [3, 5]
    """

    def __init__(self) -> None:
        self._keys, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._pending: list[Keys] = []
        self._size = 0

    def add(self, keys: Keys) -> None:
        """Adds keys, [any]."""
        self._pending.append(keys)
        self._size += keys.size
        if self._size >= _PENDING:
            self._count()

    def at_least(self, count: int) -> Keys:
        """Returns the keys that were added so often, ascending."""
        self._count()
        return self._keys[self._counts >= count]

    def _count(self) -> None:
        pending = np.concatenate([self._keys[:0], *self._pending])
        new, counts = np.unique(pending, return_counts=True)
        self._keys, place = np.unique(np.concatenate([self._keys, new]), return_inverse=True)
        both = np.concatenate([self._counts, counts])
        # Counts are whole numbers far below 2^53, which a float64 holds.
        self._counts = np.bincount(place, both, len(self._keys)).astype(np.int64)
        self._pending, self._size = [], 0


def table_spec(
    data: ExampleSet, tables: TablesConfig, training: TrainingConfig
) -> tuple[FeatureSpec, dict[str, Keys]]:
    """Returns the spec of a model on these examples, and its known ids by table.

    Args:
        data: The examples; those that train are counted, each time an id is looked up: as a scalar,
            or as a true position of a sequence.
        tables: Says which tables have what.
        training: Says what to do at corrupted shards.

    Raises:
        ConfigError: There is no such table of hashed ids, or none of its ids is seen often enough.
    """
    hashed = {f.table for f in data.spec.inputs if f.encoding == "hash"}
    for setting, named in (("hashes", tables.hashes), ("min_count", tables.min_count)):
        unknown = sorted(named.keys() - hashed)
        if unknown:
            raise ConfigError(
                f"tables.{setting}: {unknown} are no tables of hashed ids; there are "
                f"{sorted(hashed)}"
            )
    known: dict[str, Keys] = {}
    if tables.min_count:
        counters = _count(data, tables.min_count, training)
        known = {t: counters[t].at_least(count) for t, count in tables.min_count.items()}
    for table, keys in known.items():
        if not keys.size:
            raise ConfigError(
                f"tables.min_count: no id of table {table!r} is looked up "
                f"{tables.min_count[table]} times in the training examples; lower it"
            )
        logging.info("table %s: %d known ids", table, keys.size)

    def of_table(feature: Feature) -> Feature:
        if feature.encoding != "hash":
            return feature
        if feature.table in known:
            rows = known[feature.table].size + 1
            return feature.model_copy(update={"encoding": "known", "buckets": rows})
        return feature.model_copy(update={"hashes": tables.hashes.get(feature.table, 1)})

    return FeatureSpec(features=tuple(of_table(f) for f in data.spec.features)), known


def _count(
    data: ExampleSet, tables: Iterable[str], training: TrainingConfig
) -> Mapping[str, KeyCounter]:
    counters = {table: KeyCounter() for table in tables}
    ages = {
        name: next(f.name for f in columns if f.encoding == "age")
        for name, columns in data.spec.sequences().items()
    }
    counted = [f for f in data.spec.inputs if f.encoding == "hash" and f.table in counters]
    columns = [f.name for f in counted] + [ages[f.sequence] for f in counted if f.sequence]
    batches = examples(
        data.files("train", training.on_corrupt),
        data.spec,
        batch_size=_BATCH,
        columns=list(dict.fromkeys(columns)),
        on_corrupt=training.on_corrupt,
    )
    with input_errors():
        for batch in batches:
            for feature in counted:
                keys = id_keys(batch[feature.name])
                if feature.sequence:
                    keys = tf.boolean_mask(keys, batch[ages[feature.sequence]] >= 0)
                counters[feature.table].add(keys.numpy())
    return counters
