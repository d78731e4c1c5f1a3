"""The guard against forgetting: a model that goes on from another one has to keep what that knew.

Both score the clicks of the last promotion that the other model was trained on. The log loss of
conversion may rise by `training.max_forgetting` of itself. It is taken before calibration, which is
that of another promotion on either side.
"""

from collections.abc import Set
from pathlib import Path
from typing import Any

from absl import logging

from cmdcm.core.config import TrainingConfig
from cmdcm.core.errors import DataError, TrainingError
from cmdcm.core.files import staged_file, write_json
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.features.split import files_of
from cmdcm.model.base import RankingModel
from cmdcm.model.metrics import auc, log_loss, pcoc
from cmdcm.model.scoring import predict

FORGETTING_FILE = "forgetting.json"

_OUTPUT = "p_conversion"
_METRICS = {"log_loss": log_loss, "auc": auc, "pcoc": pcoc}


def measure_before(
    source: RankingModel,
    model: RankingModel,
    data: ExampleSet,
    trained_days: Set[str],
    config: TrainingConfig,
) -> dict[str, Any] | None:
    """Measures the quality that is not to be lost.

    Args:
        source: The model that the run starts from.
        model: The run's model at its start. It is measured in place of a source that reads
            features which the examples no longer have.
        data: The examples.
        trained_days: The days that the source was trained on.
        config: Says whether it may be left out.

    Returns:
        `promotion`, `days`, `model` (`source` or `start`) and its metrics. None if the examples
        have no such days, and a warning is enough.

    Raises:
        DataError: They have none.
    """
    days = previous_days(data, trained_days)
    if not days:
        message = (
            f"{data.directory} has no click of the days that {config.warm_start} was trained on, "
            "so that forgetting cannot be measured; make examples that reach back to them"
        )
        if config.on_forgetting == "fail":
            raise DataError(f'{message}, or set training.on_forgetting = "warn"')
        logging.warning("%s", message)
        return None
    readable = reads(source.spec, data.spec)
    return {
        "promotion": data.manifest["days"][days[0]]["promotion"],
        "days": list(days),
        "model": "source" if readable else "start",
        **measure(source if readable else model, model, data, days, config),
    }


def check_after(
    model: RankingModel,
    before: dict[str, Any] | None,
    data: ExampleSet,
    output: Path,
    config: TrainingConfig,
    *,
    writes: bool,
) -> None:
    """Measures the trained model in the same way and writes `forgetting.json`.

    Args:
        model: The trained model, before its calibration.
        before: What `measure_before` returned.
        data: The examples.
        output: The run's directory.
        config: The bound, and what happens beyond it.
        writes: Whether this process writes; of several workers one does.

    Raises:
        TrainingError: The log loss has risen by more than the bound, or was not measured.
    """
    if before is None:
        problem = "forgetting was not measured: the examples lack the days for it"
    else:
        after = measure(model, model, data, tuple(before["days"]), config)
        rise = after["log_loss"] / before["log_loss"] - 1
        if writes:
            result = {
                "before": before,
                "after": after,
                "relative_rise": rise,
                "max_forgetting": config.max_forgetting,
            }
            with staged_file(output / FORGETTING_FILE) as staging:
                write_json(staging, result)
        comparison = (
            f"on {before['promotion']} the log loss of conversion went from "
            f"{before['log_loss']:.5f} to {after['log_loss']:.5f} ({rise:+.2%})"
        )
        logging.info("%s", comparison)
        if rise <= config.max_forgetting:
            return
        problem = f"{comparison}, above training.max_forgetting = {config.max_forgetting:.2%}"
    if config.on_forgetting == "fail":
        raise TrainingError(
            f"{problem}. Train on more promotions (split.windows) or at a lower rate in another "
            'run, or publish this one with a higher bound or training.on_forgetting = "warn": the '
            "same command then goes on without training again"
        )
    logging.warning("%s", problem)


def previous_days(data: ExampleSet, trained_days: Set[str]) -> tuple[str, ...]:
    """Returns the days, in order, of the last promotion that a model was trained on."""
    days = data.manifest["days"]
    known = sorted(trained_days & days.keys())
    return tuple(d for d in known if days[d]["promotion"] == days[known[-1]]["promotion"])


def reads(model: FeatureSpec, examples: FeatureSpec) -> bool:
    """Returns whether examples have all inputs of a model, of the same form.

    Vocabularies and buckets may differ: values are raw. A sequence may have any length.
    """

    def form(feature: Feature) -> tuple[object, ...]:
        length = 0 if feature.shape == "sequence" else feature.length
        return feature.dtype, feature.shape, feature.components, length

    present = {feature.name: feature for feature in examples.inputs}
    return all(f.name in present and form(f) == form(present[f.name]) for f in model.inputs)


def measure(
    model: RankingModel,
    learner: RankingModel,
    data: ExampleSet,
    days: tuple[str, ...],
    config: TrainingConfig,
) -> dict[str, Any]:
    """Returns log loss, AUC and PCOC of conversion on some days; None where one is not defined.

    Args:
        model: The model that scores.
        learner: Whose label counts: a model may learn another one than conversion.
        data: The examples.
        days: Local days.
        config: Says what happens at a corrupted shard.
    """
    frame = predict(
        model,
        files_of(data.directory, days),
        data.spec,
        data.calendar,
        on_corrupt=config.on_corrupt,
    )
    labels = frame[str(learner.label_of(_OUTPUT))].to_numpy()
    scores = frame[_OUTPUT].to_numpy()
    return {name: metric(labels, scores) for name, metric in _METRICS.items()}
