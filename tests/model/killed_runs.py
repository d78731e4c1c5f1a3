"""Trains the same run again and again, in lives that SIGKILL ends at random moments.

Arguments: the configuration's file, examples, output, number of kills, seed. OUTPUT/0 is trained
undisturbed. From OUTPUT/1 on the lives of a run go on, each where the one before was killed, until
the run ends and the next one begins; after the last kill the run that is left ends undisturbed. The
last line of the output is the number of runs.

A life is a process that is forked from this one, which has imported TensorFlow and never used it:
the import takes longer than a life.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmdcm.core.config import Config
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.observers import Observer
from cmdcm.model.training import train


class Moment(NamedTuple):
    """When a life ends: so many seconds after it told so many times that it gets on."""

    tellings: int
    seconds: float


class Telling(Observer):
    """Writes a byte whenever the run gets on."""

    def __init__(self, pipe: int):
        self.pipe = pipe

    def stepped(self, taken: int, values: Mapping[str, float]) -> None:
        os.write(self.pipe, b".")

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        os.write(self.pipe, b".")


def draw(random: np.random.Generator) -> Moment:
    """Before the first step, in one, or while a checkpoint is written: any moment may come."""
    tellings = int(random.integers(0, 7))
    return Moment(tellings, random.uniform(0, 0.05 if tellings else 3.0))


def live(config: Config, examples: Path, output: Path, moment: Moment | None) -> bool:
    """Starts the run or goes on with it; returns whether it ended before it was killed."""
    reads, writes = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reads)
            data = ExampleSet.open(examples, config.split)
            train(data, output, config, progress=False, observers=[Telling(writes)])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # it must not go on as its parent would
    os.close(writes)
    if moment is not None:
        for _ in range(moment.tellings):
            os.read(reads, 1)  # nothing if the process ended
        time.sleep(moment.seconds)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(reads)
    killed = moment is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status != 0:
        raise RuntimeError(f"a life of {output} ended with the status {status}")
    return not killed


def main(config: str, examples: str, output: str, kills: str, seed: str) -> None:
    settings, random = Config.load(Path(config)), np.random.default_rng(int(seed))

    def life(run: int, moment: Moment | None) -> bool:
        return live(settings, Path(examples), Path(output, str(run)), moment)

    life(0, None)
    run, left = 1, int(kills)
    while left:
        if life(run, draw(random)):
            run += 1
        else:
            left -= 1
    life(run, None)
    print(run + 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
