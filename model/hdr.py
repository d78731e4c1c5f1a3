"""HDR: a trained model, adapted to a promotion by a block of its own (Chan et al., KDD 2023).

Historical Data Reuse retrieves the past data that resemble the coming promotion, corrects what is
left of the shift by importance weights, and fine-tunes a small TransBlock on them, while the model
that it sits in stays as it is (arXiv 2305.12837). Here:

    s' = s + V relu(W s + b) + c        s the shared features, s' what the tower reads
    V = 0 and c = 0 at the start: s' = s, bit for bit

- The base is any model with the head `conversion`, named by `training.warm_start`. Such a run
  trains the block alone. A run without it trains all but the block: `single_task`.
- Data are retrieved by the weights of promotions (`features/promotion_weights.py`): a small
  `training.similarity_scale` leaves only those that resemble `training.similar_to`. The weights of
  equal distributions are 1, so that they are the correction of the shift as well.

The paper retrieves single days, by their conversion rates and their mix of categories, and learns
the importance weights. Which layers its block has is not taken from it; the form is ours.
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.core.config import ModelConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.about import About
from cmdcm.model.inputs import Tensors
from cmdcm.model.network import Shared, Trunk
from cmdcm.model.single_task import SingleTask


class TransBlock(tf.keras.layers.Layer):
    """A residual block, x + V relu(W x + b) + c, whose V and c start at zero.

    Args:
        outputs: Columns of x.

    Call arguments:
        x: Shared features, [N, outputs].

    Returns:
        [N, outputs]; x itself as long as the block is fresh.

    Example:
        >>> TransBlock(2)(tf.constant([[3.0, 0.1]])).numpy()
        array([[3. , 0.1]], dtype=float32)
    """

    def __init__(self, outputs: int, **kwargs: object):
        super().__init__(**kwargs)
        if outputs < 1:
            raise ValueError(f"`outputs` should be positive. Received: {outputs}")
        self.outputs = outputs
        self.hidden = tf.keras.layers.Dense(outputs, activation="relu")
        self.change = tf.keras.layers.Dense(outputs, kernel_initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return x + self.change(self.hidden(x))

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "outputs": self.outputs}


class TransTrunk(Trunk):
    """The trunk with a TransBlock between its bottom, an MLP, and the towers."""

    def __init__(
        self, spec: FeatureSpec, config: ModelConfig, heads: Sequence[str], **kwargs: object
    ):
        super().__init__(spec, config, heads, "shared", **kwargs)
        self.block = TransBlock(config.trunk_units[-1])

    def call(self, user: Tensors, candidates: Tensors) -> Shared:
        """As the trunk's."""
        shared = super().call(user, candidates)
        return shared._replace(features=self.block(shared.features))


class HDR(SingleTask):
    """The conversion model with a TransBlock."""

    about = About(
        family="promotions",
        source="Chan et al., KDD 2023, arXiv 2305.12837",
        equation="s' = s + V relu(W s + b) + c in place of s; V, c alone start at 0 and W, b, V, c "
        "alone are fine-tuned",
        assumes="past promotions resemble the coming one; a trained `training.warm_start`",
        use="to adapt a model to a promotion without touching it (docs/warm_start.md)",
        cost="a layer twice; no short cut for one user's candidates",
    )

    trunk: TransTrunk

    def make_trunk(self, heads: Sequence[str]) -> Trunk:
        """The trunk with the block."""
        return TransTrunk(self.spec, self.config, heads, name="trunk")

    def fine_tune(self, warm: bool) -> None:
        """Trains the block alone if the model starts with trained weights, all else if not."""
        trunk = self.trunk
        parts = [trunk.encoder, *trunk.attention.values(), trunk.cross, trunk.mlp]
        for layer in [*parts, *self.towers.values()]:
            if layer is not None:
                layer.trainable = not warm
        trunk.block.trainable = warm
