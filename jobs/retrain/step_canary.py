"""Step `canary`: the version beside the stable one on all servers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmdcm.jobs.registry.aliases import Aliases
from cmdcm.jobs.retrain.steps import Context
from cmdcm.jobs.rollout.audit import entries
from cmdcm.jobs.rollout.config_file import CANARY, STABLE, ModelConfigFile, placement_of
from cmdcm.jobs.rollout.rollout import Author, Rollout
from cmdcm.jobs.rollout.server import Server, addresses


@contextlib.contextmanager
def rollout(context: Context) -> Iterator[Rollout]:
    """Opens the roll-out of the job's model on its servers."""
    config = context.config
    file = ModelConfigFile(Path(config.serving.model_config_file), config.export.name)
    reason = f"retraining for {context.window.promotion.name} as of {context.window.last_day}"
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                Server(
                    target,
                    file.model,
                    config.rollout.deadline_ms,
                    config.serving.max_message_mb,
                )
            )
            for target in addresses(list(config.retrain.targets))
        ]
        aliases = Aliases(config, file.model) if config.rollout.registry else None
        yield Rollout(file, servers, config.rollout, Author(context.by, reason), aliases)


def end_trial(context: Context) -> None:
    """Takes away the canary that this job has put there, perhaps in a run that was killed.

    Raises:
        CmdcmError: As `Rollout.rollback`.
    """
    with rollout(context) as moves:
        of_model = [e for e in entries(moves.file.path) if e["model"] == moves.file.model]
        trials = [entry for entry in of_model if entry["action"] == "canary"]
        # The reason tells promotion and instant: a person who makes a canary gives another.
        ours = bool(trials) and trials[-1]["reason"] == moves.author.reason
        if ours and CANARY in placement_of(moves.file.entry()).labels:
            moves.rollback()


def run(context: Context, output: Path) -> dict[str, Any]:
    """Loads and labels the version; the first version of all has nothing to be a canary beside."""
    registered = context.done["register"]
    if not context.config.retrain.targets:
        return {"digest": registered.digest, "skipped": "retrain.targets names no servers"}
    context.check()
    version = int(registered.summary["version"])
    with rollout(context) as moves:
        labels = placement_of(moves.file.entry()).labels
        if STABLE not in labels:
            return {"digest": registered.digest, "skipped": "no version is stable yet"}
        if labels[STABLE] != version:
            moves.canary(version)
    return {"digest": registered.digest, "version": version, "stable": labels[STABLE]}
