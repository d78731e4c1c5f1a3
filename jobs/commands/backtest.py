"""`cmdcm backtest`: what retraining before past promotions would have done."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError
from cmdcm.core.files import staged_directory, write_json, write_manifest
from cmdcm.jobs.backtest.page import notes, page, tables
from cmdcm.jobs.backtest.replay import outcomes, replay, scored
from cmdcm.jobs.backtest.results import decisions, figures
from cmdcm.jobs.bench.page import markdown
from cmdcm.model.registry import MODELS

EXAMPLE = "cmdcm backtest --output out/backtest --baseline vanilla --baseline single_task"
TITLE = "Back-test of retraining before each promotion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory to write; an interrupted back-test goes on there",
    )
    parser.add_argument(
        "--promotion",
        action="append",
        default=[],
        help="promotion to replay; may be repeated (default: all that the log allows)",
    )
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        choices=sorted(set(MODELS) - {"hdr"}),  # without its base it is another model
        help="model to train at each as-of instant for comparison; may be repeated",
    )
    parser.add_argument(
        "--ordinary",
        action="store_true",
        help="for comparison, train the model on ordinary days alone, too, at each as-of instant",
    )
    parser.add_argument(
        "--lead-days",
        type=int,
        default=7,
        help="days from the as-of instant to the opening of the window (default: 7)",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Replays, scores, and writes results.parquet, backtest.md and backtest.html."""
    if args.lead_days < 0:
        raise ConfigError("--lead-days should be at least 0")
    if config.model.name in args.baseline:
        raise ConfigError(f"{config.model.name} is the model itself, no baseline")
    output = args.output.resolve()
    replayed = replay(
        config, output, args.promotion, args.baseline, args.lead_days, ordinary=args.ordinary
    )
    examples = outcomes(config, output)
    frames = {r.promotion: dict(scored(r, examples)) for r in replayed if r.models}
    frame = figures(frames, config.evaluation, config.seed)
    decided = decisions(replayed)
    remarks = notes(config.evaluation.confidence, args.lead_days)
    made = tables(frame, decided)
    text = markdown(TITLE, made, remarks)
    with staged_directory(output / "report", overwrite=True) as staging:
        frame.write_parquet(staging / "results.parquet")
        write_json(staging / "decisions.json", decided)
        (staging / "backtest.md").write_text(text, encoding="utf-8")
        (staging / "backtest.html").write_text(page(TITLE, made, remarks), encoding="utf-8")
        config.save(staging / "config.json")
        write_manifest(staging, {"kind": "backtest"})
    print(text)
    print(f"report in {output / 'report'}")
    return 0
