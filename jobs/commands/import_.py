"""`cmdcm import`: a raw log becomes an event log."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.progress import progress_bar
from cmdcm.datasets.readers import FORMATS, import_log

EXAMPLE = "cmdcm import --format taobao --input UserBehavior.csv.gz --output out/events"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("--format", required=True, choices=FORMATS, help="format of the input")
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        help="the raw log, plain or gzip; for parquet a file or a directory",
    )
    parser.add_argument("--output", required=True, type=Path, help="directory of the event log")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing event log")


def run(args: argparse.Namespace, config: Config) -> int:
    """Imports the log and prints what became of its rows."""
    with progress_bar() as bar:
        task = bar.add_task(f"reading {args.input.name} (KiB)", total=_kibibytes(args.input))
        report = import_log(
            args.format,
            args.input,
            args.output,
            config,
            overwrite=args.overwrite,
            on_bytes=lambda count: bar.update(task, completed=-(-count // 1024)),
        )
    print(report.text())
    print(f"{'written':<11} {args.output}")
    return 0


def _kibibytes(path: Path) -> int:
    files = path.rglob("*.parquet") if path.is_dir() else [path]
    return -(-sum(file.stat().st_size for file in files if file.is_file()) // 1024)
