"""A directory of examples as the model's stages see it: files by part of the split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdcm.core.config import Config, SplitConfig
from cmdcm.core.files import read_manifest
from cmdcm.datasets.calendar import PromotionCalendar
from cmdcm.features.pipeline import EXAMPLES, calendar_of
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.split import Split, files_of, split_days


@dataclass(frozen=True)
class ExampleSet:
    """A directory that `features.pipeline.build_dataset` wrote, and its split."""

    directory: Path
    manifest: dict[str, Any]
    spec: FeatureSpec
    calendar: PromotionCalendar
    split: Split

    @classmethod
    def open(cls, directory: Path, config: SplitConfig) -> "ExampleSet":
        """Opens a directory of examples.

        Raises:
            DataError: No such directory, or it cannot be split as configured.
        """
        manifest = read_manifest(Path(directory), EXAMPLES)
        return cls(
            Path(directory),
            manifest,
            FeatureSpec.load(Path(directory) / "spec.json"),
            calendar_of(Config.load(Path(directory) / "config.json").calendar),
            split_days(manifest, config),
        )

    def files(self, part: str) -> list[Path]:
        """Returns the shards of `train`, `validation` or `test`."""
        return files_of(self.directory, getattr(self.split, part))

    def total(self, part: str, column: str = "rows") -> int:
        """Returns the rows of a part, or the sum of a label over it."""
        return sum(self.manifest["days"][day][column] for day in getattr(self.split, part))
