"""What TensorBoard reads from the event files of a run, and of one that was interrupted."""

from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from cmdcm.model.tensorboard import TensorBoard


def scalars(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """The series that TensorBoard shows: (step, value) by name."""
    read = EventAccumulator(str(logs), size_guidance={"tensors": 0}).Reload()
    return {
        name: [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in read.Tensors(name)]
        for name in read.Tags()["tensors"]
    }


def write(logs: Path, taken: int, steps: range, value: float) -> None:
    board = TensorBoard(logs)
    board.started(taken)
    for step in steps:
        board.stepped(step, {"step/loss": value})
    board.ended(None)


def test_steps_and_epochs_have_their_axes(tmp_path):
    board = TensorBoard(tmp_path)
    board.started(0)
    board.stepped(20, {"step/loss": 0.5, "step_ms/whole": 40.0})
    board.stepped(40, {"step/loss": 0.25})
    board.finished_epoch(1, {"val_auc_conversion": 0.75})
    board.ended(None)
    assert scalars(tmp_path) == {
        "step/loss": [(20, 0.5), (40, 0.25)],
        "step_ms/whole": [(20, 40.0)],
        "val_auc_conversion": [(1, 0.75)],
    }


def test_an_epoch_is_there_before_the_run_ends(tmp_path):
    board = TensorBoard(tmp_path)
    board.started(0)
    board.finished_epoch(1, {"loss": 0.5})
    assert scalars(tmp_path) == {"loss": [(1, 0.5)]}
    board.ended(None)


def test_what_came_after_the_last_checkpoint_is_taken_back(tmp_path):
    write(tmp_path, 0, range(1, 11), 1.0)
    (first,) = tmp_path.glob("events.*")
    first.rename(tmp_path / "events.out.tfevents.0.first")  # it may be of the same second
    write(tmp_path, 6, range(7, 9), 2.0)
    assert scalars(tmp_path) == {
        "step/loss": [*((n, 1.0) for n in range(1, 7)), (7, 2.0), (8, 2.0)]
    }


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_a_run_without_a_value_leaves_no_file(tmp_path, error):
    board = TensorBoard(tmp_path / "logs")
    board.started(0)
    board.ended(error)
    assert not (tmp_path / "logs").exists()
