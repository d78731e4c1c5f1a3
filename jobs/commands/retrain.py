"""`cmdcm retrain`: a fresh model for a promotion, from the log to the servers, or a reason why not.

TensorFlow is imported by the steps that need it: a run that finds all of them done ends in seconds.
"""

import argparse
from collections.abc import Iterator
from datetime import date, datetime, timedelta

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.signals import ending_at_sigterm
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
    """Runs the job and prints the decision; 5 if refused, 8 if late, frozen, held or locked.

    Where the job itself is well, the code is that of the day made up for that went worst.
    """
    timezone = calendar_of(config.calendar).timezone
    as_of = args.as_of or datetime.now(zone(timezone)).date().isoformat()
    if args.override and not (args.by and args.reason):
        raise ConfigError("--override needs --by and --reason")
    last = args.until if args.until in names(until("gate", config.model)) else "gate"
    asked = [(day, last, "") for day in _days(args.backfill, as_of)]
    asked.append((as_of, args.until, args.reason if args.override else ""))
    by, codes = args.by or user_name(), []
    for day, step, reason in asked:
        promotion = promotion_name(config, args.promotion, day)
        if args.dry_run:
            print(*describe(config, promotion, day, step), sep="\n")
            codes.append(0)
            continue
        # A lock that is left behind keeps other machines from the next run.
        with ending_at_sigterm():
            decision = retrain(config, Request(promotion, day, step, by, reason))
        _print(decision, day)
        codes.append(decision.exit_code)
    return codes[-1] or max(codes)


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
