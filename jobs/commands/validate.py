"""`cmdcm validate`: checks examples against a schema, other examples and logged requests."""

import argparse
from pathlib import Path

from cmdcm.core.config import Config
from cmdcm.core.errors import DataError
from cmdcm.core.files import staged_directory
from cmdcm.jobs.validation import validate
from cmdcm.jobs.validation_report import write_validation

EXAMPLE = "cmdcm validate --examples out/examples --output out/validation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--examples", type=Path, required=True, help="directory of examples")
    parser.add_argument("--against", type=Path, help="other directory of examples to compare with")
    parser.add_argument(
        "--schema", type=Path, help="schema.pbtxt (TensorFlow Metadata); the examples' own without"
    )
    parser.add_argument(
        "--requests",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="TFRecords of PredictionLog: requests that TensorFlow Serving logged",
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Writes validation.json and validation.html; bad data is exit code 3."""
    with staged_directory(args.output, overwrite=args.overwrite) as staging:
        validation = validate(
            args.examples,
            config,
            against=args.against,
            schema=args.schema,
            requests=args.requests,
        )
        write_validation(staging, validation)
    result = validation.result
    for anomaly in result["anomalies"]:
        print(f"{anomaly['severity']:8}{anomaly['code']:24}{anomaly['message']}")
    for note in result["notes"]:
        print(f"{'note':8}{note}")
    print(
        f"{result['examples']['rows']:,} examples: {result['errors']} errors, "
        f"{result['warnings']} warnings; see {args.output / 'validation.html'}"
    )
    return 0 if validation.passed else DataError.exit_code
