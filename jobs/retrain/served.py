"""Which trained model serves, and what is known of each published version.

`WORK/versions/N.json` is the lineage of version N: its trained model and what that was made of.
With servers the label `stable` of the model config file says which version serves, so that a
roll-back by hand is seen; without them `WORK/serving.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.files import read_json, staged_file, write_json
from cmdcm.jobs.rollout.audit import entries

SERVING = "serving.json"


def lineage_path(work: Path, version: int) -> Path:
    """Returns where the lineage of a version stands."""
    return work / "versions" / f"{version}.json"


def write_lineage(work: Path, lineage: Mapping[str, Any]) -> None:
    """Writes the lineage of a version; its number is `version`."""
    with staged_file(lineage_path(work, int(lineage["version"]))) as staging:
        write_json(staging, dict(lineage))


def adopt(work: Path, model: Mapping[str, Any]) -> None:
    """Makes a model the serving one of a job without servers."""
    with staged_file(work / SERVING) as staging:
        write_json(staging, dict(model))


def stable_version(config: Config) -> int | None:
    """Returns the version that the servers call `stable`; None without servers or such a label."""
    if not (config.serving.model_config_file and config.retrain.targets):
        return None
    # Loads the protos of TensorFlow Serving, which a job without servers does not need.
    from cmdcm.jobs.rollout.config_file import STABLE, ModelConfigFile, placement_of

    file = ModelConfigFile(Path(config.serving.model_config_file), config.export.name)
    return placement_of(file.entry()).labels.get(STABLE)


def serving_model(config: Config, work: Path) -> dict[str, Any] | None:
    """Returns what is known of the serving model, None where there is none that a job made.

    Its keys: `version` (None where it was not exported), `model` (directory), `identity`, `trained`
    (`model` and `identity` before a refresh, else the same), `base` (the model that it started
    from), `features` (digest), `examples` (directory), `promotion`, `as_of`.
    """
    if config.serving.model_config_file and config.retrain.targets:
        stable = stable_version(config)
        if stable is None:
            return None
        if not lineage_path(work, stable).exists():
            logging.warning(
                "version %d serves, and no job of %s made it: the gate has nothing to compare with",
                *(stable, work),
            )
            return None
        return dict(read_json(lineage_path(work, stable), "lineage"))
    path = work / SERVING
    return dict(read_json(path, "serving model")) if path.exists() else None


def taken_back(config: Config, work: Path, identity: str) -> str:
    """Returns who took a model back from the servers, and when; empty if it may be promoted.

    That is what the roll-outs' audit log says: it was stable, and a roll-back made another version
    stable. Somebody who promotes it again ends that.
    """
    if not config.retrain.targets:
        return ""
    said = ""
    for entry in entries(Path(config.serving.model_config_file)):
        before, after = (entry[place]["labels"].get("stable") for place in ("from", "to"))
        if entry["model"] != config.export.name:
            continue
        if entry["action"] == "rollback" and _is(identity, before, work) and before != after:
            why = f": {entry['reason']}" if entry["reason"] else ""
            said = (
                f"version {before} was taken back by {entry['by']} at {entry['time']}{why}. The "
                "job does not promote this model again, only one of other data or settings; by "
                f"hand do cmdcm rollout canary --version {before} and cmdcm rollout promote"
            )
        elif entry["result"] == "done" and _is(identity, after, work):
            said = ""
    return said


def _is(identity: str, version: int | None, work: Path) -> bool:
    path = lineage_path(work, version or 0)
    return path.exists() and read_json(path, "lineage")["identity"] == identity
