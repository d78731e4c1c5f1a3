"""The speed of a training: examples a second, where a step's time goes, peak memory, a trace.

All of it is seen between two batches, so that the training's loop needs to know nothing of it.
"""

import resource
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from cmdcm.model.step_profile import StepTimes


@dataclass
class _Span:
    """Steps and their seconds, `waited` of them for batches that were not there yet."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, other: "_Span") -> None:
        self.steps += other.steps
        self.seconds += other.seconds
        self.waited += other.waited


class Speed:
    """Watches the batches of a training.

    The first step of a process, which compiles, does not count, nor does the time of profiling. The
    input wait is that of this process: where steps go on in the background, as on a GPU, they may
    still be busy meanwhile.

    Args:
        batch_size: Examples of a step, on all replicas; the last one of an epoch may have fewer.
        measure: Measures the parts of a step, given a batch; None where it cannot be done.
        profile_step: The step of this process after which it does, once; 0 for never.
        logs: Directory for traces.
        trace_steps: Steps, after that one, that TensorBoard's profiler traces.

    Attributes:
        parts: What was measured, None before it was.
        text: The speed of the latest steps, for a progress bar.
    """

    def __init__(
        self,
        batch_size: int,
        measure: Callable[[Any], StepTimes] | None,
        *,
        profile_step: int,
        logs: Path,
        trace_steps: int = 0,
    ):
        self.parts: StepTimes | None = None
        self.text = ""
        self._batch_size = batch_size
        self._measure, self._profile_step = measure, profile_step
        self._logs = logs
        first = max(profile_step, 1) + 1
        self._traced = range(first, first + trace_steps)
        self._tracing = False
        self._count = 0
        self._reported = False
        self._mark = time.perf_counter()
        self._latest, self._epoch = _Span(), _Span()

    def watch(self, batches: Iterator[Any]) -> Generator[Any, None, None]:
        """Yields the batches of an epoch; the caller takes a step with each."""
        self._restart()
        try:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                self._latest.waited += time.perf_counter() - asked
                self._latest.steps += self._count > 0
                self._count += 1
                with self._step():
                    yield batch
                if self._count == 1:
                    self._restart()
                before = time.perf_counter()
                self._look(batch)
                self._mark += time.perf_counter() - before
        finally:
            self._stop_trace()

    def take(self) -> dict[str, float]:
        """Returns the means over the steps since the last call; nothing if there were none."""
        span = self._latest
        span.seconds = time.perf_counter() - self._mark
        self._restart()
        if not span.steps:
            return {}
        self._epoch.add(span)
        values = self._values(span)
        rate, share = values["speed/examples_per_second"], values["speed/input_wait_share"]
        self.text = f"{rate:,.0f} examples/s, input wait {share:.0%}"
        if self.parts and not self._reported:
            self._reported = True
            values |= {f"step_ms/{name}": 1e3 * s for name, s in asdict(self.parts).items()}
        return values

    def finish_epoch(self, epoch: int) -> dict[str, float]:
        """Logs and returns the means over an epoch's steps; nothing if there were none."""
        span, self._epoch = self._epoch, _Span()
        if not span.steps:
            return {}
        values = self._values(span) | {"memory/peak_gib": peak_memory() / 2**30}
        logging.info("epoch %d: %s", epoch, self._line(values))
        return values

    def _values(self, span: _Span) -> dict[str, float]:
        return {
            "speed/examples_per_second": span.steps * self._batch_size / span.seconds,
            "speed/input_wait_share": span.waited / span.seconds,
            "step_ms/whole": 1e3 * span.seconds / span.steps,
            "step_ms/input_wait": 1e3 * span.waited / span.steps,
        }

    def _line(self, values: dict[str, float]) -> str:
        parts = {"input wait": values["step_ms/input_wait"]}
        if self.parts:
            parts |= {name.replace("_", " "): 1e3 * s for name, s in asdict(self.parts).items()}
            parts["other"] = max(values["step_ms/whole"] - sum(parts.values()), 0.0)
        split = ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items())
        return (
            f"{values['speed/examples_per_second']:,.0f} examples/s; "
            f"{values['step_ms/whole']:.1f} ms a step: {split}; "
            f"peak memory {values['memory/peak_gib']:.2f} GiB"
        )

    def _restart(self) -> None:
        self._mark, self._latest = time.perf_counter(), _Span()

    def _step(self) -> AbstractContextManager[Any]:
        """Returns what a step runs in: its mark in the trace."""
        if self._tracing:
            return tf.profiler.experimental.Trace("train", step_num=self._count, _r=1)
        return nullcontext()

    def _look(self, batch: Any) -> None:
        """Profiles after a step, if it is the time; a failure is of no matter to the training."""
        try:
            if self._measure and self._count == self._profile_step:
                self.parts = self._measure(batch)
            if self._count + 1 == self._traced.start and self._traced:
                tf.profiler.experimental.start(str(self._logs))
                self._tracing = True
            if self._count + 1 == self._traced.stop:
                self._stop_trace()
        except Exception as error:
            logging.warning("no profile of the steps: %r", error)

    def _stop_trace(self) -> None:
        if self._tracing:
            self._tracing = False
            tf.test.experimental.sync_devices()
            tf.profiler.experimental.stop()


def peak_memory() -> int:
    """Returns the most bytes of memory that this process has had (Linux), without devices'."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
