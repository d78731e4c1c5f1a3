"""Shared bottom: one tower a label over features that all share (Caruana, 1997).

    p_k = sigmoid(t_k(f(x)))        k = direct, cart, delayed, conversion

Each has a BCE on all clicks, mean over clicks. The towers know nothing of each other: the behaviour
graph is not built in, so p_conversion need not be p_direct + p_delayed.

With `model.bottom` f becomes f_k, a mixture of experts: `model/mmoe.py`, `model/ple.py`.
"""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.about import About
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head
from cmdcm.model.inputs import Tensors

TASKS = ("direct", "cart", "delayed", "conversion")


class SharedBottom(RankingModel):
    """Four independent heads over one bottom."""

    about = About(
        family="multi-task",
        source="Caruana, Machine Learning 1997",
        equation="p_k = sigmoid(t_k(f(x))) for each of D, A, L, C; BCE each",
        assumes="tasks that help each other; not the graph: its p_conversion need not be "
        "p_direct + p_delayed",
        use="as the reference of multi-task learning",
    )

    def make_heads(self) -> Sequence[Head]:
        """A head a label, each on all clicks."""
        return [Head(task, task) for task in TASKS]

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """All four probabilities."""
        return {f"p_{task}": tf.sigmoid(logits[task]) for task in TASKS}
