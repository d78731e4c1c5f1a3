"""Items on several processes; one that fails, or a process that dies, ends no other.

A process takes item after item: models share most of their code, and a fresh process would import
TensorFlow and translate that code into graphs anew, half the time of a small trial. It ends after
`ITEMS` of them, so that memory does not add up, and at once when the one that started it is gone: a
bench that is resumed shares its folders with no orphan.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

import tensorflow as tf
from absl import logging

from cmdcm.core.errors import CmdcmError, PreemptedError
from cmdcm.core.progress import progress_bar
from cmdcm.jobs.tune.worker import end_with_parent, how_it_ended

ITEMS = 20
"""Items that a process works on before another takes its place."""

Task = Callable[[Any], None]


def run_all(
    what: str,
    task: Task,
    items: Mapping[str, Any],
    workers: int,
    progress: bool,
    after: Mapping[str, str] | None = None,
) -> None:
    """Runs a task on each item and waits for all.

    Args:
        what: What the items are, for messages.
        task: Called in another process; both it and the items are pickled.
        items: By name.
        workers: Processes at a time, 0 for one a core; each uses its share of the cores.
        progress: Show a progress bar on stderr.
        after: Item -> the item whose end it waits for, which comes before it in `items`.

    Raises:
        CmdcmError: The task failed on some; names the first five with their faults.
    """
    cores, faults = len(os.sched_getaffinity(0)), []
    workers = min(workers or cores, max(len(items), 1))
    threads, own = max(1, cores // workers), threading.local()
    futures: dict[str, Future[str | None]] = {}

    def attempt(name: str) -> str | None:
        first = futures.get((after or {}).get(name, ""))
        if first is not None:
            first.result()  # it began earlier, so that it needs no thread that waits here
        if getattr(own, "process", None) is None:
            own.process = _Process(threads)
        fault: str | None = own.process.run(task, items[name])
        if own.process.spent:
            own.process = None
        return fault

    with progress_bar() as bar, ThreadPoolExecutor(workers) as pool:
        shown = bar.add_task(what, total=len(items), visible=progress and bool(items))
        for name in items:
            futures[name] = pool.submit(attempt, name)
        names = {future: name for name, future in futures.items()}
        for future in as_completed(names):
            if fault := future.result():
                faults.append(f"{names[future]}: {fault}")
            bar.advance(shown)
    if faults:
        raise CmdcmError(f"{len(faults)} of {len(items)} {what} failed: {'; '.join(faults[:5])}")


class _Process:
    """One process.

    Attributes:
        spent: Whether another one should take its place.
    """

    def __init__(self, threads: int):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()
        self._left = ITEMS
        self.spent = False

    def run(self, task: Task, item: Any) -> str | None:
        """Runs a task on an item; returns its fault."""
        self._left -= 1
        try:
            self._connection.send((task, item))
            fault: str | None = self._connection.recv()
        except (EOFError, ConnectionError):  # killed, or failed by a defect, traceback printed
            self._process.join()
            self.spent = True
            return how_it_ended(self._process.exitcode)
        if not self._left:
            self._connection.close()
            self._process.join()
            self.spent = True
        return fault


def _work(connection: Connection, threads: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    logging.set_verbosity(logging.WARNING)
    while True:
        try:
            task, item = connection.recv()
        except EOFError:  # no more items, or the other process is gone
            return
        fault = None
        try:
            task(item)
        except PreemptedError:  # told to end, which the other process learns of its end
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        except CmdcmError as error:
            fault = str(error)
        connection.send(fault)
