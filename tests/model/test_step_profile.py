"""Measuring the parts of a step leaves no trace in a run."""

from dataclasses import astuple

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import TrainingConfig
from cmdcm.model import step_profile
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.step_profile import measure_step
from cmdcm.model.steps import Steps
from cmdcm.model.strategies import find_place
from cmdcm.tests.model.batches import random_batch, shake, tiny_model, tiny_spec

SPEC = tiny_spec()
BATCH = random_batch(SPEC, 24)


class Run:
    """A model that takes steps with one batch."""

    def __init__(self):
        config = TrainingConfig()
        self.model = shake(tiny_model(SPEC))
        self.model.build_for(BATCH)
        self.optimizer = make_optimizer(self.model, config)
        self.place = find_place(config)
        self.steps = Steps(self.model, self.optimizer, self.place)
        self.batches = self.steps.batches(
            lambda shares: tf.data.Dataset.from_tensors(BATCH).repeat()
        )

    def go(self, steps: int) -> list[float]:
        return [float(self.steps.take(next(self.batches))["loss"]) for _ in range(steps)]

    def tracked(self) -> dict[str, float]:
        return {metric.name: float(metric.result()) for metric in self.model.metrics}


@pytest.fixture(scope="module")
def measured():
    """A run whose third step was measured, the parts, and the losses of its steps."""
    run = Run()
    losses = run.go(3)
    parts = measure_step(run.model, run.optimizer, run.place, BATCH)
    return run, parts, losses + run.go(3)


def test_a_run_goes_on_bit_for_bit_as_one_without_a_profile(measured):
    run, _, losses = measured
    other = Run()
    assert other.go(6) == losses
    assert losses[0] > losses[-1]
    for one, another in zip(run.model.variables, other.model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), another.numpy(), err_msg=one.name)
    assert run.tracked() == other.tracked()
    assert run.steps.taken == other.steps.taken == 6


def test_every_part_is_a_time(measured):
    _, parts, _ = measured
    assert np.all(np.isfinite(astuple(parts)))
    assert min(astuple(parts)) >= 0
    assert parts.forward > 0


def test_without_room_for_a_copy_nothing_is_measured(measured, monkeypatch):
    run, *_ = measured
    monkeypatch.setattr(step_profile, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"a copy of the state takes [\d,]+ bytes, and 1,000 are"):
        measure_step(run.model, run.optimizer, run.place, BATCH)
