"""Scoring the rows of a Parquet or JSON-lines file through a client, in constant memory."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import staged_file
from cmdcm.core.progress import progress_bar
from cmdcm.features.encode import encode_examples
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.rows import check_columns, dense_arrays, feature_table, user_groups
from cmdcm.serving.scoring import CANDIDATES_SIGNATURE, Scores
from cmdcm.serving.servable import DEFAULT_SIGNATURE

SUFFIXES = (".parquet", ".jsonl")
VERSION_COLUMN = "model_version"
_BATCH_ROWS = 8192
_JSON_BLOCK_BYTES = 8 << 20

Tables = Iterator[pa.Table]


@dataclass
class ScoreSummary:
    """What was scored.

    Attributes:
        rows: Rows scored.
        versions: Model versions that answered.
        latencies_ms: Time of each request as the client sees it, in milliseconds.
    """

    rows: int = 0
    versions: set[int] = field(default_factory=set)
    latencies_ms: list[float] = field(default_factory=list)


def score_file(
    client: ScoringClient,
    spec: FeatureSpec,
    source: Path,
    target: Path,
    *,
    signature: str = DEFAULT_SIGNATURE,
    keep: Sequence[str] = (),
) -> ScoreSummary:
    """Scores every row of `source` and writes kept columns, scores and version to `target`.

    Args:
        client: Makes the calls; its largest size is the number of rows of a `serving_default`
            request.
        spec: The model's features; the file has a column for each.
        source: A .parquet or .jsonl file.
        target: The file to write, .parquet or .jsonl; it appears when it is complete.
        signature: `serving_default` sends each row as a tf.train.Example; `score_candidates` sends
            consecutive rows with an equal user side as one request.
        keep: Columns to copy to the output.

    Raises:
        DataError: The file cannot be read, or a column does not fit.
        ServingError: An unknown or missing feature, or a call that failed.
        OutputError: `target` cannot be written.
    """
    for path in (source, target):
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: expected a file with suffix {' or '.join(SUFFIXES)}")
    score = _score_groups if signature == CANDIDATES_SIGNATURE else _score_examples
    summary = ScoreSummary()
    tables = _checked(read_tables(source, spec), source, spec, keep)
    with (
        progress_bar() as bar,
        staged_file(target) as staging,
        contextlib.closing(_Output(staging, target.suffix)) as output,
    ):
        task = bar.add_task("scoring rows", total=None)
        for table, scores in score(client, spec, tables, summary):
            output.write(_scored(table, scores, keep))
            summary.rows += table.num_rows
            summary.versions.add(scores.version)
            bar.advance(task, table.num_rows)
        bar.update(task, total=summary.rows)
    return summary


def read_tables(path: Path, spec: FeatureSpec) -> Tables:
    """Yields the rows of a .parquet or .jsonl file as tables.

    Raises:
        DataError: The file is missing, malformed or empty.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    yield pa.Table.from_batches([batch])
        else:
            yield from _read_json(path, spec)
    except FileNotFoundError as error:
        raise DataError(f"input {path} not found") from error
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _read_json(path: Path, spec: FeatureSpec) -> Tables:
    """Yields tables with the columns of the first line, and those that have any value."""
    with path.open(encoding="utf-8") as lines:
        first = json.loads(next((line for line in lines if line.strip()), "{}"))
    if not isinstance(first, dict):
        raise DataError(f"{path}: a line should be a JSON object. Received: {str(first)[:100]}")
    schema = pa.schema([(feature.name, _json_type(feature)) for feature in spec.features])
    reader = pyarrow.json.open_json(
        path,
        read_options=pyarrow.json.ReadOptions(block_size=_JSON_BLOCK_BYTES),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema),
    )
    columns: list[str] | None = None
    for batch in reader:
        table = pa.Table.from_batches([batch])
        used = [
            name
            for name in table.column_names
            if name in first or table.column(name).null_count < table.num_rows
        ]
        if columns is None:
            columns = used
        late = sorted(set(used) - set(columns))
        if late:
            raise DataError(
                f"{path}: {late} first appear far down in the file; name them in the first line, "
                "as null where there is no value"
            )
        yield table.select(columns)


def _json_type(feature: Feature) -> pa.DataType:
    value = {"int64": pa.int64(), "float32": pa.float64(), "string": pa.string()}[feature.dtype]
    return value if feature.shape == "scalar" else pa.list_(value)


def _checked(tables: Tables, source: Path, spec: FeatureSpec, keep: Sequence[str]) -> Tables:
    first = True
    for table in tables:
        if first:
            check_columns(table.column_names, spec, keep)
            first = False
        if table.num_rows:
            yield table
    if first:
        raise DataError(f"{source} has no rows")


def _score_examples(
    client: ScoringClient, spec: FeatureSpec, tables: Tables, summary: ScoreSummary
) -> Iterator[tuple[pa.Table, Scores]]:
    for table in tables:
        for start in range(0, table.num_rows, client.sizes[-1]):
            part = table.slice(start, client.sizes[-1])
            examples = list(encode_examples(feature_table(part, spec)))
            with _timed(summary):
                scores = client.score_examples(examples)
            yield part, scores


def _score_groups(
    client: ScoringClient, spec: FeatureSpec, tables: Tables, summary: ScoreSummary
) -> Iterator[tuple[pa.Table, Scores]]:
    for table in _whole_groups(tables, spec):
        typed = feature_table(table, spec)
        user = dense_arrays(typed, spec.user_inputs)
        candidates = dense_arrays(typed, spec.candidate_inputs)
        for start, stop in user_groups(user, table.num_rows):
            with _timed(summary):
                scores = client.score_candidates(
                    {name: array[start : start + 1] for name, array in user.items()},
                    {name: array[start:stop] for name, array in candidates.items()},
                )
            yield table.slice(start, stop - start), scores


def _whole_groups(tables: Tables, spec: FeatureSpec) -> Tables:
    """Regroups tables so that none ends within a user: its last group waits for the next table.

    Only a user with more rows than a table is cut, so that memory stays bounded.
    """
    held: pa.Table | None = None
    for table in tables:
        joined = table if held is None else pa.concat_tables([held, table])
        user = dense_arrays(feature_table(joined, spec), spec.user_inputs)
        *_, (last, _) = user_groups(user, joined.num_rows)
        if last == 0 and joined.num_rows >= _BATCH_ROWS:
            last = joined.num_rows
        if last:
            yield joined.slice(0, last)
        held = joined.slice(last)
    if held is not None and held.num_rows:
        yield held


def _scored(table: pa.Table, scores: Scores, keep: Sequence[str]) -> pa.Table:
    columns: dict[str, Any] = {name: table.column(name) for name in keep}
    for name, values in [
        *sorted(scores.outputs.items()),
        (VERSION_COLUMN, np.full(table.num_rows, scores.version, np.int64)),
    ]:
        if name in columns:
            raise ConfigError(f"column to keep {name!r} has the name of a score")
        if values.shape != (table.num_rows,):
            raise DataError(f"output {name!r} has shape {values.shape} for {table.num_rows} rows")
        columns[name] = pa.array(values)
    return pa.table(columns)


@contextlib.contextmanager
def _timed(summary: ScoreSummary) -> Iterator[None]:
    start = time.perf_counter()
    yield
    summary.latencies_ms.append((time.perf_counter() - start) * 1e3)


class _Output:
    """Appends tables to a new file, a Parquet row group or block of lines at a time."""

    def __init__(self, path: Path, suffix: str):
        self._stream = path.open("wb")
        self._parquet = suffix == ".parquet"
        self._writer: pq.ParquetWriter | None = None
        self._tables: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows >= _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        if self._tables:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        self._stream.close()

    def _flush(self) -> None:
        table = pa.concat_tables(self._tables)
        if not self._parquet:
            lines = (json.dumps(row, default=str) + "\n" for row in table.to_pylist())
            self._stream.write("".join(lines).encode("utf-8"))
        else:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._stream, table.schema)
            self._writer.write_table(table)
        self._tables, self._rows = [], 0
