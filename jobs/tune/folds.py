"""Time-ordered folds: train on the windows before, validate on the next; never the test split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmdcm.core.config import SplitConfig
from cmdcm.core.errors import DataError
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.split import Split, split_days


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes:
        name: What it validates on: a promotion, or days.
        train: Local days (ISO) to train on.
        validation: Later days to validate on.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


def folds_of(data: ExampleSet, config: SplitConfig, latest: int = 0) -> tuple[Fold, ...]:
    """Returns the folds of a directory of examples, in the order of time.

    Split by promotion, each promotion before the test split validates once, but for the first one:
    a fold trains on the promotions before it, or on the last `split.windows` of them. Split by time
    there is one fold, the split's own.

    Args:
        data: The examples, split as configured.
        config: The split.
        latest: Keep the last so many folds; 0 for all.

    Raises:
        DataError: No promotion before the test split but one.
    """
    if data.split.by == "time":
        days = data.split.validation
        return (Fold(f"{days[0]}..{days[-1]}", data.split.train, days),)
    historical = _historical(data.manifest, data.split)
    folds = []
    for promotion in historical[1:]:
        fold = config.model_copy(update={"by": "promotion", "validation": (promotion,)})
        split = split_days(data.manifest, fold)
        folds.append(Fold(promotion, split.train, split.validation))
    if not folds:
        raise DataError(
            f"tuning needs two promotions before the test split; there are {historical}"
        )
    return tuple(folds[-latest:])


def open_fold(directory: Path, config: SplitConfig, fold: Fold) -> ExampleSet:
    """Opens a directory of examples as one fold, whose test part is empty."""
    data = ExampleSet.open(directory, config)
    return replace(data, split=Split(data.split.by, fold.train, fold.validation, ()))


def _historical(manifest: Mapping[str, Any], split: Split) -> list[str]:
    """Returns the promotions that end before the test split, in the order of time."""
    promotions: Mapping[str, Mapping[str, str]] = manifest["promotions"]
    before = [name for name, entry in promotions.items() if entry["last_day"] < min(split.test)]
    return sorted(before, key=lambda name: promotions[name]["first_day"])
