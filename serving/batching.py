"""Batching: concurrent requests of one signature become one run of the graph.

Checks, codes and messages follow TensorFlow Serving's `batching_session.cc` and TensorFlow's
`shared_batch_scheduler.h`. The scheduler is ours and not TensorFlow's batch op, for three reasons:
`tf.nondifferentiable_batch_function` takes a function, which the graph of a TensorFlow 1 model with
its variables in a session is not; the ops `Batch` and `Unbatch` run the rest of the graph with no
rows for every request but one; and neither knows the deadlines of what it queues.

It is kinder than TensorFlow Serving in two: requests whose shapes differ are batched apart where
they would fail together, and when a batch fails each of its requests is run alone, so that one
that is malformed fails by itself.
"""

import bisect
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field

import grpc
import numpy as np

from cmdcm.serving.batching_options import BatchingOptions
from cmdcm.serving.calls import Call, current_call, deadline_exceeded
from cmdcm.serving.metrics import Metrics
from cmdcm.serving.servable import Runner
from cmdcm.serving.status import StatusError, invalid_argument

_EXPIRED = "Run() timeout exceeded while waiting in batching queue"

_Arrays = Sequence[np.ndarray]


@dataclass
class _Task:
    """A request: its inputs, all of so many rows, and where its outputs go."""

    fed: _Arrays
    rows: int
    call: Call | None
    enqueued: float = field(default_factory=time.monotonic)
    outputs: "Future[_Arrays]" = field(default_factory=Future)


@dataclass
class _Batch:
    tasks: list[_Task]
    rows: int


@dataclass
class _Queue:
    """The batches of one signature that wait, oldest first; the last one takes more requests."""

    run: Callable[[_Arrays], _Arrays]
    batches: deque[_Batch] = field(default_factory=deque)


class BatchScheduler:
    """Runs the batches of all signatures of all models on its threads.

    Args:
        options: Sizes, times and threads.
        metrics: Where queuing latency and batch sizes are counted.

    Example:
        >>> import numpy as np
        >>> def run(signature, fed, outputs):
        ...     return [2 * fed[0]]
        >>> scheduler = BatchScheduler(BatchingOptions(), Metrics())
        >>> scheduler.batched(run)("serving_default", [np.array([1, 2])], ("y",))
        [array([2, 4])]
        >>> scheduler.stop()
    """

    def __init__(self, options: BatchingOptions, metrics: Metrics):
        self.options = options
        self._metrics = metrics
        self._changed = threading.Condition()  # guards the next two
        self._queues: dict[Hashable, _Queue] = {}
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{n}", daemon=True)
            for n in range(options.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Runs what is queued and ends the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def batched(self, run: Runner) -> Runner:
        """Returns a runner of one model that batches what `run` is to run.

        It raises a `StatusError`: INVALID_ARGUMENT for inputs without a common number of rows, or
        with more than a batch has; UNAVAILABLE when the queue is full; DEADLINE_EXCEEDED when the
        call expired in it.
        """

        def batched(signature: str, fed: _Arrays, outputs: tuple[str, ...]) -> _Arrays:
            task = _Task(fed, _rows(fed), current_call())
            shapes = tuple(array.shape[1:] for array in fed)
            key = (run, signature, outputs, shapes)
            self._enqueue(key, task, lambda arrays: run(signature, arrays, outputs))
            deadline = None if task.call is None else task.call.deadline
            try:
                return task.outputs.result(
                    None if deadline is None else deadline - time.monotonic()
                )
            except TimeoutError:
                if task.outputs.cancel():
                    raise deadline_exceeded(_EXPIRED) from None
                return task.outputs.result()  # it runs, and needs the model to stay loaded

        return batched

    def _enqueue(self, key: Hashable, task: _Task, run: Callable[[_Arrays], _Arrays]) -> None:
        most = self.options.max_batch_size
        if task.rows > most:
            raise invalid_argument(
                f"Task size {task.rows} is larger than maximum input batch size {most}"
            )
        with self._changed:
            queue = self._queues.setdefault(key, _Queue(run))
            batches = queue.batches
            if not batches or batches[-1].rows + task.rows > most:
                if len(batches) >= self.options.max_enqueued_batches:
                    raise StatusError(
                        grpc.StatusCode.UNAVAILABLE,
                        "The batch scheduling queue to which this task was submitted is full; "
                        f"currently {len(batches)} batches enqueued and max_enqueued_batches is "
                        f"{self.options.max_enqueued_batches}",
                    )
                batches.append(_Batch([], 0))
            batches[-1].tasks.append(task)
            batches[-1].rows += task.rows
            self._changed.notify()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            queue, batch = found
            self._process(queue.run, batch)

    def _next(self) -> tuple[_Queue, _Batch] | None:
        """Waits for a batch that is full or has waited long enough; None once stopped."""
        with self._changed:
            while True:
                # Oldest first, over all signatures, so that none starves.
                ready_at, key = min(
                    ((self._ready_at(queue), key) for key, queue in self._queues.items()),
                    key=lambda entry: entry[0],
                    default=(None, None),
                )
                if ready_at is None and self._stopping:
                    return None
                if ready_at is None or ready_at > time.monotonic():
                    self._changed.wait(None if ready_at is None else ready_at - time.monotonic())
                    continue
                queue = self._queues[key]
                batch = queue.batches.popleft()
                if not queue.batches:
                    del self._queues[key]
                if self._queues:
                    self._changed.notify()  # another thread watches the time for the others
                return queue, batch

    def _ready_at(self, queue: _Queue) -> float:
        """Returns when the oldest batch may run: a time in the past if it is full."""
        oldest = queue.batches[0]
        since = oldest.tasks[0].enqueued
        full = len(queue.batches) > 1 or oldest.rows >= self.options.max_batch_size
        return since if full or self._stopping else since + self.options.batch_timeout_micros / 1e6

    def _process(self, run: Callable[[_Arrays], _Arrays], batch: _Batch) -> None:
        now = time.monotonic()
        tasks = []
        for task in batch.tasks:
            self._metrics.queuing(self.options.thread_pool_name, now - task.enqueued)
            if not task.outputs.set_running_or_notify_cancel():
                continue  # its caller has given up
            if task.call is not None and task.call.expired():
                task.outputs.set_exception(deadline_exceeded(_EXPIRED))
                continue
            tasks.append(task)
        try:
            if tasks:
                self._run(run, tasks)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].outputs.set_exception(error)
            else:
                self._run_apart(run, tasks)

    def _run_apart(self, run: Callable[[_Arrays], _Arrays], tasks: Sequence[_Task]) -> None:
        for task in tasks:
            try:
                self._run(run, [task])
            except Exception as error:
                task.outputs.set_exception(error)

    def _run(self, run: Callable[[_Arrays], _Arrays], tasks: list[_Task]) -> None:
        rows = sum(task.rows for task in tasks)
        sizes = self.options.allowed_batch_sizes
        padded = sizes[bisect.bisect_left(sizes, rows)] if sizes and rows else rows
        self._metrics.batch(self.options.thread_pool_name, padded)
        outputs = run(_merge(tasks, padded - rows))
        for output in outputs:
            if output.ndim == 0:
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
                )
            if len(output) != padded:
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors",
                )
        start = 0
        for task in tasks:
            end = start + task.rows
            task.outputs.set_result([output[start:end] for output in outputs])
            start = end


def _rows(fed: _Arrays) -> int:
    if any(array.ndim == 0 for array in fed):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    rows = {len(array) for array in fed}
    if len(rows) != 1:
        raise invalid_argument(
            "Batching Run() input tensors must have equal 0th-dimension size"
            if rows
            else "Batching Run() must have at least one input tensor"
        )
    return rows.pop()


def _merge(tasks: Sequence[_Task], padding: int) -> list[np.ndarray]:
    """Returns the inputs of all tasks, one after the other, padded with copies of a row."""
    if len(tasks) == 1 and not padding:
        return list(tasks[0].fed)
    columns = [list(arrays) for arrays in zip(*(task.fed for task in tasks), strict=True)]
    if padding:
        filled = next(index for index, task in enumerate(tasks) if task.rows)
        for arrays in columns:
            arrays.append(np.repeat(arrays[filled][:1], padding, axis=0))
    return [np.concatenate(arrays) for arrays in columns]
