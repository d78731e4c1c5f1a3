"""`cmdcm year`: simulated promotions, the retraining job before and in each, and faults in it."""

import argparse
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.core.files import check_free, output_errors, staged_file, write_json
from cmdcm.jobs.year.faults import FAULTS, fault_named
from cmdcm.jobs.year.page import page
from cmdcm.jobs.year.run import Year
from cmdcm.jobs.year.verdicts import Attempt

EXAMPLE = "cmdcm year --output out/year --fault missing_day --fault server_down"
PAGE, RESULT = "year.html", "year.json"
MARK = ".cmdcm-year"
"""Says that a directory is a year's, whole or not."""


def default_preset(args: argparse.Namespace) -> str:
    """The preset of the year's own world."""
    return "year"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--output", type=Path, default=Path("out/year"), help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier year there")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME",
        help=f"fault to inject; may be repeated (default: all of {', '.join(FAULTS)})",
    )
    parser.add_argument("--no-faults", action="store_true", help="inject nothing")
    parser.add_argument(
        "--lead-days",
        type=int,
        default=7,
        help="days from the first job to the opening of the window (default: 7)",
    )
    parser.add_argument(
        "--nights", type=int, default=2, help="jobs in each window, spread over it (default: 2)"
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Runs the year and writes its page; exit code 1 if a decision was not the handbook's."""
    if args.no_faults and args.fault:
        raise ConfigError("--no-faults and --fault exclude each other")
    if args.lead_days < 1 or args.nights < 0:
        raise ConfigError("--lead-days should be at least 1 and --nights at least 0")
    names = [] if args.no_faults else list(dict.fromkeys(args.fault)) or list(FAULTS)
    faults = [fault_named(name) for name in names]
    output = _prepare(args.output.resolve(), overwrite=args.overwrite)
    started = time.monotonic()
    year = Year(output, config, faults, args.lead_days, args.nights, _tell)
    held = year.run()
    seconds = time.monotonic() - started
    wrong = sum(bool(a.faults()) for a in year.attempts)
    broken = [one.name for one in held if not one.held]
    record = {
        "seconds": seconds,
        "attempts": [{**asdict(a), "differs": a.faults()} for a in year.attempts],
        "invariants": [asdict(one) for one in held],
    }
    with staged_file(output / RESULT) as staging:
        write_json(staging, record)
    with staged_file(output / PAGE) as staging:
        staging.write_text(page(year.attempts, held, seconds), encoding="utf-8")
    for one in held:
        print(f"{'held' if one.held else 'BROKEN':8}{one.name}: {one.evidence}")
    print(f"{len(year.attempts)} decisions, {wrong} not as the handbook says; see {output / PAGE}")
    return 1 if wrong or broken else 0


def _prepare(output: Path, *, overwrite: bool) -> Path:
    """Makes the year's directory; only one that a year made is ever replaced."""
    if overwrite and (output / MARK).exists():
        with output_errors(output):
            for path in output.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != MARK:
                    path.unlink()
            (output / MARK).unlink()  # last: what a kill leaves is still a year's
    elif overwrite and output.is_dir() and any(output.iterdir()):
        raise OutputError(f"{output} exists and is no year's output; choose another --output")
    check_free(output, overwrite=False)
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).touch()
    return output


def _tell(attempt: Attempt) -> None:
    met = "; ".join(attempt.faults()) or "as the handbook says"
    what = attempt.fault or ("mended" if attempt.injected else "")
    print(
        f"{attempt.as_of}  {attempt.promotion:15}{attempt.job:7}{what:16}{attempt.outcome:11}"
        f"{attempt.before} -> {attempt.after}  {met}",
        flush=True,
    )
