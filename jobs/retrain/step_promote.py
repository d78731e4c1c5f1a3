"""Step `promote`: the version becomes the stable one, if its scores are near enough to stable's."""

import contextlib
from pathlib import Path
from typing import Any

from cmdcm.core.errors import ExportError, ServingError
from cmdcm.jobs.retrain.served import adopt
from cmdcm.jobs.retrain.step_canary import rollout
from cmdcm.jobs.retrain.step_register import lineage
from cmdcm.jobs.retrain.steps import Context, FrozenError
from cmdcm.jobs.rollout.config_file import STABLE, placement_of
from cmdcm.jobs.rollout.shift import ShiftError


def run(context: Context, output: Path) -> dict[str, Any]:
    """Moves `stable`; a canary that is not promoted is taken away."""
    registered = context.done["register"]
    version = int(registered.summary["version"])
    said: dict[str, Any] = {"digest": registered.digest, "version": version}
    context.check()
    if not context.config.retrain.targets:
        adopt(context.work, lineage(context, version))
        return said
    with rollout(context) as moves:
        stable = placement_of(moves.file.entry()).labels.get(STABLE)
        if stable is None:
            moves.rollback(version)  # the move that needs no version to compare with
        elif stable != version:
            try:
                context.check_freeze()  # the canary may have taken minutes to load
                _, shift = moves.promote([Path(file) for file in context.config.retrain.replay])
            except (ServingError, FrozenError) as error:
                with contextlib.suppress(ServingError):
                    moves.rollback()
                if isinstance(error, ShiftError):  # refused, as by the gate: no fault of a server
                    raise ExportError(str(error)) from error
                raise
            said["shift"] = shift.as_dict()
    return said
