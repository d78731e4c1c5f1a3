"""Readers of public raw logs and of one's own Parquet: rows in, the event contract out.

A format is one file here that says what its columns mean; `FORMATS` lists them all.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from cmdcm.core.config import CalendarConfig, Config, EventsConfig
from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import built_in
from cmdcm.datasets.log import write_event_log
from cmdcm.datasets.readers import rees46, retailrocket, taobao, tianchi, tmall
from cmdcm.datasets.readers.delimited import DelimitedFormat, read_delimited
from cmdcm.datasets.readers.lines import BLOCK_BYTES
from cmdcm.datasets.readers.parquet import read_parquet
from cmdcm.datasets.readers.report import ImportReport, Rejected

__all__ = ["FORMATS", "ImportReport", "Rejected", "import_log", "log_timezone", "read"]

PARQUET = "parquet"
_DELIMITED: dict[str, DelimitedFormat] = {
    "taobao": taobao.FORMAT,
    "tianchi": tianchi.FORMAT,
    "tmall": tmall.FORMAT,
    "rees46": rees46.FORMAT,
    "retailrocket": retailrocket.FORMAT,
}
FORMATS = (*_DELIMITED, PARQUET)
"""Names of the formats; each public one is the name of its built-in calendar too."""


def read(
    format: str,
    path: Path,
    config: EventsConfig,
    timezone: str,
    report: ImportReport | None = None,
    *,
    on_bytes: Callable[[int], None] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[pa.Table]:
    """Yields a raw log's events as tables that keep the event contract, in the log's order.

    Streams: one block of lines, or one batch of Parquet rows, is held at a time. Malformed rows
    are left out and counted; whether there are too many of them is known, and raised, at the end.

    Args:
        format: One of `FORMATS`.
        path: The raw file, plain or gzip; for `parquet` a file or a directory.
        config: How strict to be, the time range to keep, and the mappings for `parquet`.
        timezone: IANA zone of local times and of `config.start` and `config.end`
            (`log_timezone` gives it).
        report: Is filled on the way.
        on_bytes: Called with the bytes of the input that were read so far.
        block_bytes: Size of a block of lines; no result depends on it.

    Raises:
        ConfigError: An unknown format, or settings that contradict each other.
        DataError: An input that is missing, damaged or of another format; too many malformed
            rows; no event at all; times out of order where the settings require order.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    path = Path(path)
    report = ImportReport() if report is None else report
    report.format, report.source, report.timezone = format, str(path), timezone
    if format == PARQUET:
        yield from read_parquet(path, config, report, on_bytes=on_bytes)
    else:
        yield from read_delimited(
            _DELIMITED[format], path, config, report, on_bytes=on_bytes, block_bytes=block_bytes
        )
    report.finish(config.max_rejected_share)


def import_log(
    format: str,
    path: Path,
    target: Path,
    config: Config,
    *,
    overwrite: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> ImportReport:
    """Reads a raw log and publishes it as an event log; the manifest carries the report.

    Args:
        format: One of `FORMATS`.
        path: The raw log.
        target: The directory to publish.
        config: `config.events` and, for `parquet`, `config.calendar` are used.
        overwrite: Replace an existing log.
        on_bytes: Called with the bytes of the input that were read so far.

    Raises:
        CmdcmError: As `read` and `cmdcm.datasets.log.write_event_log` raise it.
    """
    report = ImportReport()
    description = {"config": config.events.model_dump(mode="json")}

    def tables() -> Iterator[pa.Table]:
        timezone = log_timezone(format, config.calendar)
        yield from read(format, path, config.events, timezone, report, on_bytes=on_bytes)
        description.update(report.description())

    write_event_log(target, tables(), description=description, overwrite=overwrite)
    return report


def log_timezone(format: str, calendar: CalendarConfig) -> str:
    """Returns the zone of a log's local times: the public log's own, else the calendar's."""
    if format in _DELIMITED:
        return built_in(format).timezone
    return calendar.timezone if calendar.promotions else built_in(calendar.built_in).timezone
