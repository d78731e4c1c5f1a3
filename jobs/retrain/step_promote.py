"""Step `promote`: the version becomes the stable one, if its scores are near enough to stable's."""

import contextlib
from pathlib import Path
from typing import Any

from cmdcm.core.errors import CmdcmError, ExportError
from cmdcm.jobs.retrain.lock import LostLockError
from cmdcm.jobs.retrain.served import adopt
from cmdcm.jobs.retrain.step_canary import rollout
from cmdcm.jobs.retrain.step_register import lineage
from cmdcm.jobs.retrain.steps import Context
from cmdcm.jobs.rollout.config_file import CANARY, STABLE, placement_of
from cmdcm.jobs.rollout.rollout import Rollout
from cmdcm.jobs.rollout.shift import ShiftError


def run(context: Context, output: Path) -> dict[str, Any]:
    """Moves `stable`; a canary that is not promoted is taken away."""
    registered = context.done["register"]
    version = int(registered.summary["version"])
    said: dict[str, Any] = {"digest": registered.digest, "version": version}
    if not context.config.retrain.targets:
        context.check()
        adopt(context.work, lineage(context, version))
        return said
    with rollout(context) as moves:
        stable = placement_of(moves.file.entry()).labels.get(STABLE)
        if stable is None:
            context.check()
            moves.rollback(version)  # the move that needs no version to compare with
        elif stable != version:
            try:
                context.check()  # the canary may have taken minutes to load
                context.check_freeze()
                _, shift = moves.promote([Path(file) for file in context.config.retrain.replay])
            except LostLockError:  # what is there may be another run's
                raise
            except CmdcmError as error:
                _take_away(moves, version)
                if isinstance(error, ShiftError):  # refused, as by the gate: no fault of a server
                    raise ExportError(str(error)) from error
                raise
            said["shift"] = shift.as_dict()
    return said


def _take_away(moves: Rollout, version: int) -> None:
    """Ends the trial of a version; where somebody has ended it already, stable stays."""
    with contextlib.suppress(CmdcmError):
        if placement_of(moves.file.entry()).labels.get(CANARY) == version:
            moves.rollback()
