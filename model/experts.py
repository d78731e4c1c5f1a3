"""Mixtures of experts between the inputs and the towers: MMoE and PLE as one layer.

At a level, experts (MLPs) read the level's input; each task k has a gate that mixes those it sees:

    f_k(x) = sum over i of softmax(W_k x_k)_i E_i(x)

MMoE (Ma et al., KDD 2018) is one level of experts that all tasks see. PLE (Tang et al.,
RecSys 2020) gives each task experts of its own beside the shared ones and stacks levels:
a task's experts and its gate read what the task got from the level below, the shared experts what
a gate over all experts got there. So MMoE is PLE with one level and without experts of one task.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf
import tensorflow_recommenders as tfrs

PerTask = Mapping[str, tf.Tensor]


class ExpertLevel(tf.keras.layers.Layer):
    """One level: customized gate control of PLE.

    Args:
        tasks: Names of the tasks.
        units: Layers of each expert, all with relu. Experts draw their weights each for itself, so
            that no two start equal.
        shared: Experts that all tasks see.
        own: Experts of each task.
        last: Whether no level follows, so that nothing has to be mixed for shared experts.

    Call arguments:
        of_task: What each task's experts and gate read, [N, d] each.
        of_all: What the shared experts read, [N, d].

    Returns:
        The mixtures of the tasks, [N, units[-1]] each, and that of all experts; None at the last.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        units: Sequence[int],
        shared: int,
        own: int,
        last: bool,
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        if not shared and not own:
            raise ValueError("`shared` and `own` should not both be 0: there would be no expert")

        def experts(count: int) -> list[tf.keras.layers.Layer]:
            return [
                tfrs.layers.blocks.MLP(list(units), final_activation="relu") for _ in range(count)
            ]

        def gate(count: int) -> tf.keras.layers.Layer:
            return tf.keras.layers.Dense(count, activation="softmax", use_bias=False)

        self.shared = experts(shared)
        self.own = {task: experts(own) for task in tasks}
        self.gates = {task: gate(shared + own) for task in tasks}
        self.gate_of_all = None if last else gate(shared + own * len(tasks))

    def call(self, of_task: PerTask, of_all: tf.Tensor) -> tuple[PerTask, tf.Tensor | None]:
        """See the class."""
        shared = [expert(of_all) for expert in self.shared]
        own = {task: [expert(x) for expert in self.own[task]] for task, x in of_task.items()}
        mixed = {
            task: mix(self.gates[task](x), [*own[task], *shared]) for task, x in of_task.items()
        }
        if self.gate_of_all is None:
            return mixed, None
        each = [expert for experts in own.values() for expert in experts]
        return mixed, mix(self.gate_of_all(of_all), [*each, *shared])


class Experts(tf.keras.layers.Layer):
    """Levels of experts over one input.

    Args:
        tasks: Names of the tasks.
        levels: Layers of the experts of each level.
        shared: Experts that all tasks see, a level.
        own: Experts of each task, a level.

    Call arguments:
        x: [N, d].

    Returns:
        The features of each task, [N, levels[-1][-1]] each.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        levels: Sequence[Sequence[int]],
        shared: int,
        own: int,
        **kwargs: object,
    ):
        super().__init__(**kwargs)
        self.tasks = tuple(tasks)
        self.levels = [
            ExpertLevel(tasks, units, shared, own, last=n == len(levels) - 1)
            for n, units in enumerate(levels)
        ]

    def call(self, x: tf.Tensor) -> PerTask:
        """See the class."""
        of_task: PerTask = dict.fromkeys(self.tasks, x)
        of_all: tf.Tensor | None = x
        for level in self.levels:
            of_task, of_all = level(of_task, of_all)
        return of_task

    def input_kernels(self) -> list[str]:
        """Returns the places, in this layer, of the kernels whose rows are the columns of x."""
        first = self.levels[0]
        experts = [f"shared/{n}" for n in range(len(first.shared))]
        experts += [f"own/{task}/{n}" for task, own in first.own.items() for n in range(len(own))]
        gates = [f"gates/{task}" for task in self.tasks]
        gates += ["gate_of_all"] if first.gate_of_all is not None else []
        places = [*(f"{expert}/_sublayers/0" for expert in experts), *gates]
        return [f"levels/0/{place}/kernel" for place in places]


def mix(shares: tf.Tensor, experts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns sum over i of shares[:, i] experts[i], [N, u].

    Args:
        shares: [N, E].
        experts: E outputs, [N, u] each.

    Example:
        >>> mix(tf.constant([[0.25, 0.75]]), [tf.constant([[4.0]]), tf.constant([[8.0]])]).numpy()
        array([[7.]], dtype=float32)
    """
    return tf.einsum("ne,neu->nu", shares, tf.stack(experts, axis=1))
