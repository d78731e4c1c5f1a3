"""The base of all ranking models: the whole contract between a model and the other stages.

A model names its `heads`, turns logits into named probabilities (`predictions`) and into losses an
example (`head_losses`). This class does the rest: features in, towers, reduction, tracking.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import tensorflow as tf
import tensorflow_recommenders as tfrs

from cmdcm.core.config import ModelConfig
from cmdcm.core.errors import ConfigError
from cmdcm.features.columns import labels_of
from cmdcm.features.sampling import WEIGHT
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.about import About
from cmdcm.model.calibration import Calibration
from cmdcm.model.heads import FOLD, Head, HeadLoss
from cmdcm.model.horizon import HOURS, Horizon
from cmdcm.model.inputs import Tensors
from cmdcm.model.losses import weighted_mean, weighted_sum
from cmdcm.model.network import LinearTower, Shared, Tower, Trunk
from cmdcm.model.one_user import knows, one_user_logits
from cmdcm.model.precision import matmul_precision
from cmdcm.model.predictions import UNCALIBRATED
from cmdcm.model.rows import hash_ids

OUTPUTS = {
    "p_direct": "probability of a direct purchase: before the promotion",
    "p_cart": "probability of an intent event (cart) before the promotion",
    "p_delayed": "probability of a delayed purchase: none before, one on the promotion days",
    "p_conversion": "probability of a purchase, direct or delayed",
    "p_refunded": "probability of a purchase that is taken back",
    "p_effective": "probability of a purchase that is not taken back",
    "cart_effect": "P(delayed | do(cart)) - P(delayed | do(no cart)), among clicks without a "
    "direct purchase",
}
"""Names and units of what models predict and servers answer."""


class Ratio(tf.keras.metrics.Metric):
    """Ratio of two running sums: a weighted mean, or predicted over observed positives."""

    def __init__(self, name: str):
        super().__init__(name=name)
        self.above = self.add_weight("above", initializer="zeros")
        self.below = self.add_weight("below", initializer="zeros")

    def update_state(self, above: tf.Tensor, below: tf.Tensor) -> None:
        """Adds to both sums."""
        self.above.assign_add(above)
        self.below.assign_add(below)

    def result(self) -> tf.Tensor:
        """Returns the ratio, 0 before anything was added."""
        return tf.math.divide_no_nan(self.above, self.below)


class Tracked:
    """Holds what training tracks, so that Keras does not take it for weights of the model."""

    def __init__(self) -> None:
        self.ratios: dict[str, Ratio] = {}
        self.others: dict[str, tf.keras.metrics.Metric] = {}


class RankingModel(tfrs.Model):
    """Shared layers plus heads over clicks.

    Sub-classes give:
        about: Their line in the map of the zoo.
        heads: The heads; each gets a tower of its name, or is linear in the effect modifiers.
        predictions(logits): Named outputs [N], names out of `OUTPUTS` (and diagnostics).
        head_losses(logits, labels): Losses an example, by name; unless overridden, those of the
            `bce` heads.

    The loss is the sum over names of weight * weighted sum / total (`model/heads.py`), among them
    `l2`, the penalty on embeddings, and `attention`, that of a sequence encoder; a batch's column
    `row_weight`, if any, weights its rows in it.
    During training the weighted mean of each loss and, for each loss of a prediction, the ratio of
    predicted to observed positives (PCOC) are tracked, both on the rows of the loss, so that
    calibration is seen for free.
    """

    about: ClassVar[About]
    """What is to be known of the model: its line in the map of docs/models.md."""

    gated: ClassVar[bool] = False
    """Whether its towers have gates where `gate` is set."""

    extra_columns: ClassVar[tuple[str, ...]] = ()
    """Columns besides inputs and labels that the losses read."""

    bottom: ClassVar[str | None] = None
    """The bottom of a model that is defined by it; None for that of the configuration."""

    def __init__(self, spec: FeatureSpec, config: ModelConfig):
        super().__init__()
        if WEIGHT in {feature.name for feature in spec.inputs}:
            raise ConfigError(f"an input is called {WEIGHT!r}, as the row weight is; rename it")
        self.spec = spec
        self.config = config
        self.heads = self.make_heads()
        self.trunk = self.make_trunk([head.name for head in self.heads if not head.linear])
        gate_units = config.gate_units if self.gated and config.gate else None
        self.towers = {
            head.name: LinearTower(name=f"tower_{head.name}")
            if head.linear
            else Tower(config.tower_units, gate_units, name=f"tower_{head.name}")
            for head in self.heads
        }
        self.cut_off = [h.name for h in self.heads if (h.label, h.space) == ("direct", "clicks")]
        known = HOURS in {feature.name for feature in spec.inputs}
        self.horizon = (
            Horizon(name="horizon") if config.horizon and known and self.cut_off else None
        )
        self.calibration: Calibration | None = None
        self.training_precision = "float32"
        self._tracked = Tracked()

    def make_heads(self) -> Sequence[Head]:
        """Returns the heads of the model."""
        raise NotImplementedError

    def make_trunk(self, heads: Sequence[str]) -> Trunk:
        """Returns the layers that the named heads share."""
        return Trunk(self.spec, self.config, heads, self.bottom, name="trunk")

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """Turns the heads' logits into named outputs, [N] each."""
        raise NotImplementedError

    def head_losses(self, logits: Tensors, labels: Tensors) -> dict[str, HeadLoss]:
        """Returns the losses an example, by name: here, of the heads that declare `bce`."""
        return {
            head.name: head.cross_entropy(labels, logits[head.name])
            for head in self.heads
            if head.estimator == "bce"
        }

    def labelled_heads(self) -> Sequence[Head]:
        """Returns the heads whose labels are columns of the examples."""
        return self.heads

    def calibrated_heads(self) -> Sequence[Head]:
        """Returns the conditional probabilities whose logits a calibration maps, in their spaces.

        The predictions follow from them alone, so that what holds between predictions by the
        behaviour graph holds after a calibration too.
        """
        return self.heads

    def tasks(self, logits: Tensors) -> Tensors:
        """Returns the heads' logits and those that `calibrated_heads` adds to them, [N] each."""
        return logits

    def call(self, features: Tensors, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the logits of every head for a batch of examples, [N] each; uncalibrated."""
        return self.logits(*self.sides(features))

    def adapt(self, features: Tensors) -> None:
        """Fits a fresh, built model's constants to one large batch; call it once, before training.

        Sets the scale of the numeric inputs. Where the batch also has the labels, the output bias
        of each head becomes the log-odds of its label's smoothed rate in its task space: the model
        starts near calibration, and no epoch is spent on getting there.
        """
        self.trunk.encoder.adapt(*self.sides(features))
        if set(labels_of(self.spec)) <= set(features):
            labels = self.labels(features)
            for head in self.heads:
                bias = head.first_bias(labels)
                if self.horizon is not None and head.name in self.cut_off:
                    bias -= tf.reduce_mean(self.horizon(features[HOURS]))
                self.towers[head.name].logit.bias.assign([bias])

    def fine_tune(self, warm: bool) -> None:
        """Chooses what training moves; here everything. Call it once, before the optimizer is made.

        Args:
            warm: Whether the model starts with trained weights (`training.warm_start`).
        """

    def sides(self, features: Tensors) -> tuple[Tensors, Tensors]:
        """Splits a batch of features into the user's side and the candidates' side."""
        return (
            {f.name: features[f.name] for f in self.spec.user_inputs},
            {f.name: features[f.name] for f in self.spec.candidate_inputs},
        )

    def logits(self, user: Tensors, candidates: Tensors) -> dict[str, tf.Tensor]:
        """Returns the uncalibrated logits of N candidates; the user's batch is N, or 1."""
        return self.tower_logits(self.trunk(user, candidates), user)

    def tower_logits(self, shared: Shared, user: Tensors) -> dict[str, tf.Tensor]:
        """Returns the uncalibrated logits, [N] each, of what the heads share."""
        logits = {name: tower(shared.of(name)) for name, tower in self.towers.items()}
        return self.with_horizon(logits, user)

    def with_horizon(self, logits: dict[str, tf.Tensor], user: Tensors) -> dict[str, tf.Tensor]:
        """Adds the offset of `model/horizon.py` to the logits of direct purchases."""
        if self.horizon is None:
            return logits
        offset = self.horizon(user[HOURS])
        return logits | {name: logits[name] + offset for name in self.cut_off}

    def score(self, user: Tensors, candidates: Tensors) -> dict[str, tf.Tensor]:
        """Returns the named outputs of N candidates; the user's batch is N, or 1."""
        return self.scores(self.logits(user, candidates), {**user, **candidates})

    def score_one_user(self, user: Tensors, candidates: Tensors) -> dict[str, tf.Tensor]:
        """Returns what `score` does, for one user, whose work is done once; for serving."""
        if not knows(self.trunk):
            return self.score(user, candidates)
        towers = {head.name: self.towers[head.name] for head in self.served_heads()}
        logits = one_user_logits(self.trunk, towers, user, candidates)
        return self.scores(self.with_horizon(logits, user), {**user, **candidates})

    def served_heads(self) -> Sequence[Head]:
        """Returns the heads whose logits the predictions follow from; the others only train."""
        return self.heads

    def scores(self, logits: Tensors, features: Tensors) -> dict[str, tf.Tensor]:
        """Turns logits into the named outputs, calibrated if the model has a calibration.

        Args:
            logits: Of every head, [N] each.
            features: The raw features that they came from; the user's have [1] or [N] rows.
        """
        if self.calibration is None:
            return self.predictions(logits)
        tasks = self.tasks(logits)
        return self.predictions({**tasks, **self.calibration(tasks, features, self.spec)})

    def calibrate(self, calibration: Calibration | None) -> None:
        """Calibrates all outputs from now on, or no longer."""
        self.calibration = calibration
        self.__dict__.pop("scorer", None)

    def compute_loss(self, inputs: Tensors, training: bool = False) -> tf.Tensor:
        """Returns the scalar loss of a batch of examples with labels and, maybe, row weights."""
        return tf.add_n(list(self.loss_parts(inputs).values()))

    def loss_parts(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Returns the terms of a batch's loss by name, scalars; updates what is tracked.

        On a replica of a distributed step they are the replica's shares of the whole batch's. The
        dense layers multiply in `training_precision`, here alone.
        """
        with matmul_precision(self, self.training_precision):
            losses = self.example_losses(inputs)
        parts = {}
        for name, head in losses.items():
            parts[name] = head.weight * weighted_mean(head.losses, head.weights, head.base)
            self._tracker(f"loss_{name}").update_state(
                weighted_sum(head.losses, head.weights), tf.reduce_sum(head.weights)
            )
            if head.predictions is not None and head.labels is not None:
                self._tracker(f"pcoc_{name}").update_state(
                    tf.reduce_sum(head.predictions * head.weights),
                    tf.reduce_sum(head.labels * head.weights),
                )
        return parts

    def example_losses(self, inputs: Tensors) -> dict[str, HeadLoss]:
        """Returns the losses an example, by name: those of the heads, and the penalties."""
        user, candidates = self.sides(inputs)
        shared = self.trunk(user, candidates)
        logits = self.tower_logits(shared, user)
        losses = dict(self.head_losses(logits, self.labels(inputs)))
        if shared.penalty is not None:
            losses["l2"] = HeadLoss(shared.penalty, tf.ones_like(shared.penalty))
        if shared.attention is not None:
            losses["attention"] = HeadLoss(shared.attention, tf.ones_like(shared.attention))
        if WEIGHT in inputs:
            losses = {name: head.times(inputs[WEIGHT]) for name, head in losses.items()}
        return losses

    def build_for(self, inputs: Tensors) -> None:
        """Makes all variables, for a batch of examples with labels: weights and what is tracked."""
        for name, head in self.example_losses(inputs).items():
            self._tracker(f"loss_{name}")
            if head.predictions is not None:
                self._tracker(f"pcoc_{name}")

    def labels(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Returns the labels of a batch and, with cross-fitting, the users' folds, float32 [N]."""
        labels = {name: tf.cast(inputs[name], tf.float32) for name in labels_of(self.spec)}
        if FOLD in inputs:
            labels[FOLD] = inputs[FOLD]
        elif self.config.cross_fit_folds > 1:
            folds = hash_ids(inputs["user_id"], self.config.cross_fit_folds)
            labels[FOLD] = tf.cast(folds, tf.float32)
        return labels

    def _tracker(self, name: str) -> "Ratio":
        ratios = self._tracked.ratios
        if name not in ratios:
            ratios[name] = Ratio(name=name)
        return ratios[name]

    def label_of(self, output: str) -> str | None:
        """Returns the label column that an output predicts, None if it predicts none."""
        label = output.removeprefix("p_")
        return label if output.startswith("p_") and label in labels_of(self.spec) else None

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """What is tracked; Keras resets them at the start of an epoch."""
        return [*self._tracked.ratios.values(), *self._tracked.others.values()]

    @functools.cached_property
    def scorer(self) -> Callable[[Tensors], dict[str, tf.Tensor]]:
        """The compiled function from a batch of features to the named outputs.

        With a calibration also to the probabilities before it, as `uncalibrated_p_...`.
        """

        def scored(features: Tensors) -> dict[str, tf.Tensor]:
            logits = self(features)
            outputs = self.scores(logits, features)
            if self.calibration is not None:
                outputs |= {
                    f"{UNCALIBRATED}{name}": value
                    for name, value in self.predictions(logits).items()
                    if name.startswith("p_")
                }
            return outputs

        return tf.function(scored, reduce_retracing=True, autograph=False)

    @property
    def table_variables(self) -> list[tf.Variable]:
        """The embedding tables; an optimizer of their own trains them."""
        return list(self.trunk.encoder.table_variables)

    @property
    def linear_variables(self) -> list[tf.Variable]:
        """The weights of the heads that are linear in the effect modifiers."""
        linear = [self.towers[head.name] for head in self.heads if head.linear]
        return [v for tower in linear for v in tower.trainable_variables]

    def checkpoint(self) -> tf.train.Checkpoint:
        """Returns the checkpoint of the network's weights alone: no optimizer, no metrics."""
        parts = {"trunk": self.trunk, "towers": self.towers}
        if self.horizon is not None:
            parts["horizon"] = self.horizon
        return tf.train.Checkpoint(**parts)

    def describe(self) -> Mapping[str, int]:
        """Returns the number of parameters in tables and in dense weights."""
        tables = sum(int(tf.size(v)) for v in self.table_variables)
        # Of a variable itself: those of a frozen layer count too.
        everything = sum(int(tf.size(v)) for v in self.variables if v.trainable)
        return {"table_parameters": tables, "dense_parameters": everything - tables}
