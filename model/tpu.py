"""What a TPU asks of a model: static shapes, no strings, and tables of its own.

- Ids find their rows on the host, in the input, by the operations of the graph (`IdRows.prepare`),
  so that the device gets int32 rows and no string. The batch's shapes are static.
- Every position of a sequence is looked up, padding too, and masked: which ones are filled differs
  from batch to batch.
- Tables of more than `SMALL_TABLE` rows are those of a TPU embedding, shared out over the memory of
  all cores; the others are on each core. Both are layers of TensorFlow Recommenders.

The model that is validated, calibrated and served is an ordinary one on the host (`refresh`).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import FOLD
from cmdcm.model.inputs import InputEncoder, Lookup, Tensors, item_and_category_of
from cmdcm.model.rows import IdRows, hash_ids
from cmdcm.model.transfer import LISTS, TABLE, variables

SMALL_TABLE = 10_000
"""Rows up to which a table is on each core; the default of TensorFlow Recommenders."""


class DeviceTables(tf.keras.layers.Layer):
    """The embedding tables by TensorFlow Recommenders' PartialTPUEmbedding.

    Args:
        spec: The features.
        dim: Columns of the tables.
        optimizer: Keras' optimizer of the tables; on a TPU that of the same name trains them there.
        small: Rows up to which a table is no TPU embedding; None for any.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        dim: int,
        optimizer: tf.keras.optimizers.Optimizer,
        small: int | None = SMALL_TABLE,
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        self.dim, self.hashes = dim, {f.name: f.hashes for f in spec.inputs if f.table}
        offsets = IdRows(spec).offsets
        self.first = {f.name: offsets[f.table] for f in spec.inputs if f.table}
        embedding = tf.tpu.experimental.embedding
        self.tables = {
            table: embedding.TableConfig(
                rows, dim, initializer=tf.keras.initializers.RandomNormal(0, 0.01), name=table
            )
            for table, rows in spec.tables().items()
        }
        self.embedding = tfrs.experimental.layers.embedding.PartialTPUEmbedding(
            {
                key: embedding.FeatureConfig(self.tables[f.table])
                for f in spec.inputs
                if f.table
                for key in self._keys(f.name)
            },
            optimizer,
            size_threshold=small,
        )
        self.feature_of = {f.table: f.name for f in spec.inputs if f.table}

    def call(self, rows: Tensors) -> dict[str, tf.Tensor]:
        """Returns embeddings, [..., dim], of rows in the fused table, int32 [..., hashes]."""
        ids = {
            key: values[..., n, tf.newaxis] - self.first[name]
            for name, values in rows.items()
            for n, key in enumerate(self._keys(name))
        }
        found = self.embedding(ids)
        return {
            name: functools.reduce(
                tf.add,
                [tf.reshape(found[k], [*values.shape[:-1], self.dim]) for k in self._keys(name)],
            )
            for name, values in rows.items()
        }

    def values(self) -> Iterator[tf.Tensor]:
        """Yields the tables, [rows, dim], in the order of the fused table."""
        keras, tpu = self.embedding.keras_embedding_layers, self.embedding.tpu_embedding
        for table, config in self.tables.items():
            key = self._keys(self.feature_of[table])[0]
            held = keras[key].embeddings if key in keras else tpu.embedding_tables[config]
            yield tf.convert_to_tensor(held)[: config.vocabulary_size]

    def _keys(self, name: str) -> list[str]:
        return [f"{name}:{n}" for n in range(self.hashes[name])]


class DeviceEncoder(InputEncoder):
    """An encoder of prepared features, with static shapes and tables of the device.

    Args:
        encoder: An encoder that is not built yet, whose place it takes.
        tables: The tables.
        known: Known ids by table.
    """

    dense_gradients = True

    def __init__(
        self,
        encoder: InputEncoder,
        tables: DeviceTables,
        known: Mapping[str, np.ndarray],
        **kwargs: object,
    ):
        super().__init__(encoder.spec, encoder.dim, encoder.l2, name=encoder.name, **kwargs)
        self.device_tables = tables
        self.ids.build(None)
        self.ids.set_known(known)

    def build(self, input_shape: object) -> None:
        """Creates no table: the device has them."""
        tf.keras.layers.Layer.build(self, input_shape)

    def lookup_of(self, user: Tensors, candidates: Tensors) -> Lookup:
        """Looks all features up at once, as a TPU embedding needs it."""
        values = {**user, **candidates}
        rows = {f.name: values[f.name] for f in self.spec.inputs if f.table}
        embedded = self.device_tables(rows)
        return lambda wanted: tf.concat([embedded[f.name] for f, _ in wanted], axis=-1)

    def keys(self, parts: Mapping[str, Feature], values: Tensors, lookup: Lookup) -> tf.Tensor:
        """Returns the keys of a sequence, all positions of which are looked up."""
        embedded = lookup([(f, values[f.name]) for f in item_and_category_of(parts)])
        true = tf.cast(values[parts["age"].name] >= 0, tf.float32)
        return self.item_and_category(embedded) * true[:, :, tf.newaxis]

    @property
    def table_variables(self) -> Sequence[tf.Variable]:
        """The trainable weights of the tables, as the device has them."""
        return list(self.device_tables.trainable_variables)


class HostInput:
    """Turns batches of raw features into what the device takes.

    Args:
        model: A built model; the lists of its known ids are taken as they are now.
    """

    def __init__(self, model: RankingModel):
        self._spec, self._folds = model.spec, model.config.cross_fit_folds
        ids = model.trunk.encoder.ids
        self._ids = IdRows(model.spec)
        for table in ids.listed:
            # Not a variable: the input's functions run on the host.
            setattr(self._ids, f"known_{table}", tf.constant(ids.keys(table)))

    def __call__(self, batch: Tensors) -> dict[str, tf.Tensor]:
        """Returns rows instead of ids, and with cross-fitting the users' folds."""
        prepared = self._ids.prepare(self._spec, batch)
        if self._folds > 1:
            folds = hash_ids(batch["user_id"], self._folds)
            prepared[FOLD] = tf.cast(folds, tf.float32)
        return prepared


def build_for_device(
    model: RankingModel,
    optimizer: tf.keras.optimizers.Optimizer,
    known: Mapping[str, np.ndarray],
    batch: Tensors,
    small: int | None = SMALL_TABLE,
) -> None:
    """Gives a model the encoder and the tables of a TPU, and makes all its variables.

    Args:
        model: A model that is not built; this is the scope of the strategy that will run it.
        optimizer: The optimizer of the tables.
        known: Known ids by table.
        batch: Raw features and labels.
        small: Rows up to which a table is no TPU embedding; None for any.
    """
    encoder = model.trunk.encoder
    tables = DeviceTables(model.spec, encoder.dim, optimizer, small, name="tables")
    model.trunk.encoder = DeviceEncoder(encoder, tables, known)
    # Traced, not run: a TPU embedding can be looked up in a step alone.
    strategy = tf.distribute.get_strategy()
    build = tf.function(lambda inputs: strategy.run(model.build_for, args=(inputs,)))
    build.get_concrete_function(HostInput(model)(batch))


def refresh(served: RankingModel, model: RankingModel, *, on_device: bool = True) -> None:
    """Copies the weights of a model with device tables into an ordinary one on the host.

    Args:
        served: The ordinary model.
        model: The model that is trained.
        on_device: Whether the tables are in the memory of a TPU.
    """
    if on_device:
        # TensorFlow copies a TPU's tables to the host when a checkpoint is written, and then only.
        with TemporaryDirectory() as folder:
            model.checkpoint().write(str(Path(folder) / "weights"))
    source = variables(model)
    for path, variable in variables(served).items():
        if path == TABLE:
            tables = list(model.trunk.encoder.device_tables.values())
            variable.assign(tf.concat(tables, axis=0))
        elif path in source or not path.startswith(LISTS):
            variable.assign(tf.convert_to_tensor(source[path]))
