"""Never losing a run: SIGKILL at random moments, again and again, and the weights are the same."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cmdcm.core.config import load_config
from cmdcm.model.trained import MODEL, load_history, load_model
from cmdcm.tests.conftest import SMALL

KILLS, SEED = 20, 6

SMALLER = (
    "training.checkpoint_steps=2",
    "model.name=single_task",
    "model.cross_layers=0",
    "calibration.method=none",
)
"""Most of a short life is the making of the step's graph, which is small for this model."""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_no_trace_in_the_weights(small_world, tmp_path):
    config = tmp_path / "config.json"
    load_config(overrides=[*SMALL, *SMALLER]).save(config)
    arguments = [config, small_world.examples, tmp_path, str(KILLS), str(SEED)]
    runs = subprocess.run(
        [sys.executable, "-m", "cmdcm.tests.model.killed_runs", *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # no threads before a fork
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    count = int(runs.stdout.splitlines()[-1])
    assert count > 1
    undisturbed = load_model(tmp_path / "0" / MODEL).weights
    for run in range(1, count):
        disturbed = load_model(tmp_path / str(run) / MODEL).weights
        for one, other in zip(undisturbed, disturbed, strict=True):
            np.testing.assert_array_equal(other.numpy(), one.numpy(), err_msg=one.name)
        # Losses of training are means over what a process saw of an epoch.
        before, after = (load_history(tmp_path / str(n) / MODEL) for n in (0, run))
        for one, other in zip(before, after, strict=True):
            validated = {name: value for name, value in one.items() if name.startswith("val_")}
            assert validated.items() <= other.items()
