"""A tiny feature spec, tiny models, and random batches of raw features."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cmdcm.core.config import FeaturesConfig, LabelsConfig, ModelConfig
from cmdcm.datasets.calendar import yearly
from cmdcm.datasets.events import event_schema
from cmdcm.features.columns import OPTIONAL_LABELS, example_spec
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.registry import make_model
from cmdcm.model.rows import id_keys

Arrays = dict[str, npt.NDArray]
Batch = dict[str, tf.Tensor]

COLUMNS = ("category_id", "seller_id", "brand_id", "price")

TINY = ModelConfig(
    embedding_dim=3,
    attention_units=4,
    cross_layers=1,
    cross_rank=2,
    trunk_units=(6,),
    tower_units=(5,),
    gate_units=4,
    propensity_clip=0.1,
    transition_weight=0.3,
    experts=2,
    l2_embeddings=0.01,
)

DELAYED = ("as_observed", "dfm", "fnw", "fnc", "fsiw", "es_dfm", "defer", "defuse", "ulc")
"""The models that train on clicks whose conversion may still come."""

VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla": {"name": "vanilla"},
    "single_task": {"name": "single_task"},
    "shared_bottom": {"name": "shared_bottom"},
    "mmoe": {"name": "mmoe"},
    "ple": {"name": "ple", "trunk_units": (6, 5)},
    "pepnet": {"name": "pepnet"},
    "esmm": {"name": "esmm"},
    "esm2": {"name": "esm2"},
    "hm3": {"name": "hm3"},
    "escm2_ips": {"name": "escm2_ips"},
    "escm2_dr": {"name": "escm2_dr"},
    "dcmt": {"name": "dcmt", "counterfactual_weight": 0.3},
    "hdr": {"name": "hdr"},
    **{name: {"name": name} for name in DELAYED},
    "es_dfm-direct": {"name": "es_dfm", "delayed_label": "direct", "waiting_hours": 12},
    "ecad": {"name": "ecad"},
    "cmdcm": {},
    "cmdcm-naive": {"estimator": "naive"},
    "cmdcm-ipw": {"estimator": "ipw"},
    "cmdcm-overlap": {"estimator": "overlap"},
    "cmdcm-dr": {"estimator": "dr"},
    "cmdcm-cross-fit": {"estimator": "dr", "cross_fit_folds": 2},
    "cmdcm-no-gate": {"gate": False},
    "cmdcm-no-transition": {"transition": False},
    "single_task-din": {"name": "single_task", "sequence_encoder": "din"},
    "single_task-mean": {"name": "single_task", "sequence_encoder": "mean_pooling"},
    "cmdcm-lrea": {"sequence_encoder": "lrea", "sequence_rank": 2},
    "single_task-srn": {"name": "single_task", "sequence_encoder": "srn"},
    "cmdcm-modifiers": {"effect_modifiers": ("price", "user_counts", "hours_to_promotion")},
}
"""Every model and every setting of CM-DCM that changes its network or its loss."""


def tiny_spec(
    columns: tuple[str, ...] = COLUMNS,
    string_ids: tuple[str, ...] = (),
    labels: LabelsConfig = LabelsConfig(micro=True),  # noqa: B008 - frozen
) -> FeatureSpec:
    """The spec of a log with `columns`: one look-back window, sequences of 4 and 3."""
    config = FeaturesConfig(
        windows_hours=(24,),
        clicked_length=4,
        intent_length=3,
        user_buckets=50,
        item_buckets=40,
        category_buckets=20,
        seller_buckets=20,
        brand_buckets=20,
    )
    calendar = yearly(["618"], [2024], "UTC")
    return example_spec(config, event_schema(columns, string_ids), calendar, labels)


def random_batch(spec: FeatureSpec, rows: int, seed: int = 0) -> Batch:
    """Random raw features and labels; the first row's histories are empty.

    Among 12 rows or more every label combination occurs, so that no risk is empty.
    """
    random = np.random.default_rng(seed)
    batch = {f.name: _feature(f, rows, random) for f in spec.inputs}
    for columns in spec.sequences().values():
        lengths = random.integers(0, columns[0].length + 1, rows)
        lengths[0] = 0
        for feature in columns:
            padding = np.arange(feature.length) >= lengths[:, None]
            batch[feature.name][padding] = feature.default
    batch |= random_labels(rows, random)
    optional = {
        "micro": random.integers(0, 2, rows),
        "refunded": batch["conversion"] * random.integers(0, 2, rows),
    }
    batch |= {name: optional[name] for name in OPTIONAL_LABELS if name in spec}
    return {name: tf.constant(values) for name, values in batch.items()}


def random_labels(rows: int, random: np.random.Generator) -> Arrays:
    """Labels as the label stage gives them: `delayed` excludes `direct`."""
    kind = (np.arange(rows) + random.integers(0, 6)) % 6
    direct, cart, delayed = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.int64
    )[random.permutation(kind)].T
    open_cart = cart * (1 - direct)
    delay = random.integers(0, 72 * 3_600_000, rows)
    return {
        "direct": direct,
        "cart": cart,
        "open_cart": open_cart,
        "delayed": delayed,
        "conversion": direct + delayed,
        "conversion_delay_ms": np.where(direct + delayed == 1, delay, -1),
    }


def _feature(feature: Feature, rows: int, random: np.random.Generator) -> npt.NDArray:
    shape = (rows,) if feature.shape == "scalar" else (rows, feature.length)
    if feature.encoding == "vocabulary":
        return random.choice(np.array([*feature.vocabulary, "unheard of"], object), shape)
    if feature.encoding in ("hash", "known"):
        ids = random.integers(-(2**62), 2**62, shape)
        return ids.astype(str).astype(object) if feature.dtype == "string" else ids
    if feature.encoding == "identity":
        return random.integers(0, feature.buckets, shape)
    if feature.encoding == "age":
        return np.sort(random.integers(0, 10**6, shape))
    if feature.dtype == "float32":
        return random.uniform(0, 300, shape).astype(np.float32)
    # Counts: many zeros, some large.
    return random.poisson(random.choice([0.0, 1.0, 30.0], shape))


def tiny_model(spec: FeatureSpec, seed: int = 1, **settings: Any) -> RankingModel:
    """A built model of `TINY` with `settings`; every weight is far from its initial symmetry."""
    tf.keras.utils.set_random_seed(seed)
    model = make_model(spec, TINY.model_copy(update=settings))
    model(random_batch(spec, 2))
    return model


def with_tables(
    spec: FeatureSpec, hashes: Mapping[str, int], known: Mapping[str, int]
) -> FeatureSpec:
    """The spec with several hash functions, or a list of so many known ids, of tables."""

    def of_table(feature: Feature) -> Feature:
        if feature.encoding == "hash" and feature.table in known:
            rows = known[feature.table] + 1
            return feature.model_copy(update={"encoding": "known", "buckets": rows})
        return feature.model_copy(update={"hashes": hashes.get(feature.table, 1)})

    return FeatureSpec(features=tuple(of_table(f) for f in spec.features))


def know(model: RankingModel, batch: Batch) -> RankingModel:
    """Fills the lists of known ids from a batch; those of a table with too few are filled up."""
    ids = model.trunk.encoder.ids
    lists = {}
    for table in ids.listed:
        features = [f for f in model.spec.inputs if f.table == table]
        keys = np.concatenate([np.ravel(id_keys(batch[f.name])) for f in features])
        size = ids.tables[table] - 1
        lists[table] = np.sort(np.unique([*np.arange(size), *keys])[::-1][:size])
    ids.set_known(lists)
    return model


def shake(model: RankingModel, seed: int = 0) -> RankingModel:
    """Adds noise to all weights, so that zero-initialised ones take part."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        noise = random.normal(0, 0.3, variable.shape)
        variable.assign_add(tf.constant(noise, variable.dtype))
    return model


def rows_of(batch: Mapping[str, tf.Tensor], start: int, stop: int) -> Batch:
    """Rows [start, stop) of a batch."""
    return {name: values[start:stop] for name, values in batch.items()}


def sides(spec: FeatureSpec, batch: Mapping[str, tf.Tensor]) -> tuple[Batch, Batch]:
    """The user's and the candidates' features of a batch."""
    return (
        {f.name: batch[f.name] for f in spec.user_inputs},
        {f.name: batch[f.name] for f in spec.candidate_inputs},
    )
