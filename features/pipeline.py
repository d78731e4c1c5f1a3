"""The local runner: an event log -> a directory of labelled examples, on all cores, out of core.

    1 exchange   slices of the log -> events by user partition     (runs on disk)
    2 count      user partition    -> its part of all totals       (runs on disk)
    3 sum        totals by key     -> searchable timelines         (mapped files)
    4 build      user partition    -> examples -> shards by local day

Each stage is a list of tasks whose results are files, so that a run that was killed goes on at the
task where it stopped. Memory holds a partition a worker, whatever the size of the log. The pages of
the timelines belong to the page cache: the system takes them back when it needs them.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import check_free, read_manifest, upload
from cmdcm.core.locations import Location
from cmdcm.core.progress import progress_bar
from cmdcm.core.resumable import Workspace, resumable_directory
from cmdcm.datasets.events import EVENT_KINDS, KIND_ENUM
from cmdcm.datasets.log import EventLog, Slice
from cmdcm.features.cleaning import drop_bots
from cmdcm.features.examples import build_examples
from cmdcm.features.exchange import read_partition, write_run
from cmdcm.features.hashing import hash_ids, partition_of
from cmdcm.features.history import History, partition_totals, total_values
from cmdcm.features.output import finish
from cmdcm.features.plan import EXAMPLES, Plan
from cmdcm.features.shards import Shards, shard_name, write_shards
from cmdcm.features.timeline import write_timeline

_MOST_BUCKETS = 64
# Measured: what the libraries hold, and what building a partition takes at its most.
_BASE_GIB = 0.6
_BYTES_PER_EVENT = 1_000
_KINDS = pl.Series("kind", EVENT_KINDS, KIND_ENUM)


def build_dataset(
    log: EventLog,
    target: Location,
    config: Config,
    *,
    overwrite: bool = False,
    update: bool = False,
    as_observed_from: int | None = None,
) -> dict[str, Any]:
    """Makes the examples of an event log.

    Args:
        log: The events.
        target: Directory to write, local or remote.
        config: Calendar, labels and features; written beside the examples.
        overwrite: Replace an existing `target`.
        update: Keep the promotions of an existing `target` that no new or changed file of the log
            touches. The result is that of a run from the start with the same `partitions`.
        as_observed_from: Number of a promotion of the calendar. Its clicks and those of later ones
            alone make examples, whether their labels are known or not, with the labels as the
            events before `labels.observed_until` show them: for streams (docs/streaming.md). Only
            for a local `target` without `update`.

    Returns:
        The manifest.

    Raises:
        DataError: The log has no click in any pre-promotion window whose labels are known.
        ConfigError: The settings allow too little memory.
        OutputError: `target` exists and neither `overwrite` nor `update` is set.
        ValueError: `as_observed_from` with a remote `target` or with `update`.
    """
    if as_observed_from is not None and (update or not isinstance(target, Path)):
        raise ValueError("`as_observed_from` goes with a local `target` and without `update`")
    if not isinstance(target, Path):
        check_free(target, overwrite=overwrite or update)
        if update:
            raise ConfigError(f"only a local data set can be updated; {target} is remote")
        digest = f"{int(hash_ids(pl.Series([str(target)]))[0]):016x}"
        local = Path(tempfile.gettempdir(), f"cmdcm-{digest}")
        manifest = build_dataset(log, local, config, overwrite=True)
        upload(local, target, overwrite=overwrite)
        shutil.rmtree(local)
        return manifest
    plan = Plan.of(log, config, target if update else None, as_observed_from)
    if plan.is_done:
        return read_manifest(target, EXAMPLES)
    with resumable_directory(target, plan.key, overwrite=overwrite or update) as workspace:
        run = _Run(log, plan, workspace)
        run.exchange()
        run.count()
        pairs = run.sum()
        finish(workspace.result, plan, run.build(), pairs, log)
    return read_manifest(target, EXAMPLES)


@dataclass(frozen=True)
class _Task:
    """Something to do once, and how many events it handles."""

    run: Callable[[], None]
    events: int
    done: bool


class _Run:
    """One run of the four stages."""

    def __init__(self, log: EventLog, plan: Plan, workspace: Workspace) -> None:
        self.log, self.plan = log, plan
        self.directory, self.work = workspace.result, workspace.work
        self.rows = sum(entry["rows"] for entry in plan.inputs.values())
        self.partitions = plan.partitions
        self.buckets = min(self.partitions, _MOST_BUCKETS)
        self.workers = worker_count(plan.config, self.rows // self.partitions + 1)
        self.history: History | None = None

    def exchange(self) -> None:
        """Stage 1: brings all events of a user together."""
        folder = self._folder("events")
        slices = self.log.slices(self.plan.rows_per_run)
        tasks = [
            self._task(
                folder / f"{n:05d}.arrow",
                self.rows // len(slices),
                partial(self._exchange, slices=s),
            )
            for n, s in enumerate(slices)
        ]
        self.event_runs = [folder / f"{n:05d}.arrow" for n in range(len(tasks))]
        self._execute("partitioning by user", tasks)

    def _exchange(self, path: Path, slices: Sequence[Slice]) -> None:
        columns = self.plan.columns
        tables = (pack_events(table) for s in slices for table in self.log.read(s, columns))
        write_run(path, tables, self.partitions, self._user_partition, self.plan.rows_per_run)

    def _user_partition(self, table: pa.Table) -> npt.NDArray[np.int64]:
        return user_partition(table["user_id"], self.partitions)

    def count(self) -> None:
        """Stage 2: sums what each partition adds to the totals over all users."""
        folder = self._folder("totals")
        self.total_runs = [folder / f"{n:05d}" for n in range(self.partitions)]
        rows = self.rows // self.partitions
        self._execute(
            "counting items",
            [
                self._task(path, rows, partial(self._count, number=n))
                for n, path in enumerate(self.total_runs)
            ],
        )

    def _count(self, path: Path, number: int) -> None:
        plan = self.plan
        totals = partition_totals(
            self._events(number),
            plan.settings.calendar,
            plan.config.features.count_kinds,
            plan.config.labels.intent,
        )
        staging = path.with_suffix(".staging")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for name, table in totals.items():
            write_run(staging / name, [table.to_arrow()], self.buckets, self._bucket, len(table))
        staging.rename(path)

    def _bucket(self, table: pa.Table) -> npt.NDArray[np.int64]:
        return partition_of(table["key"].to_numpy(), self.buckets)

    def sum(self) -> dict[str, list[int]]:
        """Stage 3: makes the totals searchable; returns the sums of each promotion."""
        folder = self._folder("history")
        kinds = self.plan.config.features.count_kinds
        names = sorted(path.name for path in self.total_runs[0].iterdir())
        self._execute(
            "summing counters",
            [
                self._task(
                    folder / name,
                    self.rows // len(names),
                    lambda path: self._sum(path, total_values(path.name, kinds)),
                )
                for name in names
            ],
        )
        self.history = History.open(folder, kinds)
        return self.history.promotion_sums()

    def _sum(self, path: Path, values: Sequence[str]) -> None:
        def parts() -> Iterator[pl.DataFrame]:
            for bucket in range(self.buckets):
                runs = [run / path.name for run in self.total_runs]
                yield pl.DataFrame(read_partition(runs, bucket, self.buckets))

        staging = self.work / f"{path.name}.staging"
        shutil.rmtree(staging, ignore_errors=True)
        write_timeline(staging, parts(), values)
        staging.rename(path)

    def build(self) -> Shards:
        """Stage 4: makes and writes the examples of each partition."""
        folder = self._folder("accounts")
        paths = [folder / f"{n:05d}.zip" for n in range(self.partitions)]
        rows, spec = self.rows // self.partitions, self.plan.settings.spec
        for path in paths:
            if path.exists() and not Shards.load(path, spec).intact(self.directory):
                path.unlink()
        self._execute(
            "building examples",
            [
                self._task(path, rows, partial(self._build, number=n))
                for n, path in enumerate(paths)
            ],
        )
        shards = self.plan.reused(self.directory)
        for path in paths:
            shards.merge(Shards.load(path, spec))
        return shards

    def _build(self, path: Path, number: int) -> None:
        settings, gzip = self.plan.settings, self.plan.config.features.gzip
        tables = build_examples(self._events(number), self.history, settings)
        name = shard_name(number, gzip)
        shards = write_shards(tables, self.directory, name, settings.spec, settings.calendar, gzip)
        shards.save(path)

    def _events(self, number: int) -> pl.DataFrame:
        packed = read_partition(self.event_runs, number, self.partitions)
        return drop_bots(unpack_events(packed), self.plan.config.features.max_events_per_hour)

    def _folder(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        return folder

    @staticmethod
    def _task(path: Path, events: int, run: Callable[[Path], None]) -> _Task:
        return _Task(partial(run, path), events, path.exists())

    def _execute(self, title: str, tasks: Sequence[_Task]) -> None:
        """Runs the tasks that are not done; the first error ends the others before they start."""
        total = sum(task.events for task in tasks)
        with progress_bar() as bar, ThreadPoolExecutor(self.workers) as pool:
            shown = bar.add_task(title, total=total)
            bar.advance(shown, sum(task.events for task in tasks if task.done))

            def run(task: _Task) -> None:
                task.run()
                bar.advance(shown, task.events)

            futures = [pool.submit(run, task) for task in tasks if not task.done]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            for future in futures:
                if not future.cancelled():
                    future.result()


def pack_events(table: pa.Table) -> pa.Table:
    """Returns events as the exchange keeps them: `kind` as its position in `EVENT_KINDS`."""
    place = table.schema.get_field_index("kind")
    indices = table["kind"].combine_chunks().indices
    return table.set_column(place, "kind", indices)


def unpack_events(table: pa.Table) -> pl.DataFrame:
    """Returns packed events as the feature engine takes them: `kind` as `KIND_ENUM`."""
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.with_columns(_KINDS.gather(frame["kind"]))


def user_partition(users: pa.ChunkedArray, partitions: int) -> npt.NDArray[np.int64]:
    """Returns [rows]: the partition of each user, the same for every runner."""
    return partition_of(hash_ids(users.combine_chunks()), partitions)


def worker_count(config: Config, rows: int) -> int:
    """Returns how many partitions of `rows` events may be built at a time.

    Raises:
        ConfigError: Memory does not suffice for one.
    """
    features = config.features
    each = rows * _BYTES_PER_EVENT / 2**30
    room = int((features.memory_gib - _BASE_GIB) / each)
    if room < 1:
        raise ConfigError(
            f"features.memory_gib = {features.memory_gib:g} does not suffice for a partition of "
            f"{rows:,} events, which takes {each + _BASE_GIB:.1f} GiB; allow more, or lower "
            "features.rows_per_partition"
        )
    return min(features.workers or os.cpu_count() or 1, room)
