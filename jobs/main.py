"""The command line `cmdcm`: one subcommand a stage.

Exit codes: 0 done; 1 a defect of ours (with a traceback); 2 wrong usage or configuration; 3 bad
data; 4 training cannot go on; 5 export refused; 6 serving or scoring failed; 7 output cannot be
written; 8 the retraining job is locked, late, frozen or held; 75 stopped by SIGTERM, and the same
command goes on; 130 interrupted.
"""

import argparse
import importlib
import sys
from logging import WARNING, LogRecord
from pathlib import Path

from absl import app, logging
from absl.flags import argparse_flags

from cmdcm.core.config import load_config, presets
from cmdcm.core.errors import CmdcmError

ROOT = Path(__file__).resolve().parents[1]
"""The package's root."""

COMMANDS = {
    "simulate": "draw a world of promotions with known truth, and its event log",
    "import": "read a raw log into the event format",
    "features": "make labelled point-in-time examples of an event log",
    "criteo": "make examples of the public Criteo conversion log",
    "validate": "check examples against a schema, other examples and logged requests",
    "train": "train a model on examples",
    "stream": "train on a stream of clicks whose conversion may still come",
    "tune": "search hyper-parameters on time-ordered folds",
    "evaluate": "evaluate trained models on the test split",
    "report": "write an evaluation as one HTML file",
    "abtest": "replay an ad auction in a simulated world with trained models",
    "bench": "compare models over worlds or logs and seeds",
    "gate": "decide whether a trained model may be published",
    "export": "publish a trained model as a SavedModel version",
    "deploy": "write the files with which TensorFlow Serving serves the versions",
    "serve": "serve the published versions over gRPC and REST",
    "rollout": "move the labels stable and canary on running servers",
    "monitor": "measure what servers answered against the labels that arrived",
    "registry": "register versions and tell what each was made of",
    "score": "score the rows of a file through a server",
    "loadtest": "measure latency, errors, CPU and limit of a server",
    "retrain": "a fresh model for a promotion, from the log to the servers",
    "backtest": "what retraining before past promotions would have done",
    "year": "two years of promotions with the retraining job, and faults injected into it",
    "demo": "the whole line, from raw events to a scored request",
}
"""The subcommands; each is the module of its name in `cmdcm.jobs.commands`, loaded when called."""


def command_module(name: str) -> object:
    """Returns the module of a subcommand: `EXAMPLE`, `add_arguments` and `run`."""
    suffix = "_" if name == "import" else ""
    return importlib.import_module(f"cmdcm.jobs.commands.{name}{suffix}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line; absl's own flags (--verbosity, ...) work beside ours."""
    parser = argparse_flags.ArgumentParser(
        prog="cmdcm", description="CM-DCM: ranking for e-commerce pre-promotion periods."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((arg for arg in argv[1:] if arg in COMMANDS), None)
    for name, help_text in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name != wanted:
            continue
        module = command_module(name)
        command.epilog = f"example:\n  {module.EXAMPLE}"  # type: ignore[attr-defined]
        command.add_argument("--config", type=Path, help="configuration file (TOML)")
        command.add_argument(
            "--preset", help=f"named configuration to start from: {', '.join(presets())}"
        )
        command.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="override one setting; may be repeated",
        )
        module.add_arguments(command)  # type: ignore[attr-defined]
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> int:
    """Runs a subcommand and returns its exit code."""
    module = command_module(args.command)
    try:
        default = getattr(module, "default_preset", lambda _: "default")
        config = load_config(args.config, args.preset or default(args), args.overrides)
        return int(module.run(args, config))  # type: ignore[attr-defined]
    except CmdcmError as error:
        print(f"cmdcm {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print(f"cmdcm {args.command}: interrupted", file=sys.stderr)
        return 130


def is_ours(record: LogRecord) -> bool:
    """Keeps our own records, and the warnings of libraries; their chatter helps no user."""
    return record.levelno >= WARNING or (
        Path(record.pathname).is_relative_to(ROOT)
        and "site-packages" not in record.pathname[len(str(ROOT)) :]
    )


def run() -> None:
    """Entry point of the console script."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(is_ours)
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
