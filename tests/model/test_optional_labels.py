"""A head that learns an optional label: from the spec to the loss."""

from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import LabelsConfig
from cmdcm.features.columns import LABELS
from cmdcm.model.heads import Head
from cmdcm.model.single_task import SingleTask
from cmdcm.model.training import training_columns
from cmdcm.tests.model.batches import TINY, random_batch, tiny_spec

SPEC = tiny_spec(labels=LabelsConfig(micro=True, refunded=True))
PLAIN = tiny_spec(labels=LabelsConfig())
MICRO = np.array([1] * 3 + [0] * 13)


class WithMicro(SingleTask):
    """Learns micro behaviours too."""

    def make_heads(self) -> Sequence[Head]:
        """Adds a head of an optional label."""
        return [*super().make_heads(), Head("micro_head", "micro")]


def batch() -> dict[str, tf.Tensor]:
    return {**random_batch(SPEC, len(MICRO)), "micro": tf.constant(MICRO)}


def test_training_reads_the_optional_labels_that_examples_have():
    inputs = [f.name for f in SPEC.inputs]
    assert training_columns(SPEC) == [*inputs, *LABELS, "micro", "refunded"]
    assert training_columns(PLAIN) == [*inputs, *LABELS]


def test_a_head_learns_an_optional_label():
    model, examples = WithMicro(SPEC, TINY), batch()
    model.build_for(examples)
    model.adapt(examples)
    start = tf.sigmoid(model.towers["micro_head"].logit.bias)[0]
    assert float(start) == pytest.approx((3 + 1) / (16 + 2))
    losses = model.example_losses(examples)
    np.testing.assert_array_equal(losses["micro_head"].labels, MICRO)
    assert model.label_of("p_micro") == "micro"
    assert SingleTask(PLAIN, TINY).label_of("p_micro") is None
