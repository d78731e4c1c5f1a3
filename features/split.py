"""Train, validation and test: always whole local days, always in the order of time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdcm.core.config import SplitConfig
from cmdcm.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """The days of each part (ISO), and how they were chosen.

    Attributes:
        by: `promotion` or `time`.
        train: Days to train on.
        validation: Later days for early stopping.
        test: The latest days, for the evaluation.
        note: What a reader of the results should know of the split; empty if nothing.
    """

    by: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    note: str = ""


def split_days(manifest: Mapping[str, Any], config: SplitConfig) -> Split:
    """Chooses the days of each part from the manifest of a directory of examples.

    Raises:
        ConfigError: Unknown promotions, or parts out of the order of time.
        DataError: Too few promotions or days for the three parts.
    """
    promotions = sorted(
        manifest["promotions"], key=lambda p: manifest["promotions"][p]["first_day"]
    )
    by = config.by
    if by == "auto":
        by = "promotion" if len(promotions) >= 3 else "time"
    if by == "promotion":
        return _by_promotion(manifest, promotions, config)
    if config.windows:
        raise ConfigError(
            f"split.windows = {config.windows} needs a split by promotion, this one is by time"
        )
    return _by_time(manifest, promotions, config)


def files_of(directory: Path, days: tuple[str, ...]) -> list[Path]:
    """Returns the shards of the given days, in order."""
    files = [file for day in days for file in sorted((Path(directory) / day).glob("part-*"))]
    if not files:
        raise DataError(f"{directory} has no shards for the days {days[:3]}...")
    return files


def _by_promotion(manifest: Mapping[str, Any], promotions: list[str], config: SplitConfig) -> Split:
    unknown = sorted({*config.test, *config.validation} - set(promotions))
    if unknown:
        raise ConfigError(f"split: no examples of the promotions {unknown}; there are {promotions}")
    test = list(config.test) or promotions[-1:]
    before = [p for p in promotions[: promotions.index(test[0])] if p not in test]
    validation = list(config.validation) or before[-1:]
    train = before[: before.index(validation[0])] if validation and validation[0] in before else []
    train = train[-config.windows :]  # -0: all
    if not train:
        raise DataError(
            "split by promotion needs a promotion each to train, validate and test, in this order; "
            f"there are {promotions}, test {test}, validation {validation}"
        )

    def days(names: list[str]) -> tuple[str, ...]:
        return tuple(sorted(d for d, s in manifest["days"].items() if s["promotion"] in names))

    return Split("promotion", days(train), days(validation), days(test))


def _by_time(manifest: Mapping[str, Any], promotions: list[str], config: SplitConfig) -> Split:
    last = promotions[-1]
    days = sorted(d for d, s in manifest["days"].items() if s["promotion"] == last)
    earlier = sorted(d for d, s in manifest["days"].items() if s["promotion"] != last)
    test = max(1, round(len(days) * config.test_share))
    validation = max(1, round(len(days) * config.validation_share))
    if len(days) < test + validation + 1:
        raise DataError(
            f"split by time needs at least 3 days with examples; promotion {last!r} has {len(days)}"
        )
    return Split(
        "time",
        tuple(earlier + days[: -test - validation]),
        tuple(days[-test - validation : -test]),
        tuple(days[-test:]),
        f"Train, validation and test are days of one window (of {last}). Delayed labels of the "
        "training days become known only with the promotion, after the test clicks, and "
        "all parts share its purchases: read the results as optimistic.",
    )
