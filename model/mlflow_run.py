"""MLflow: a training as a run with its configuration, data, code, metrics and files.

All calls of the store are made by one thread in the background, so that a slow server costs the
training nothing. A store that fails is left out from then on, with one warning.
"""

import json
import math
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import PreemptedError
from cmdcm.core.files import staged_file, write_json
from cmdcm.core.mlflow_store import MlflowStore, mlflow_installed, open_store
from cmdcm.core.redaction import redact
from cmdcm.core.revision import code_revision
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.observers import Observer
from cmdcm.model.trained import MODEL

RUN_FILE = "mlflow.json"
"""File of a training's directory that names its run."""

_MAX_WAITING = 10_000
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_PARAM_LENGTH = 6000


@dataclass(frozen=True)
class _Started:
    pass


@dataclass(frozen=True)
class _Values:
    axis: str
    step: int
    time_ms: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def trackers(data: ExampleSet, output: Path, config: Config) -> list[Observer]:
    """Returns the observers that the configuration asks for beside TensorBoard."""
    if not config.tracking.mlflow:
        return []
    if not mlflow_installed():
        logging.info("MLflow is not installed (cmdcm[mlflow]): the run is in TensorBoard alone")
        return []
    return [MlflowRun(data, output, config)]


def tracked_run(output: Path, uri: str) -> str | None:
    """Returns the id of a training's run in a store; None if it has none there."""
    try:
        written = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(written["run"]) if written.get("uri") == uri else None


def data_checksum(data: ExampleSet) -> str:
    """Returns one SHA-256 of all files of the examples, from those in their manifest."""
    files = {name: entry["sha256"] for name, entry in data.manifest["files"].items()}
    return sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


class MlflowRun(Observer):
    """Records a training in MLflow; a training that goes on goes on with its run, too.

    Metrics of steps have the step since the start as their axis, those of epochs the epoch.

    Args:
        data: The examples.
        output: The training's directory.
        config: Its configuration; `tracking` says where and how much.
    """

    def __init__(self, data: ExampleSet, output: Path, config: Config):
        self._data = data
        self._output = Path(output)
        self._config = config
        self._waiting: queue.SimpleQueue[_Started | _Values | _Ended] = queue.SimpleQueue()
        self._failed = False
        self._full = False
        self._run = ""
        self._store: MlflowStore | None = None
        # By axis, up to where the values of an interrupted part are in the store already.
        self._known = {"step": 0, "epoch": -1}
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def started(self, taken: int) -> None:
        """Starts the run, or goes on with it, in the background."""
        self._waiting.put(_Started())
        self._thread.start()

    def stepped(self, taken: int, values: Mapping[str, float]) -> None:
        """Records the values of steps."""
        self._add("step", taken, values)

    def finished_epoch(self, epoch: int, record: Mapping[str, float]) -> None:
        """Records an epoch; its speed by names of its own, as steps have theirs."""
        names = {name: f"epoch/{name}" if "/" in name else name for name in record}
        self._add("epoch", epoch, {names[name]: value for name, value in record.items()})

    def ended(self, error: BaseException | None) -> None:
        """Uploads what was made; waits for it no longer than `tracking.flush_seconds`."""
        self._waiting.put(_Ended(error))
        self._thread.join(self._config.tracking.flush_seconds)
        if self._thread.is_alive():
            self._warn(f"is not done after {self._config.tracking.flush_seconds:g} s")

    def _add(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        if self._failed or self._full:
            return
        if self._waiting.qsize() >= _MAX_WAITING:
            self._full = True
            self._warn(f"is too slow: {_MAX_WAITING} records wait for it")
            return
        finite = {name: float(v) for name, v in values.items() if math.isfinite(v)}
        self._waiting.put(_Values(axis, step, int(time.time() * 1000), finite))

    def _warn(self, what: str) -> None:
        uri = redact(self._config.tracking.uri)
        logging.warning("MLflow at %s %s; it records nothing more of this run", uri, what)

    def _work(self) -> None:
        try:
            for items in self._batches():
                self._record([item for item in items if isinstance(item, _Values)])
                for item in items:
                    if isinstance(item, _Started):
                        self._start()
                    elif isinstance(item, _Ended):
                        self._end(item.error)
        except Exception as error:
            self._failed = True
            self._warn(f"failed ({redact(f'{type(error).__name__}: {error}')[:500]})")

    def _batches(self) -> Iterator[list[_Started | _Values | _Ended]]:
        """Yields what waits, all at once, until the end."""
        while True:
            items = [self._waiting.get()]
            while not isinstance(items[-1], _Started | _Ended) and not self._waiting.empty():
                items.append(self._waiting.get())
            yield items
            if isinstance(items[-1], _Ended):
                return

    def _start(self) -> None:
        settings = self._config.tracking
        self._store = open_store(settings.uri)
        self._run = tracked_run(self._output, settings.uri) or ""
        if self._run and self._resume():
            return
        client = self._store.client
        examples = data_checksum(self._data)
        run = client.create_run(
            self._store.experiment(settings.experiment),
            run_name=self._output.name,
            tags={
                "mlflow.source.type": "JOB",
                "mlflow.source.git.commit": code_revision(),
                "code_revision": code_revision(),
                "model": self._config.model.name,
                "examples": str(self._data.directory),
                "examples_sha256": examples,
            },
        )
        self._run = run.info.run_id
        with staged_file(self._output / RUN_FILE) as staging:
            write_json(staging, {"uri": settings.uri, "run": self._run})
        self._describe(examples)

    def _resume(self) -> bool:
        """Goes on with the run of an interrupted training, if the store still has it."""
        from mlflow.exceptions import MlflowException

        client = self._client
        try:
            metrics = client.get_run(self._run).data.metrics
        except MlflowException:
            return False
        for axis, metric in (("step", "step/loss"), ("epoch", "epoch")):
            if metric in metrics:
                history = client.get_metric_history(self._run, metric)
                self._known[axis] = max(point.step for point in history)
        client.update_run(self._run, status="RUNNING")
        return True

    def _describe(self, examples: str) -> None:
        """Records configuration and data."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        client, dump = self._client, redact(self._config.model_dump(mode="json"))
        params = [Param(name, text[:_PARAM_LENGTH]) for name, text in flat(dump)]
        for at in range(0, len(params), _PARAMS_A_CALL):
            client.log_batch(self._run, params=params[at : at + _PARAMS_A_CALL])
        client.log_dict(self._run, dump, "config.json")
        client.log_dict(self._run, redact(self._data.manifest), "examples/manifest.json")
        split = {part: getattr(self._data.split, part) for part in ("train", "validation", "test")}
        client.log_dict(self._run, {p: list(days) for p, days in split.items()}, "split.json")
        place = redact(str(self._data.directory))
        inputs = [
            DatasetInput(
                # MLflow holds 36 characters of a digest; the tag has them all.
                Dataset(
                    name=f"examples-{part}",
                    digest=examples[:36],
                    source_type="local",
                    source=json.dumps({"uri": place}),
                    profile=json.dumps(
                        {"rows": self._data.total(part), "first": days[0], "last": days[-1]}
                    ),
                ),
                [InputTag("mlflow.data.context", part)],
            )
            for part, days in split.items()
            if days
        ]
        client.log_inputs(self._run, inputs)

    def _record(self, items: list[_Values]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, item.time_ms, item.step)
            for item in items
            if item.step > self._known[item.axis]
            for name, value in item.values.items()
        ]
        for at in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(self._run, metrics=metrics[at : at + _METRICS_A_CALL])

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self._upload(self._output / MODEL)
            status = "FINISHED"
        else:
            stopped = isinstance(error, PreemptedError | KeyboardInterrupt)
            status = "KILLED" if stopped else "FAILED"
            text = redact(f"{type(error).__name__}: {error}")
            self._client.set_tag(self._run, "error", text[:_PARAM_LENGTH])
        self._client.set_terminated(self._run, status)

    def _upload(self, model: Path) -> None:
        """Uploads the model's files; those that are too large stay where they are."""
        client, limit = self._client, self._config.tracking.max_artifact_mb << 20
        client.set_tag(self._run, "model_directory", redact(str(model.absolute())))
        left = []
        for path in sorted(p for p in model.rglob("*") if p.is_file()):
            name = path.relative_to(model)
            if path.stat().st_size > limit:
                left.append(name.as_posix())
                continue
            folder = (Path(MODEL) / name.parent).as_posix()
            if name.suffix == ".json":
                with tempfile.TemporaryDirectory() as scratch:
                    copy = Path(scratch) / name.name
                    copy.write_text(redact(path.read_text(encoding="utf-8")), encoding="utf-8")
                    client.log_artifact(self._run, str(copy), folder)
            else:
                client.log_artifact(self._run, str(path), folder)
        if left:
            client.set_tag(self._run, "not_uploaded", ", ".join(left)[:_PARAM_LENGTH])

    @property
    def _client(self) -> Any:
        if self._store is None:
            raise RuntimeError("the store is not open")
        return self._store.client


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of nested mappings with their dotted names, as text.

    Example:
        >>> list(flat({"seed": 1, "model": {"name": "cmdcm", "units": [8]}}))
        [('seed', '1'), ('model.name', 'cmdcm'), ('model.units', '[8]')]
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
