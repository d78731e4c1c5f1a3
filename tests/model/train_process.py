"""Trains in a process of its own; arguments: the configuration's file, examples, output.

A fourth argument is the step before which the process gets SIGTERM.

The processor counts as two devices, as `training.strategy = "mirrored"` needs. Ends with the exit
code of an error of ours, as the command line does.
"""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.steps import Pending, Steps
from cmdcm.model.training import train


def terminate_at(step: int) -> None:
    """Sends this process SIGTERM before one of its steps."""
    take, taken = Steps.take, itertools.count(1)

    def counted(self: Steps, batch: Any, stop: bool = False) -> Pending:
        if next(taken) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, batch, stop)

    Steps.take = counted  # type: ignore[method-assign]


def main(config: str, examples: str, output: str, stop_at: str = "") -> int:
    (processor,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(processor, two)
    settings = Config.load(Path(config))
    if stop_at:
        terminate_at(int(stop_at))
    try:
        train(ExampleSet.open(Path(examples), settings.split), Path(output), settings)
    except CmdcmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
