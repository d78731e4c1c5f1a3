"""`cmdcm retrain`: a fresh model for a promotion, from the log to the servers, or a reason why not.

TensorFlow is imported by the steps that need it: a run that finds all of them done ends in seconds.
"""

import argparse
from collections.abc import Iterator
from datetime import date, datetime, timedelta

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.user import user_name
from cmdcm.datasets.calendar import calendar_of, zone
from cmdcm.jobs.retrain.decision import Decision
from cmdcm.jobs.retrain.dry_run import describe
from cmdcm.jobs.retrain.job import Request, retrain
from cmdcm.jobs.retrain.plan import STEPS, until
from cmdcm.jobs.retrain.steps import names
from cmdcm.jobs.retrain.window import NEXT, promotion_name

EXAMPLE = "cmdcm retrain --promotion double11-2026 --as-of 2026-10-25 --config production.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--promotion",
        required=True,
        help=f"name of the promotion to prepare for; {NEXT} for the first one that is not over",
    )
    parser.add_argument(
        "--as-of",
        default="",
        help="ISO date (its first instant) or date-time in the calendar's zone: nothing dated at "
        "or after it is used (default: the start of today)",
    )
    parser.add_argument("--until", default="", metavar="STEP", help=f"last of {names(STEPS)}")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    parser.add_argument(
        "--backfill",
        default="",
        metavar="FIRST_DAY",
        help="first make up for the days from this one to the day before --as-of, up to the gate",
    )
    parser.add_argument(
        "--override",
        action="store_true",
        help="publish what the gate refuses; needs --reason, --by",
    )
    parser.add_argument("--reason", default="", help="why it is overridden, for the audit log")
    parser.add_argument("--by", default="", help="who runs it, for the audit log")


def run(args: argparse.Namespace, config: Config) -> int:
    """Runs the job and prints the decision; 5 if refused, 8 if late, frozen, held or locked."""
    timezone = calendar_of(config.calendar).timezone
    as_of = args.as_of or datetime.now(zone(timezone)).date().isoformat()
    if args.override and not (args.by and args.reason):
        raise ConfigError("--override needs --by and --reason")
    if args.dry_run:
        for line in describe(config, _name(args, config, as_of), as_of, args.until):
            print(line)
        return 0
    by = args.by or user_name()
    for day in _days(args.backfill, as_of):
        last = args.until if args.until in names(until("gate", config.model)) else "gate"
        _print(retrain(config, Request(_name(args, config, day), day, last, by)), day)
    reason = args.reason if args.override else ""
    request = Request(_name(args, config, as_of), as_of, args.until, by, reason)
    decision = retrain(config, request)
    _print(decision, as_of)
    return decision.exit_code


def _name(args: argparse.Namespace, config: Config, as_of: str) -> str:
    return promotion_name(config, args.promotion, as_of)


def _print(decision: Decision, as_of: str) -> None:
    for name, step in decision.record["steps"].items():
        state = "done before" if step["reused"] or decision.reused else f"{step['seconds']:.1f} s"
        print(f"{name:12}{state}")
    print(f"{as_of}  {decision.outcome}: {decision.reason}")
    print(f"see {decision.folder / 'decision.html'}")


def _days(first: str, as_of: str) -> Iterator[str]:
    """Yields the days from the first one to the day before the as-of instant's."""
    if not first:
        return
    try:
        day, last = date.fromisoformat(first), datetime.fromisoformat(as_of).date()
    except ValueError as error:
        raise ConfigError(f"--backfill {first}: {error}") from error
    while day < last:
        yield day.isoformat()
        day += timedelta(days=1)
