"""Checkpoints: the newest whole one counts, whatever happened to the others."""

import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.errors import OutputError
from cmdcm.model.checkpoints import BEST, Checkpoints


class Run:
    """A table, an optimizer with slots, and a place in the data."""

    def __init__(self, directory: Path, **settings):
        self.table = tf.Variable(tf.zeros([1000, 50]))
        self.step = tf.Variable(0, dtype=tf.int64)
        self.optimizer = tf.keras.optimizers.legacy.Adam(0.1)
        weights = tf.train.Checkpoint(table=self.table)
        state = {"network": weights, "optimizer": self.optimizer, "step": self.step}
        self.checkpoints = Checkpoints(directory, state, weights, **settings)

    def go(self, steps: int) -> None:
        for _ in range(steps):
            gradient = tf.sin(tf.cast(self.step, tf.float32)) + tf.ones([1000, 50])
            self.optimizer.apply_gradients([(gradient, self.table)])
            self.step.assign_add(1)

    def state(self) -> list[np.ndarray]:
        slots = [self.optimizer.get_slot(self.table, name) for name in ("m", "v")]
        return [v.numpy() for v in (self.table, self.step, self.optimizer.iterations, *slots)]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def saved(directory: Path, saves: int = 3) -> Run:
    """A run that saved its state after each step."""
    run = Run(directory)
    for _ in range(saves):
        run.go(1)
        run.checkpoints.save()
    run.checkpoints.wait()
    return run


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
    elif how == "cut":
        content = content[: len(content) // 2]
    path.write_bytes(content)
    if how == "remove":
        path.unlink()


@pytest.mark.parametrize("background", [True, False])
def test_a_run_goes_on_as_if_nothing_had_been(tmp_path, background):
    run = Run(tmp_path, background=background)
    run.go(3)
    run.checkpoints.save()
    run.go(4)  # while the state is written
    run.checkpoints.wait()
    other = Run(tmp_path, background=background)
    assert other.checkpoints.restore() == str(tmp_path / "ckpt-1")
    assert int(other.step.numpy()) == 3
    other.go(4)
    assert_same(other.state(), run.state())


def test_nothing_to_restore(tmp_path):
    run = Run(tmp_path / "run")
    assert run.checkpoints.restore() is None
    assert not (tmp_path / "run").exists()


def test_the_newest_are_kept(tmp_path):
    run = Run(tmp_path, keep=2)
    for _ in range(4):
        run.go(1)
        run.checkpoints.save()
    run.checkpoints.wait()
    assert sorted(p.stem for p in tmp_path.glob("*.index")) == ["ckpt-3", "ckpt-4"]


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        ("data-00000-of-00001", "flip"),
        ("data-00000-of-00001", "cut"),
        ("data-00000-of-00001", "remove"),
        ("index", "cut"),
        ("index", "remove"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, suffix, how):
    saved(tmp_path)
    damage(tmp_path / f"ckpt-3.{suffix}", how)
    run = Run(tmp_path)
    assert run.checkpoints.restore() == str(tmp_path / "ckpt-2")
    assert int(run.step.numpy()) == 2
    assert "ckpt-3 cannot be read" in caplog.text
    run.go(1)
    run.checkpoints.save()
    run.checkpoints.wait()
    other = Run(tmp_path)
    other.checkpoints.restore()
    assert int(other.step.numpy()) == 3


@pytest.mark.parametrize(
    ("suffix", "how"), [("data-00000-of-00001", "flip"), ("index", "cut"), ("index", "remove")]
)
def test_damaged_best_weights_are_named_and_change_nothing(tmp_path, suffix, how):
    run = Run(tmp_path)
    run.checkpoints.save_best()
    run.go(1)
    damage(tmp_path / f"{BEST}.{suffix}", how)
    before = run.table.numpy()
    with pytest.raises(OutputError, match=rf"best epoch, {tmp_path}/{BEST}, cannot be read: \S"):
        run.checkpoints.restore_best()
    np.testing.assert_array_equal(run.table, before)


def test_nothing_but_damage_is_an_error(tmp_path):
    saved(tmp_path)
    for path in tmp_path.glob("*.index"):
        damage(path, "cut")
    with pytest.raises(OutputError, match=r"none of the 3 checkpoints .* can be read"):
        Run(tmp_path).checkpoints.restore()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    saved(tmp_path)
    (tmp_path / "ckpt-4_temp").mkdir()
    (tmp_path / "ckpt-4_temp" / "part-00000.data.tempstate123").write_bytes(b"half")
    (tmp_path / "best.data-00000-of-00001.tempstate9").write_bytes(b"half")
    run = Run(tmp_path)
    assert run.checkpoints.restore() == str(tmp_path / "ckpt-3")
    assert not list(tmp_path.glob("*temp*"))


@pytest.fixture
def full_disk():
    """Lets no file grow beyond 50 kB while the block runs; as a full disk, it fails the write."""

    class Full:
        def __enter__(self):
            self.heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, self.limits[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)
            signal.signal(signal.SIGXFSZ, self.heard)

    return Full()


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, full_disk, background):
    run = Run(tmp_path, background=background)
    run.go(2)
    run.checkpoints.save()
    run.checkpoints.wait()
    run.checkpoints.save_best()
    good = run.state()
    run.go(1)
    with full_disk, pytest.raises(OutputError, match="no checkpoint can be written"):
        run.checkpoints.save()
        run.checkpoints.wait()
    with full_disk, pytest.raises(OutputError, match="no checkpoint can be written"):
        run.checkpoints.save_best()
    assert not list(tmp_path.glob("*temp*"))
    other = Run(tmp_path)
    other.checkpoints.restore()
    other.optimizer.apply_gradients([(tf.zeros([1000, 50]), other.table)])  # makes its slots
    other.checkpoints.restore()
    assert_same(other.state(), good)
    other.table.assign(tf.zeros([1000, 50]))
    other.checkpoints.restore_best()
    np.testing.assert_array_equal(other.table, good[0])


def test_only_the_chief_writes(tmp_path):
    run = Run(tmp_path / "run", writes=False)
    run.go(1)
    run.checkpoints.save()
    run.checkpoints.wait()
    run.checkpoints.save_best()
    assert not (tmp_path / "run").exists()


def test_the_best_weights(tmp_path):
    run = Run(tmp_path)
    run.go(1)
    run.checkpoints.save_best()
    best = run.table.numpy()
    run.go(1)
    run.checkpoints.restore_best()
    np.testing.assert_array_equal(run.table, best)
    assert (tmp_path / f"{BEST}.index").exists()
