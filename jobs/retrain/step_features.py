"""Step `features`: the snapshot -> examples of all promotions whose labels are known."""

from pathlib import Path
from typing import Any

from cmdcm.core.files import MANIFEST, read_manifest
from cmdcm.datasets.log import open_event_log
from cmdcm.features.pipeline import build_dataset
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.split import split_days
from cmdcm.jobs.retrain.step_snapshot import EVENTS
from cmdcm.jobs.retrain.steps import Context, digest_of


def run(context: Context, output: Path) -> dict[str, Any]:
    """Writes `examples/` into the step's directory; a run that was killed goes on.

    The digest is that of the shards and their spec: that more days have passed without a new known
    label makes no other examples.
    """
    target = output / EXAMPLES
    if not (target / MANIFEST).exists():
        log = open_event_log(context.done["snapshot"].path / EVENTS)
        build_dataset(log, target, context.config, overwrite=True)
    manifest = read_manifest(target, EXAMPLES)
    split = split_days(manifest, context.config.split)  # refuses too few promotions now, not later
    files = manifest["files"]
    rows = {n: f["sha256"] for n, f in files.items() if "/" in n or n in ("spec.json",)}
    return {
        "digest": digest_of(rows),
        "rows": manifest["rows"],
        "promotions": {n: p["rows"] for n, p in manifest["promotions"].items()},
        "split": {
            part: [getattr(split, part)[0], getattr(split, part)[-1]]
            for part in ("train", "validation", "test")
        },
    }
