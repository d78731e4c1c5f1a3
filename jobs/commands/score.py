"""`cmdcm score`: the rows of a file through a running server."""

import argparse
from pathlib import Path

import numpy as np

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.features.spec import FeatureSpec
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.score_file import SIGNATURES, score_file
from cmdcm.serving.versions import find_versions

EXAMPLE = (
    "cmdcm score --target 127.0.0.1:8500 --model_base_path out/serving/cmdcm "
    "--input rows.parquet --output scores.parquet --keep user_id --keep item_id"
)

SPEC_FILE = Path("assets.extra") / "feature_spec.json"


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
    parser.add_argument("--spec", type=Path, help="feature_spec.json of the model")
    parser.add_argument(
        "--model_base_path",
        type=Path,
        help="export directory to take the newest version's spec from, if --spec is not given",
    )
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
    spec = _load_spec(args)
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


def _load_spec(args: argparse.Namespace) -> FeatureSpec:
    if args.spec is not None:
        return FeatureSpec.load(args.spec)
    if args.model_base_path is None:
        raise ConfigError(
            "the model's features are needed: pass --spec FILE (feature_spec.json of the export) "
            "or --model_base_path DIR (the export directory)"
        )
    if not args.model_base_path.is_dir():
        raise DataError(f"--model_base_path {args.model_base_path} is not a directory")
    versions = find_versions(args.model_base_path)
    if not versions:
        raise DataError(f"--model_base_path {args.model_base_path} holds no exported version")
    return FeatureSpec.load(versions[max(versions)] / SPEC_FILE)
