"""Trials without a model: a loss that is a formula of the settings."""

import fcntl
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, DataError, PreemptedError

FOLDS = 3


@dataclass(frozen=True)
class Job:
    """What a trial is to do."""

    config: Config
    folder: Path
    runs: Path


def losses(config: Config) -> list[float]:
    """Each fold has a setting that matters to it, and fold 1 is the hardest.

    The best learning rate is 0.003, the best number of layers 2, the best L2 penalty 1e-4.
    """
    rate = abs(config.training.learning_rate - 0.003)
    layers = 0.002 * abs(config.model.cross_layers - 2)
    penalty = 0.002 * abs(math.log10(config.model.l2_embeddings) + 4)
    return [0.1 + rate, 0.5 + layers, 0.3 + penalty]


def formula(job: Job, report: Callable[[Any], None]) -> None:
    """Reports the losses; notes in `runs` which trial ran which fold, as a training would."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for fold, loss in enumerate(losses(job.config)):
        done = job.folder / f"{fold}"
        if not done.exists():
            with job.runs.open("a") as stream:
                stream.write(f"{job.folder.name} {fold}\n")
            done.touch()
        report({"fold": fold, "loss": loss, "epoch": fold + 1, "seconds": 2.0})


def faulty(job: Job, report: Callable[[Any], None]) -> None:
    """Fails from the second trial on, in the second fold."""
    report({"fold": 0, "loss": 1.0, "epoch": 1, "seconds": 1.0})
    if job.folder.name != "0000":
        raise DataError(f"no rows for {job.folder.name}")
    report({"fold": 1, "loss": 1.0, "epoch": 1, "seconds": 1.0})
    report({"fold": 2, "loss": 1.0, "epoch": 1, "seconds": 1.0})


def sometimes(job: Job, report: Callable[[Any], None]) -> None:
    """Fails in every second trial."""
    (faulty if int(job.folder.name) % 2 else formula)(job, report)


def never(job: Job, report: Callable[[Any], None]) -> None:
    """Fails at once."""
    raise DataError("no rows at all")


def preempted(job: Job, report: Callable[[Any], None]) -> None:
    """Is told to end at the start of the second trial."""
    if job.folder.name == "0001":
        raise PreemptedError("saved")
    formula(job, report)


def terminating(job: Job, report: Callable[[Any], None]) -> None:
    """Has the search told to end in its second trial."""
    if job.folder.name == "0001":
        os.kill(os.getpid(), signal.SIGTERM)
        report({"fold": 0, "loss": 1.0, "epoch": 1, "seconds": 1.0})
        time.sleep(600)
    formula(job, report)


def echo(job: str, report: Callable[[Any], None]) -> None:
    """Reports what it gets, twice, or ends in the way that it is told."""
    endings: dict[str, Callable[[], Any]] = {
        "value": lambda: int("x"),
        "data": lambda: _raise(DataError("no rows")),
        "preempted": lambda: _raise(PreemptedError("saved")),
        "exit": lambda: os._exit(3),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    }
    report(job)
    endings.get(job, lambda: None)()
    report(job * 2)


def pid(job: str, report: Callable[[Any], None]) -> None:
    """Reports its process's number."""
    report(os.getpid())


def hold(job: str, report: Callable[[Any], None]) -> None:
    """Holds the lock of a file, and says so, until it is ended."""
    with Path(job).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        report("held")
        time.sleep(600)


def _raise(error: CmdcmError) -> None:
    raise error


class ThreadWorker:
    """A `Worker` in a thread, for what does not depend on processes."""

    def __init__(self, function: Callable[[Any, Any], None], job: Any):
        self.connection, theirs = Pipe()
        threading.Thread(target=_work, args=(theirs, function, job), daemon=True).start()

    def receive(self) -> tuple[str, Any]:
        kind, value = self.connection.recv()
        return kind, value

    def go_on(self) -> None:
        self.connection.send(None)

    def stop(self) -> None:
        self.connection.close()


def _work(connection: Connection, function: Callable[[Any, Any], None], job: Any) -> None:
    def report(value: Any) -> None:
        connection.send(("report", value))
        connection.recv()

    try:
        function(job, report)
        connection.send(("done", None))
    except PreemptedError:
        connection.send(("preempted", None))
    except CmdcmError as error:
        connection.send(("failed", str(error)))
    except (EOFError, OSError):  # the search is gone, as if the process had been ended
        pass
