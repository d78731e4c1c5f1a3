"""The signatures of an export, as concrete functions over a trained model.

| signature          | inputs                                    | outputs, float32           |
|--------------------|-------------------------------------------|----------------------------|
| `serving_default`  | `examples`: serialized Examples, [N]      | the model's `OUTPUTS`, [N] |
| `score_candidates` | the user's features once, [1, ...], and   | the same                   |
|                    | those of N candidates, [N, ...]           |                            |
| `classify`         | `inputs`: serialized Examples, [N]        | `classes`, `scores`, [N, C]|
| `regress`          | `inputs`: serialized Examples, [N]        | `outputs`, [N]             |

`serving_default` is what generic tools send, `score_candidates` what ad servers send: the user's
part of its graph is computed once (`cmdcm.model.one_user`). The outputs have the names and units in
`cmdcm.model.base.OUTPUTS`, those that the model has.

`classify` and `regress` answer TensorFlow Serving's Classify, Regress and MultiInference: `classes`
are the names of the model's probabilities, and each is the probability of an event of its own, so
that a row's `scores` do not add up to one; `outputs` is p_conversion.
"""

from typing import Any

import tensorflow as tf

from cmdcm.features.input import parse_examples
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import OUTPUTS, RankingModel

EXAMPLES_SIGNATURE = "serving_default"
CANDIDATES_SIGNATURE = "score_candidates"
CLASSIFY_SIGNATURE = "classify"
REGRESS_SIGNATURE = "regress"
SIGNATURES = (EXAMPLES_SIGNATURE, CANDIDATES_SIGNATURE, CLASSIFY_SIGNATURE, REGRESS_SIGNATURE)
EXAMPLES_INPUT = "examples"
REGRESSION = "p_conversion"
"""The output that `regress` answers."""

Function = Any
"""A concrete function of TensorFlow, which has no type."""


def examples_function(model: RankingModel) -> Function:
    """Returns the concrete function from serialized Examples to the model's outputs."""
    serialized = tf.TensorSpec([None], tf.string, name=EXAMPLES_INPUT)

    @tf.function(input_signature=[serialized], autograph=False)
    def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = parse_examples(examples, model.spec.inputs)
        return served(model.scores(model(features), features))

    return serving_default.get_concrete_function()


def candidates_function(model: RankingModel) -> Function:
    """Returns the concrete function from a user and his candidates to the model's outputs."""

    @tf.function(autograph=False)
    def score_candidates(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        user = {f.name: features[f.name] for f in model.spec.user_inputs}
        candidates = {f.name: features[f.name] for f in model.spec.candidate_inputs}
        return served(model.score_one_user(user, candidates))

    return score_candidates.get_concrete_function(**candidates_specs(model.spec))


def candidates_specs(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    """Returns name -> shape and type of the inputs of `score_candidates`."""
    specs = {f.name: input_spec(f, 1) for f in spec.user_inputs}
    return specs | {f.name: input_spec(f, None) for f in spec.candidate_inputs}


def input_spec(feature: Feature, rows: int | None) -> tf.TensorSpec:
    """Returns the shape and type under which a signature takes a feature."""
    shape = [rows] if feature.shape == "scalar" else [rows, feature.length]
    return tf.TensorSpec(shape, tf.as_dtype(feature.dtype), name=feature.name)


def served(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Keeps the outputs that are part of the serving contract."""
    return {name: tf.identity(outputs[name], name=name) for name in OUTPUTS if name in outputs}


def classified(outputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the classes, string [N, C], and their scores, [N, C], of served outputs."""
    names = [name for name in OUTPUTS if name in outputs and name.startswith("p_")]
    scores = tf.stack([outputs[name] for name in names], axis=1)
    return tf.tile(tf.constant([names]), [tf.shape(scores)[0], 1]), scores
