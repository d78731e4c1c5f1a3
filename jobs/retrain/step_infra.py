"""Step `infra`: the published version answers as a server would let it, before clients see it.

The export was compared with the model in a fresh process before it was published. Here the bytes
that arrived are checked, and an embedded server of the job's own loads this version and answers its
warm-up requests over gRPC.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from cmdcm.core.config import ServingConfig
from cmdcm.core.errors import CmdcmError, ExportError
from cmdcm.core.locations import location
from cmdcm.export.versions import check_version, withdraw
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.jobs.retrain.served import lineage_path
from cmdcm.jobs.retrain.steps import DONE, Context
from cmdcm.jobs.rollout.config_file import Placement, place, write_text_proto
from cmdcm.jobs.rollout.server import Server
from cmdcm.jobs.rollout.shift import read_requests
from cmdcm.serving.server import EmbeddedServer


def run(context: Context, output: Path) -> dict[str, Any]:
    """Serves the version on a port of its own and scores its warm-up requests."""
    version, name = int(context.done["export"].summary["version"]), context.config.export.name
    base = location(context.config.retrain.output)
    digest = context.done["export"].digest
    if not isinstance(base, Path):
        return {"digest": digest, "skipped": f"{base} is remote: its servers load it first"}
    try:
        check_version(base / str(version), require_manifest=True)
        answered, rows = _answers(context, base, version, name)
    except CmdcmError:
        # Servers that load the newest version should not, and the next run publishes another. What
        # is registered has answered once and may serve: it stays.
        (context.done["export"].path / DONE).unlink(missing_ok=True)
        registered = lineage_path(context.work, version).exists()
        if (base / str(version)).exists() and not registered:
            withdraw(base, version)
        raise
    return {"digest": digest, "requests": answered, "scores": rows}


def _answers(context: Context, base: Path, version: int, name: str) -> tuple[int, int]:
    """Returns how many warm-up requests and rows the version answered."""
    config = ModelServerConfig()
    entry = config.model_config_list.config.add(
        name=name, base_path=str(base.resolve()), model_platform="tensorflow"
    )
    place(entry, Placement(frozenset({version}), {}))
    settings = context.config.rollout
    # Whether it answers, not how fast: the job's machine may be busy.
    deadline_ms = round(1000 * settings.load_timeout_seconds)
    answered = rows = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "models.config"
        write_text_proto(file, config)
        serving = ServingConfig(port=0, rest_port=-1, model_config_file=str(file))
        with (
            EmbeddedServer(config=serving) as embedded,
            Server(embedded.target, name, deadline_ms) as server,
        ):
            warmup = [base / str(version) / WARMUP_FILE]
            for request in read_requests(warmup, settings.max_requests):
                scores = server.scores(request, version, settings.output)
                if not np.all(np.isfinite(scores)):
                    raise ExportError(f"version {version} answers scores that are not finite")
                answered, rows = answered + 1, rows + len(scores)
    return answered, rows
