"""Step `train`: examples -> a calibrated model, started from the serving model's weights."""

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cmdcm.core.errors import RetrainError
from cmdcm.export.gate import identity
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.plan import EXAMPLES
from cmdcm.jobs.retrain.steps import Context
from cmdcm.model.observers import Observer
from cmdcm.model.trained import MODEL, load_history
from cmdcm.model.training import train

RUN = "run"


class Watch(Observer):
    """Looks during training whether the job should go on; if not, it stops as SIGTERM would.

    The run then saves its state and ends with a PreemptedError.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def stepped(self, taken: int, values: Mapping[str, float]) -> None:
        """Looks after some steps."""
        try:
            self.check()
        except RetrainError:
            # Elsewhere nobody hears the signal (`core.signals`), and the process would die of it.
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGTERM)


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `run/` into the step's directory; a run that was killed goes on at its checkpoint."""
    config = context.config
    start = context.base["model"] if context.base else ""
    training = config.training.model_copy(update={"warm_start": start})
    config = config.model_copy(update={"training": training})
    data = ExampleSet.open(context.done["features"].path / EXAMPLES, config.split)
    train(data, output / RUN, config, progress=False, observers=[Watch(context.check)])
    model = output / RUN / MODEL
    history = load_history(model)
    return {
        "digest": identity(model),
        "rows": data.total("train"),
        "epochs": len(history),
        "warm_start": start or None,
        "validation_log_loss": min(r["val_log_loss_conversion"] for r in history),
    }
