"""The signatures of an export, as concrete functions over a trained model.

`serving_default`   serialized tf.train.Example protos, [N]: what generic tools send.
`score_candidates`  the user's features once, [1, ...], and N candidates, [N, ...]: what ad servers
                    send. The user's part of the graph is computed once.

Both answer float32 [N] under the names in `cmdcm.model.base.OUTPUTS`, those that the model has.
"""

from collections.abc import Callable

import tensorflow as tf

from cmdcm.features.input import parse_examples
from cmdcm.features.spec import Feature
from cmdcm.model.base import OUTPUTS, RankingModel

EXAMPLES_SIGNATURE = "serving_default"
CANDIDATES_SIGNATURE = "score_candidates"
EXAMPLES_INPUT = "examples"


class Servable(tf.Module):
    """What is saved: the model's variables and the functions over them; no optimizer, no metric."""

    def __init__(self, model: RankingModel):
        super().__init__()
        self.weights = model.trainable_weights + model.non_trainable_weights
        self._model = _Untracked(model)

    def signatures(self) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        """Returns the concrete function of each signature."""
        model = self._model.value

        serialized = tf.TensorSpec([None], tf.string, name=EXAMPLES_INPUT)

        @tf.function(input_signature=[serialized], autograph=False)
        def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            features = parse_examples(examples, model.spec.inputs)
            return served(model.scores(model(features), features))

        @tf.function(autograph=False)
        def score_candidates(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            user = {f.name: features[f.name] for f in model.spec.user_inputs}
            candidates = {f.name: features[f.name] for f in model.spec.candidate_inputs}
            return served(model.score(user, candidates))

        specs = [input_spec(f, 1) for f in model.spec.user_inputs]
        specs += [input_spec(f, None) for f in model.spec.candidate_inputs]
        return {
            EXAMPLES_SIGNATURE: serving_default.get_concrete_function(),
            CANDIDATES_SIGNATURE: score_candidates.get_concrete_function(
                **{spec.name: spec for spec in specs}
            ),
        }


class _Untracked:
    """Hides the Keras model from the object graph: only its weights are saved."""

    def __init__(self, value: RankingModel):
        self.value = value


def input_spec(feature: Feature, rows: int | None) -> tf.TensorSpec:
    """Returns the shape and type under which a signature takes a feature."""
    shape = [rows] if feature.shape == "scalar" else [rows, feature.length]
    return tf.TensorSpec(shape, tf.as_dtype(feature.dtype), name=feature.name)


def served(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Keeps the outputs that are part of the serving contract."""
    return {name: tf.identity(outputs[name], name=name) for name in OUTPUTS if name in outputs}
