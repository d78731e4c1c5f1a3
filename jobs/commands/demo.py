"""`cmdcm demo`: the whole line in one command, on a simulated world or on a raw log."""

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import tensorflow as tf

from cmdcm.core.config import Config, presets
from cmdcm.core.errors import ConfigError, OutputError, ServingError
from cmdcm.export.publish import TOLERANCE
from cmdcm.export.warmup import requests
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.tfrecord import read_records
from cmdcm.jobs.commands import evaluate, export, features, import_, report, simulate, train
from cmdcm.model.base import OUTPUTS
from cmdcm.model.trained import MODEL, load_model
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.server import EmbeddedServer

EXAMPLE = "cmdcm demo --format taobao --input UserBehavior.csv.gz --output out/taobao"
MODELS = ("vanilla", "single_task", "esmm", "cmdcm")
"""The models that the demo trains; the last one is served."""

BASELINE = "single_task"
CANDIDATES = 100
MARK = ".cmdcm-demo"


def default_preset(args: argparse.Namespace) -> str:
    """The preset of the raw format, or of the demo's own world."""
    if args.format is None:
        return "demo"
    return str(args.format) if args.format in presets() else "default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--format", help="format of a raw log, as in `cmdcm import`")
    parser.add_argument("--input", type=Path, help="the raw log; without it a world is simulated")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo there")
    parser.epilog = f"{parser.epilog}\n  cmdcm demo --output out/demo"


def run(args: argparse.Namespace, config: Config) -> int:
    """Runs every stage and prints what each made."""
    if (args.format is None) != (args.input is None):
        raise ConfigError("--format and --input go together; without both a world is simulated")
    started = time.monotonic()
    output = _prepare(args.output, args.overwrite)
    tracking = config.tracking.model_copy(update={"uri": f"sqlite:///{output / 'mlflow.db'}"})
    config = config.model_copy(update={"tracking": tracking})  # a demo leaves nothing elsewhere
    events, truth = output / "events", None
    if args.input is None:
        with _stage("simulate: a world of promotions with known truth"):
            simulate.run(_arguments(simulate, output=output, overwrite=True), config)
        truth = output / "truth"
    else:
        with _stage(f"import: {args.input}"):
            import_.run(
                _arguments(
                    import_, format=args.format, input=args.input, output=events, overwrite=True
                ),
                config,
            )
    examples = output / "examples"
    with _stage("features: labelled point-in-time examples"):
        features.run(_arguments(features, events=events, output=examples, overwrite=True), config)
    for name in MODELS:
        with _stage(f"train: {name}"):
            train.run(
                _arguments(train, examples=examples, output=output / "runs" / name, overwrite=True),
                config.model_copy(update={"model": config.model.model_copy(update={"name": name})}),
            )
    evaluation, page = output / "evaluation", output / "report.html"
    with _stage("evaluate: the test split, which no model has seen"):
        evaluate.run(
            _arguments(
                evaluate,
                examples=examples,
                model=[f"{name}={output / 'runs' / name / MODEL}" for name in MODELS],
                baseline=BASELINE,
                truth=truth,
                output=evaluation,
                overwrite=True,
            ),
            config,
        )
    with _stage("report"):
        report.run(_arguments(report, evaluation=evaluation, output=page, overwrite=True), config)
    served = MODELS[-1]
    base = output / "serving" / config.export.name
    with _stage(f"export: {served} as a SavedModel"):
        export.run(
            _arguments(
                export,
                model=output / "runs" / served / MODEL,
                examples=examples,
                output=base,
                evaluation=evaluation,
            ),
            config,
        )
    with _stage("serve and score: one user and his candidates over gRPC"):
        score_one(base, output / "runs" / served / MODEL, examples, config)
    print(f"\nreport    {page}")
    print(f"model     {base}")
    print(f"elapsed   {time.monotonic() - started:.0f} s")
    return 0


def score_one(base: Path, trained: Path, examples: Path, config: Config) -> None:
    """Starts a server on the exported model, scores one request, compares with the model."""
    data = ExampleSet.open(examples, config.split)
    records = read_records(data.files("test")[0])
    serialized = [record for record, _ in zip(records, range(CANDIDATES), strict=False)]
    ((_, inputs),) = requests(data.spec, serialized, [CANDIDATES])[1:]
    user = {f.name: inputs[f.name] for f in data.spec.user_inputs}
    candidates = {f.name: inputs[f.name] for f in data.spec.candidate_inputs}
    with (
        EmbeddedServer(base, config.export.name) as server,
        ScoringClient(server.target, config.export.name, data.spec) as client,
    ):
        target = server.target
        scores = client.score_candidates(user, candidates)
    expected = load_model(trained).score(
        {n: tf.constant(v) for n, v in user.items()},
        {n: tf.constant(v) for n, v in candidates.items()},
    )
    difference = max(
        float(np.max(np.abs(value - expected[name].numpy())))
        for name, value in scores.outputs.items()
    )
    if difference > TOLERANCE:
        raise ServingError(f"scores over gRPC differ by {difference:.2g} from the model's")
    print(f"served version {scores.version} of {config.export.name} at {target}")
    print(f"user {user['user_id'][0]}, {CANDIDATES} candidates; the best five by p_conversion:")
    frame = pl.DataFrame(
        {"item_id": candidates["item_id"]} | {n: scores[n] for n in OUTPUTS if n in scores.outputs}
    )
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(frame.sort("p_conversion", descending=True).head(5))
    print(f"largest difference to the model in memory: {difference:.2g}")


@contextlib.contextmanager
def _stage(title: str) -> Iterator[None]:
    print(f"\n=== {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"--- {time.monotonic() - started:.1f} s", flush=True)


def _arguments(command: ModuleType, **values: object) -> argparse.Namespace:
    """The arguments of a command: those given, and its defaults."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    defaults = {action.dest: action.default for action in parser._actions}
    return argparse.Namespace(**{**defaults, **values})


def _prepare(output: Path, overwrite: bool) -> Path:
    """Makes the demo's directory; only one that a demo made is ever replaced."""
    if output.exists() and any(output.iterdir()):
        if not (output / MARK).exists():
            raise OutputError(f"{output} exists and is no demo's output; choose another --output")
        if not overwrite:
            raise OutputError(f"{output} holds an earlier demo; pass --overwrite to replace it")
        shutil.rmtree(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).touch()
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}") from error
    return output
