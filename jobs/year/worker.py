"""`python -m cmdcm.jobs.year.worker FILE`: a job whose process is killed in its training.

It gets SIGKILL the first time that the job looks at the clock after a training has begun: nothing
can be tidied up, and where in the job it happens does not depend on how busy the machine is.
"""

import os
import signal
import sys
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.files import read_json
from cmdcm.jobs.retrain.job import Request, retrain


def main(file: Path) -> None:
    """Runs the job that a file describes."""
    described = read_json(file, "the job to kill")
    config = Config.model_validate(described["config"])
    steps = Path(config.retrain.work).resolve() / "steps"
    before = set(steps.glob("train-*"))

    def clock() -> float:
        if any((path / "run").exists() for path in set(steps.glob("train-*")) - before):
            os.kill(os.getpid(), signal.SIGKILL)
        return float(described["now"])

    retrain(config, Request(**described["request"]), clock)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
