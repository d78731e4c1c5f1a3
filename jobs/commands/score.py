"""`cmdcm score`: the rows of a file through a running server."""

import argparse
from pathlib import Path

import numpy as np

from cmdcm.core.config import Config
from cmdcm.jobs.served_model import add_spec_arguments, load_spec
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.score_file import score_file
from cmdcm.serving.scoring import SIGNATURES

EXAMPLE = (
    "cmdcm score --target 127.0.0.1:8500 --model_base_path out/serving/cmdcm "
    "--input rows.parquet --output scores.parquet --keep user_id --keep item_id"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--target", help="HOST:PORT of the server (default: serving.host and serving.port)"
    )
    parser.add_argument("--input", type=Path, required=True, help=".parquet or .jsonl file of rows")
    parser.add_argument("--output", type=Path, required=True, help=".parquet or .jsonl to write")
    parser.add_argument(
        "--signature",
        choices=SIGNATURES,
        default=SIGNATURES[0],
        help="serving_default sends each row as a tf.train.Example; score_candidates sends "
        "consecutive rows of one user as one request (default: %(default)s)",
    )
    add_spec_arguments(parser)
    parser.add_argument("--model_name", help="name of the served model (default: export.name)")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column to copy to the output; repeatable",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Scores the file and prints a summary."""
    spec = load_spec(args)
    target = args.target or f"{config.serving.host}:{config.serving.port}"
    with ScoringClient(
        target,
        args.model_name or config.export.name,
        spec,
        deadline_ms=config.serving.deadline_ms,
        max_message_mb=config.serving.max_message_mb,
        sizes=config.export.warmup_candidates,
    ) as client:
        summary = score_file(
            client, spec, args.input, args.output, signature=args.signature, keep=args.keep
        )
    p50, p99 = np.percentile(summary.latencies_ms, [50, 99])
    versions = ", ".join(str(version) for version in sorted(summary.versions))
    print(f"scored {summary.rows} rows in {len(summary.latencies_ms)} requests to {target}")
    print(f"model {client.model_name!r} version {versions}, signature {args.signature}")
    print(f"latency p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"scores in {args.output}")
    return 0
