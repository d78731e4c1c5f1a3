"""`cmdcm evaluate`: trained models -> metrics with intervals on the test split."""

import argparse
from pathlib import Path
from typing import Any

import polars as pl
from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import read_manifest, staged_directory, write_json, write_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.causal.balance import Balance
from cmdcm.model.causal.summary import Provenance
from cmdcm.model.evaluation import evaluate, save_evaluation
from cmdcm.model.scoring import predict
from cmdcm.model.trained import MODEL, load_history, load_model, seen_days

EXAMPLE = (
    "cmdcm evaluate --examples out/examples --model cmdcm=out/runs/cmdcm/model "
    "--model single_task=out/runs/single_task/model --baseline single_task --output out/evaluation"
)
ORACLE = "oracle"
"""Name of the row of true probabilities."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--examples", type=Path, required=True, help="directory of examples")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="a trained model's directory (RUN/model); may be repeated",
    )
    parser.add_argument("--baseline", help="model that the others are compared with")
    parser.add_argument(
        "--truth", type=Path, help="a simulated world's truth; adds the row 'oracle'"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Scores the test split with every model, evaluates and prints the main metrics."""
    data = ExampleSet.open(args.examples, config.split)
    models = dict(_named(model) for model in args.model)
    if args.baseline and args.baseline not in models:
        raise ConfigError(f"--baseline {args.baseline} is none of the models {sorted(models)}")
    predictions: dict[str, pl.DataFrame] = {}
    provenance: dict[str, Provenance] = {}
    for name, directory in models.items():
        check_split(data, directory)
        logging.info("scoring %d test examples with %s", data.total("test"), name)
        model = load_model(directory)
        clip = config.evaluation.propensity_clip or model.config.propensity_clip
        balance = Balance(data.spec, config.evaluation.balance_covariates, clip)
        predictions[name] = predict(
            model, data.files("test"), data.spec, data.calendar, observe=balance.add
        )
        provenance[name] = Provenance(seen_days(directory), clip, tuple(balance.result()))
    if args.truth:
        predictions[ORACLE] = oracle(next(iter(predictions.values())), args.truth)
        clip = config.evaluation.propensity_clip or config.model.propensity_clip
        provenance[ORACLE] = Provenance(frozenset(), clip)
    result = evaluate(predictions, config.evaluation, config.seed, args.baseline, provenance)
    if data.split.note:
        result["notes"].insert(0, data.split.note)
    with staged_directory(args.output, overwrite=args.overwrite) as staging:
        save_evaluation(result, staging / "evaluation.json")
        write_json(staging / "training.json", {n: load_history(d) for n, d in models.items()})
        write_json(staging / "data.json", _data_summary(data))
        config.save(staging / "config.json")
        for name, frame in predictions.items():
            frame.write_parquet(staging / f"predictions-{name}.parquet")
        write_manifest(staging, {"kind": "evaluation", "models": sorted(predictions)})
    print(table(result))
    print(f"evaluation in {args.output}")
    return 0


def check_split(data: ExampleSet, directory: Path) -> None:
    """Refuses a model that was trained or stopped on days of the test split."""
    seen = sorted(seen_days(directory) & set(data.split.test))
    if seen:
        raise DataError(f"{directory} was trained on test days, {seen[0]} and {len(seen) - 1} more")


def oracle(frame: pl.DataFrame, truth: Path) -> pl.DataFrame:
    """Returns the predictions of the true probabilities for the clicks of `frame`."""
    read_manifest(truth, "truth")
    columns = ["p_direct", "p_cart", "p_delayed", "p_conversion", "propensity", "r1", "r0"]
    true = pl.read_parquet(truth / "part-*.parquet").with_columns(
        click_time_ms=pl.col("timestamp").dt.epoch("ms")
    )
    keys = ["user_id", "item_id", "click_time_ms"]
    predicted = (*columns, "p_refunded", "p_effective", "cart_effect")
    labels = frame.select(c for c in frame.columns if c not in predicted)
    joined = labels.join(true.select(*keys, *columns), on=keys, how="left", maintain_order="left")
    if joined["p_conversion"].null_count() or len(joined) != len(frame):
        raise DataError(f"the truth at {truth} is not that of these examples: clicks are missing")
    return joined.with_columns(cart_effect=pl.col("r1") - pl.col("r0"))


def table(result: dict[str, Any]) -> str:
    """Returns the main metrics of every model as text."""
    heads = ("conversion", "direct", "delayed", "cart", "refunded", "effective")
    metrics = ("auc", "log_loss", "pcoc")
    lines = [f"{'model':14} {'head':11} {'positives':>9} " + " ".join(f"{m:>25}" for m in metrics)]
    for name, model in result["models"].items():
        for head in heads:
            if head not in model["heads"]:
                continue
            values = model["heads"][head]
            cells = [_cell(values["metrics"][metric]) for metric in metrics]
            lines.append(f"{name:14} {head:11} {values['positives']:>9,} " + " ".join(cells))
    return "\n".join(lines)


def _cell(interval: dict[str, float | None]) -> str:
    if interval["estimate"] is None:
        return f"{'-':>25}"
    text = f"{interval['estimate']:.4f}"
    if interval["lower"] is not None:
        text += f" [{interval['lower']:.4f}, {interval['upper']:.4f}]"
    return f"{text:>25}"


def _named(argument: str) -> tuple[str, Path]:
    name, equals, directory = argument.rpartition("=")
    path = Path(directory)
    manifest = read_manifest(path, MODEL)
    return (name if equals else str(manifest["name"])), path


def _data_summary(data: ExampleSet) -> dict[str, Any]:
    examples = {k: v for k, v in data.manifest.items() if k not in ("files", "events", "days")}
    split = {
        part: {
            "rows": data.total(part),
            "first_day": getattr(data.split, part)[0],
            "last_day": getattr(data.split, part)[-1],
        }
        for part in ("train", "validation", "test")
    }
    return {"events": data.manifest["events"], "examples": examples, "split": split}
