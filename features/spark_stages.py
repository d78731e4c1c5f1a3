"""What the executors of a Spark cluster run: four stages, each from messages to messages.

    read     slices of the log                -> events, to the partition of their user
    count    events of a user partition       -> its part of all totals, and its questions, to the
                                                 bucket of the key; its events, to itself
    answer   totals and questions of a bucket -> answers, to the partitions that asked
    build    events and answers               -> examples -> shards by local day

There are as many buckets as partitions, and task n has number n of both. The user partition is the
salt of the join with the totals over all users: it adds up its own share of an item in an hour, and
asks for that hour once. So the most popular item costs its bucket at most hours x partitions rows,
however often it was clicked.

Nothing here imports PySpark.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa

from cmdcm.core.config import Config
from cmdcm.core.files import output_errors, put_file
from cmdcm.core.locations import Location
from cmdcm.datasets.calendar import HOUR_MS
from cmdcm.datasets.log import EventLog, Slice
from cmdcm.features.cleaning import drop_bots
from cmdcm.features.examples import EngineSettings, anchor_clicks, build_examples
from cmdcm.features.exchange import split
from cmdcm.features.hashing import hash_ids, partition_of
from cmdcm.features.history import (
    History,
    locate,
    partition_totals,
    promotions_before,
    total_values,
)
from cmdcm.features.messages import Message, from_rows, joined, to_rows
from cmdcm.features.pipeline import pack_events, unpack_events, user_partition
from cmdcm.features.shards import Shards, shard_name, write_shards
from cmdcm.features.windows import Int64s

EVENTS, PAIRS = "events", "pairs"
_QUESTIONS, _ANSWERS = "_questions", "_answers"
_QUESTION = ["key", "hour", "promotion"]

Rows = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Stages:
    """The stages of one run.

    Attributes:
        config: The configuration.
        settings: The engine's settings.
        log: The events.
        slices: What each task of the first stage reads.
        columns: Columns of the log to read.
        partitions: User partitions, and buckets of keys.
        result: Where the shards go. A path lies on a file system that all executors share.
        work: What only the driver needs, likewise.
    """

    config: Config
    settings: EngineSettings
    log: EventLog
    slices: Sequence[Sequence[Slice]]
    columns: tuple[str, ...]
    partitions: int
    result: Location
    work: Location

    @property
    def accounts(self) -> Location:
        """Folder of the accounts of the partitions that are written."""
        return self.work / "accounts"

    @property
    def attempts(self) -> Path | None:
        """Folder of what tasks are writing; None for the executor's own temporary directory."""
        return self.work / "attempts" if isinstance(self.work, Path) else None

    def read(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Stage 1; the rows' column `id` numbers the slices to read."""
        return to_rows(self._read(n for batch in rows for n in batch["id"].to_pylist()))

    def count(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Stage 2."""
        return to_rows(self._count(list(from_rows(rows))))

    def answer(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Stage 3."""
        return to_rows(self._answer(from_rows(rows)))

    def build(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        """Stage 4; leaves the shards and their account, and passes on the messages `PAIRS`."""
        return to_rows(self._build(list(from_rows(rows))))

    def _read(self, numbers: Iterable[int]) -> Iterator[Message]:
        for number in numbers:
            slices = self.slices[number]
            tables = [t for s in slices for t in self.log.read(s, self.columns)]
            if tables:
                table = pa.concat_tables(map(pack_events, tables))
                of_row = user_partition(table["user_id"], self.partitions)
                yield from self._send(number, EVENTS, table, of_row)

    def _count(self, received: Sequence[Message]) -> Iterator[Message]:
        if not received:
            return
        number = _addressee(received)
        packed, _ = joined(received)
        events = drop_bots(unpack_events(packed), self.config.features.max_events_per_hour)
        totals = partition_totals(
            events,
            self.settings.calendar,
            self.config.features.count_kinds,
            self.config.labels.intent,
        )
        for name, table in totals.items():
            yield from self._send_by_key(number, name, table)
        clicks = events.filter(anchor_clicks(events, self.settings))
        if clicks.is_empty():
            return
        for entity in self._entities:
            questions = self._questions(clicks, entity).select(_QUESTION).unique()
            yield from self._send_by_key(number, entity + _QUESTIONS, questions)
        # Users without examples have served their purpose.
        kept = events.join(clicks.select("user_id").unique(), on="user_id", how="semi")
        kept = kept.with_columns(pl.col("kind").to_physical())
        yield Message.of(number, number, EVENTS, kept.to_arrow())

    def _answer(self, received: Iterable[Message]) -> Iterator[Message]:
        by_name: dict[str, list[Message]] = {}
        number = -1
        for message in received:
            number = message.to
            if message.name == EVENTS:
                yield message
            else:
                by_name.setdefault(message.name, []).append(message)
        if number < 0:
            return
        history = self._history(by_name)
        for entity in self._entities:
            questions = by_name.get(entity + _QUESTIONS, [])
            if questions:
                table, senders = joined(questions)
                answers = self._answers(history, entity, table)
                yield from self._send(number, entity + _ANSWERS, answers, senders)
        sums = history.promotion_sums()
        if sums:
            pairs = pa.table({"promotion": list(sums), "sums": list(sums.values())})
            yield Message.of(number, number, PAIRS, pairs)

    def _build(self, received: Sequence[Message]) -> Iterator[Message]:
        by_name: dict[str, list[Message]] = {}
        for message in received:
            by_name.setdefault(message.name, []).append(message)
        yield from by_name.get(PAIRS, [])
        for message in by_name.get(EVENTS, []):
            account = self.accounts / f"{message.to:05d}.zip"
            if account.exists():
                if Shards.load(account, self.settings.spec).intact(self.result):
                    continue
                account.unlink()
            events = unpack_events(message.table)
            columns = [
                column
                for entity in self._entities
                for column in self._shared(events, entity, by_name.get(entity + _ANSWERS, []))
            ]
            self._write(message.to, events.with_columns(columns), account)

    @cached_property
    def _entities(self) -> tuple[str, ...]:
        return ("item", "category") if "category_id" in self.columns else ("item",)

    def _send(self, sender: int, name: str, table: pa.Table, to: Int64s) -> Iterator[Message]:
        for number, part in enumerate(split(table, to, self.partitions)):
            if part.num_rows:
                yield Message.of(number, sender, name, part)

    def _send_by_key(self, sender: int, name: str, table: pl.DataFrame) -> Iterator[Message]:
        to = partition_of(table["key"].to_numpy(), self.partitions)
        return self._send(sender, name, table.to_arrow(), to)

    def _questions(self, clicks: pl.DataFrame, entity: str) -> pl.DataFrame:
        """Returns what to look up for clicks: `_QUESTION`, and `row`, the click's position."""
        known = clicks.with_row_index("row").filter(pl.col(f"{entity}_id").is_not_null())
        times = known["timestamp"].dt.epoch("ms").to_numpy()
        promotion, _ = locate(times, self.settings.calendar)
        key = hash_ids(known[f"{entity}_id"])
        return pl.DataFrame(
            {"row": known["row"], "key": key, "hour": times // HOUR_MS, "promotion": promotion}
        )

    def _history(self, totals: Mapping[str, Sequence[Message]]) -> History:
        kinds = self.config.features.count_kinds
        whole = {}
        for entity in self._entities:
            for name in (f"{entity}_hours", f"{entity}_promotions"):
                values = dict.fromkeys(total_values(name, kinds), pl.Int32)
                none = pl.DataFrame(schema={"key": pl.UInt64, "time": pl.Int32, **values})
                whole[name] = pl.DataFrame(joined(totals[name])[0]) if name in totals else none
        return History.of([whole], kinds)

    def _answers(self, history: History, entity: str, questions: pa.Table) -> pa.Table:
        key, hour, promotion = (questions[name].to_numpy() for name in _QUESTION)
        hours, promotions = history.hours[entity], history.promotions[entity]
        windows = self.config.features.windows_hours
        opened = self.settings.calendar.bounds()[promotion, 0]
        counts = history.counts(entity, hours.find(key), hour, windows, opened)
        earlier = promotions_before(promotions, promotions.find(key), promotion)
        found = pl.DataFrame({f"{entity}_counts": counts, f"{entity}_promotions": earlier})
        return pl.DataFrame(questions).hstack(found).to_arrow()

    def _shared(
        self, events: pl.DataFrame, entity: str, received: Sequence[Message]
    ) -> Iterator[pl.Series]:
        """Yields the columns of an entity in `SHARED`; 0 for an unknown id, and but for clicks."""
        names = (f"{entity}_counts", f"{entity}_promotions")
        values = {
            n: np.zeros((len(events), self.settings.spec[n].length or 0), np.int32) for n in names
        }
        clicks = np.flatnonzero(anchor_clicks(events, self.settings).to_numpy())
        questions = self._questions(events[clicks], entity)
        if len(questions):
            answers = pl.DataFrame(joined(received)[0])
            numbered = answers.select(_QUESTION).with_row_index("answer")
            asked = questions.join(numbered, on=_QUESTION, how="left")
            rows, answer = clicks[asked["row"].to_numpy()], asked["answer"].to_numpy()
            for name in names:
                values[name][rows] = answers[name].to_numpy()[answer]
        for name in names:
            yield pl.Series(name, values[name])

    def _write(self, number: int, events: pl.DataFrame, account: Location) -> None:
        """Writes a partition where no other attempt at it writes, then puts it in its place."""
        settings, gzip = self.settings, self.config.features.gzip
        with output_errors(self.result), TemporaryDirectory(dir=self.attempts) as attempt:
            shards = write_shards(
                build_examples(events, None, settings),
                Path(attempt),
                shard_name(number, gzip),
                settings.spec,
                settings.calendar,
                gzip,
            )
            shards.save(Path(attempt, account.name))
            for name in shards.files:
                put_file(Path(attempt, name), self.result / name)
            put_file(Path(attempt, account.name), account)


def _addressee(received: Sequence[Message]) -> int:
    (number,) = {message.to for message in received}
    return number
