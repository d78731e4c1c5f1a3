"""The Spark runner: the examples of the local runner, made by the executors of a cluster.

    spark.range(slices)      -> read    -> messages by user partition
    one task a partition     -> count   -> messages by bucket of keys
    one task a bucket        -> answer  -> messages by user partition
    one task a partition     -> build   -> shards, written by the executors

Spark moves the messages of the stages (`features/spark_stages.py`), spills them to disk and runs
failed tasks again; the driver adds up what was written, describes and publishes it.
"""

import hashlib
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from upath import UPath

from cmdcm.core import errors
from cmdcm.core.config import Config
from cmdcm.core.errors import CmdcmError, ConfigError
from cmdcm.core.files import MANIFEST, check_free, read_manifest, upload
from cmdcm.core.locations import Location
from cmdcm.core.resumable import resumable_directory
from cmdcm.datasets.log import EventLog, Slice
from cmdcm.features.messages import MESSAGE, from_rows
from cmdcm.features.output import finish
from cmdcm.features.plan import EXAMPLES, Plan
from cmdcm.features.shards import Shards
from cmdcm.features.spark_stages import Stages

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DEFAULTS = {
    "spark.app.name": "cmdcm features",
    # A task is one thread; Polars would start one for each core of the machine in every task.
    "spark.executorEnv.POLARS_MAX_THREADS": "1",
    # Rows are large, and this many are in memory at a time on their way to Python.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
}
_RAISED = re.compile(r"cmdcm\.core\.errors\.(\w+): (.+?)\s*(?:\n\n|\n\tat |\Z)", re.DOTALL)


def spark_session(master: str = "") -> "SparkSession":
    """Returns the session of this process, or starts one.

    Args:
        master: `local[2]`, `spark://HOST:7077`, `yarn`, ...; by default what spark-submit or
            Spark's own configuration says.

    Raises:
        ConfigError: PySpark is not installed.
    """
    try:
        from pyspark import SparkConf
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError(
            'the Spark runner needs PySpark 4.1 or newer: pip install "cmdcm[spark]"'
        ) from error
    # Spark's own default is whatever python3 is on the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    conf = SparkConf()
    for name, value in _DEFAULTS.items():
        conf.setIfMissing(name, value)
    if master:
        conf.setMaster(master)
    return SparkSession.builder.config(conf=conf).getOrCreate()


def build_dataset_on_spark(
    log: EventLog,
    target: Location,
    config: Config,
    spark: "SparkSession",
    *,
    overwrite: bool = False,
    update: bool = False,
) -> dict[str, Any]:
    """Makes the examples of an event log as `pipeline.build_dataset` does, on Spark.

    Args:
        log: The events; every executor can open its files.
        target: Directory to write: a path on a file system that the driver and all executors
            share, or a remote location, which needs no shared file system.
        config: Calendar, labels and features; written beside the examples.
        spark: The session, see `spark_session`.
        overwrite: Replace an existing `target`.
        update: Keep the promotions of an existing `target` that no new or changed file touches.

    Returns:
        The manifest, equal to the local runner's.

    Raises:
        DataError: The log has no click in any pre-promotion window whose labels are known, or it
            cannot be read.
        ConfigError: `update` of a remote `target`.
        OutputError: `target` exists and neither `overwrite` nor `update` is set, or it cannot be
            written.
    """
    if not isinstance(target, Path):
        check_free(target, overwrite=overwrite or update)
        if update:
            raise ConfigError(f"only a local data set can be updated; {target} is remote")
        plan = Plan.of(log, config)
        _build_remote(log, target, plan, spark)
        return read_manifest(target, EXAMPLES)
    plan = Plan.of(log, config, target if update else None)
    if plan.is_done:
        return read_manifest(target, EXAMPLES)
    with resumable_directory(target, plan.key, overwrite=overwrite or update) as workspace:
        stages = _stages(log, plan, workspace.result, workspace.work)
        _prepare(workspace.work)
        pairs = _run(stages, spark)
        shards = plan.reused(workspace.result)
        shards.merge(_written(stages))
        finish(workspace.result, plan, shards, pairs, log)
    return read_manifest(target, EXAMPLES)


def _build_remote(log: EventLog, target: UPath, plan: Plan, spark: "SparkSession") -> None:
    """Has the executors upload their shards; what lies there is a data set with its manifest."""
    if (target / MANIFEST).exists():
        (target / MANIFEST).unlink()
    # A run that failed left its accounts there, and one with the same key can go on with them.
    key = hashlib.sha256(plan.key.encode()).hexdigest()[:16]
    stages = _stages(log, plan, target, target / f".unfinished-{key}")
    pairs = _run(stages, spark)
    shards = _written(stages)
    with TemporaryDirectory() as directory:
        finish(Path(directory), plan, shards, pairs, log)
        upload(Path(directory), target, overwrite=True, present=shards.files)


def _stages(log: EventLog, plan: Plan, result: Location, work: Location) -> Stages:
    rows = sum(entry["rows"] for entry in plan.inputs.values())
    slices = log.slices(-(-rows // plan.partitions))
    return Stages(
        config=plan.config,
        settings=plan.settings,
        log=replace(log, files=(), manifest={}),  # which every task would carry
        slices=[[Slice(_absolute(s.file), s.row_groups) for s in task] for task in slices],
        columns=plan.columns,
        partitions=plan.partitions,
        result=result,
        work=work,
    )


def _absolute(file: Location) -> Location:
    return file.absolute() if isinstance(file, Path) else file


def _prepare(work: Path) -> None:
    shutil.rmtree(work / "attempts", ignore_errors=True)
    for name in ("accounts", "attempts"):
        (work / name).mkdir(exist_ok=True)


def _run(stages: Stages, spark: "SparkSession") -> dict[str, list[int]]:
    """Runs the stages; returns the sums of each promotion."""
    from pyspark.errors import PySparkException

    tasks = len(stages.slices)
    messages = spark.range(0, tasks, numPartitions=tasks).mapInArrow(stages.read, MESSAGE)
    for stage in (stages.count, stages.answer, stages.build):
        messages = messages.repartitionById(stages.partitions, "to").mapInArrow(stage, MESSAGE)
    try:
        results = messages.toArrow()
    except PySparkException as error:
        raised = _RAISED.search(str(error))
        if raised is None:
            raise
        kind: type[CmdcmError] = getattr(errors, raised[1])
        raise kind(raised[2]) from error
    pairs: dict[str, list[int]] = {}
    for message in from_rows(results.to_batches()):
        for promotion, sums in zip(*message.table.to_pydict().values(), strict=True):
            known = pairs.get(promotion, [0] * len(sums))
            pairs[promotion] = [a + b for a, b in zip(known, sums, strict=True)]
    return pairs


def _written(stages: Stages) -> Shards:
    """Returns what the executors wrote, merged in the order of the partitions."""
    shards = Shards()
    if stages.accounts.exists():
        for name in sorted(path.name for path in stages.accounts.iterdir()):
            shards.merge(Shards.load(stages.accounts / name, stages.settings.spec))
    return shards
