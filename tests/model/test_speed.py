"""The speed of a training, by a clock that only moves when it is told to."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from cmdcm.model import speed
from cmdcm.model.speed import Speed
from cmdcm.model.step_profile import StepTimes

PARTS = StepTimes(forward=1.0, backward=2.0, dense_update=0.25, sparse_update=0.5)
WAIT, STEP = 2.0, 6.0


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def batches(self, count: int):
        """Batches that are waited for."""
        for n in range(count):
            self.seconds += WAIT
            yield n


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=clock))
    return clock


def train(watcher: Speed, clock: Clock, count: int) -> list[int]:
    """Takes a step with each batch; the very first one compiles for long."""
    seen: list[int] = []
    for batch in watcher.watch(clock.batches(count)):
        clock.seconds += STEP if seen or watcher._count > 1 else 1000.0
        seen.append(batch)
    return seen


def watcher(tmp_path, measure=None, **settings) -> Speed:
    return Speed(100, measure, logs=tmp_path, **{"profile_step": 0, **settings})


def test_the_batches_pass_and_all_steps_but_the_first_count(clock, tmp_path):
    watched = watcher(tmp_path)
    assert train(watched, clock, 5) == [0, 1, 2, 3, 4]
    assert watched.take() == {
        "speed/examples_per_second": 100 / (WAIT + STEP),
        "speed/input_wait_share": WAIT / (WAIT + STEP),
        "step_ms/whole": 1e3 * (WAIT + STEP),
        "step_ms/input_wait": 1e3 * WAIT,
    }
    assert watched.text == "12 examples/s, input wait 25%"
    assert watched.take() == {}


def test_an_epoch_is_the_mean_over_all_that_was_taken(clock, tmp_path, caplog):
    watched = watcher(tmp_path)
    caplog.set_level("INFO", logger="absl")
    for batch in watched.watch(clock.batches(7)):
        clock.seconds += STEP * batch  # the first does not count
        if batch in (2, 6):
            watched.take()
    values = watched.finish_epoch(3)
    assert values["step_ms/whole"] == pytest.approx(
        1e3 * (WAIT + STEP * (1 + 2 + 3 + 4 + 5 + 6) / 6)
    )
    assert values["speed/input_wait_share"] == pytest.approx(6 * WAIT / (6 * WAIT + 21 * STEP))
    assert values["memory/peak_gib"] > 0
    assert "epoch 3: " in caplog.text and "examples/s" in caplog.text
    assert watched.finish_epoch(4) == {}


def test_one_step_is_measured_once_and_its_measurement_does_not_count(clock, tmp_path):
    measured = []

    def measure(batch):
        measured.append(batch)
        clock.seconds += 500.0
        return PARTS

    watched = watcher(tmp_path, measure, profile_step=3)
    train(watched, clock, 6)
    first = watched.take()
    train(watched, clock, 4)
    second = watched.take()
    assert measured == [2]
    assert watched.parts == PARTS
    assert first["step_ms/whole"] == second["step_ms/whole"] == 1e3 * (WAIT + STEP)
    assert {name: value for name, value in first.items() if name not in second} == {
        "step_ms/forward": 1000.0,
        "step_ms/backward": 2000.0,
        "step_ms/dense_update": 250.0,
        "step_ms/sparse_update": 500.0,
    }


def test_a_measurement_that_fails_does_not_harm_the_training(clock, tmp_path, caplog):
    def measure(batch):
        raise MemoryError("a copy of all weights")

    watched = watcher(tmp_path, measure, profile_step=2)
    assert train(watched, clock, 4) == [0, 1, 2, 3]
    assert "no profile of the steps: MemoryError" in caplog.text
    assert watched.parts is None


def test_the_line_of_an_epoch_says_where_the_time_goes(clock, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    watched = watcher(tmp_path, lambda batch: PARTS, profile_step=1)
    train(watched, clock, 3)
    watched.take()
    watched.finish_epoch(1)
    assert (
        "12 examples/s; 8000.0 ms a step: input wait 2000.0, forward 1000.0, backward 2000.0, "
        "dense update 250.0, sparse update 500.0, other 2250.0" in caplog.text
    )


@pytest.mark.parametrize("steps", [2, 10])
def test_a_trace_has_its_steps_even_where_the_batches_end_first(tmp_path, steps):
    watched = watcher(tmp_path, profile_step=1, trace_steps=3)
    for _ in watched.watch(iter(range(steps))):
        tf.constant(1.0) + 1.0
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_without_trace_steps_nothing_is_traced(tmp_path):
    for _ in watcher(tmp_path, profile_step=1).watch(iter(range(5))):
        pass
    assert not list(tmp_path.iterdir())
