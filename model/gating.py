"""CM-DCM's second module: personalised user-behaviour gating.

The paper (arXiv 2604.21675) names the module; this is our construction of it, after PEPNet's PPNet
(Chang et al., KDD 2023, eq. 5-7). The user's own behaviour - counters, what he did in earlier
promotions, pooled behaviour sequences - scales every hidden unit of every task tower.
"""

import tensorflow as tf


class PersonalisedGate(tf.keras.layers.Layer):
    """Scales hidden units by 2 * sigmoid(V relu(W [prior; sg(shared)] + b) + c).

    V and c start at zero, so a fresh gate multiplies by exactly 1.0 and the model equals the
    ungated one bit for bit. No gradient reaches the shared features through the gate.

    Args:
        outputs: Hidden units to scale.
        units: Hidden units of the gate.

    Call arguments:
        prior: The user's behaviour prior, [N, p].
        shared: Features shared by all towers, [N, s].

    Returns:
        [N, outputs], inside (0, 2).

    Example:
        >>> gate = PersonalisedGate(outputs=2, units=4)
        >>> gate(tf.ones([1, 3]), tf.ones([1, 5])).numpy()
        array([[1., 1.]], dtype=float32)
    """

    def __init__(self, outputs: int, units: int, **kwargs: object):
        super().__init__(**kwargs)
        if outputs < 1 or units < 1:
            raise ValueError(
                f"`outputs` and `units` should be positive. Received: {outputs}, {units}"
            )
        self.outputs, self.units = outputs, units
        self.hidden = tf.keras.layers.Dense(units, activation="relu")
        self.scale = tf.keras.layers.Dense(
            outputs, activation="sigmoid", kernel_initializer="zeros", bias_initializer="zeros"
        )

    def call(self, prior: tf.Tensor, shared: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return 2.0 * self.scale(self.hidden(tf.concat([prior, tf.stop_gradient(shared)], axis=-1)))

    def get_config(self) -> dict[str, object]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "outputs": self.outputs, "units": self.units}
