"""Trains in a process of its own; arguments: the configuration's file, examples, output.

The processor counts as two devices, as `training.strategy = "mirrored"` needs. Ends with the exit
code of an error of ours, as the command line does.
"""

import sys
from pathlib import Path

import tensorflow as tf

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.training import train


def main(config: str, examples: str, output: str) -> int:
    (processor,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(processor, two)
    settings = Config.load(Path(config))
    try:
        train(ExampleSet.open(Path(examples), settings.split), Path(output), settings)
    except CmdcmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
