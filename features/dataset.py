"""A directory of examples as the model's stages see it: files by part of the split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from absl import logging

from cmdcm.core.config import Config, SplitConfig
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest
from cmdcm.datasets.calendar import PromotionCalendar, calendar_of
from cmdcm.features.plan import EXAMPLES
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

    def files(self, part: str, on_corrupt: Literal["fail", "skip"] = "fail") -> list[Path]:
        """Returns the shards of `train`, `validation` or `test`.

        Args:
            part: Name of the part.
            on_corrupt: What to do when a shard is missing, or has another size than the manifest
                says: `fail`, or `skip` it if it is missing, and log a warning.

        Raises:
            DataError: Names the first ten such shards.
        """
        days = getattr(self.split, part)
        files = files_of(self.directory, days)
        sizes = {f.relative_to(self.directory).as_posix(): f.stat().st_size for f in files}
        listed = {
            name: entry["bytes"]
            for name, entry in self.manifest["files"].items()
            if name.split("/")[0] in days
        }
        faults = [
            f"{name}: {sizes.get(name, 'missing')}, the manifest says {listed.get(name, 'nothing')}"
            for name in sorted(sizes.keys() | listed.keys())
            if sizes.get(name) != listed.get(name)
        ]
        if faults:
            message = (
                f"{self.directory} has shards of another size in bytes than its manifest says: "
                f"{'; '.join(faults[:10])}. Copy or write them again"
            )
            if on_corrupt == "fail":
                raise DataError(f'{message}, or train with training.on_corrupt = "skip".')
            logging.warning("%s.", message)
        return files

    def total(self, part: str, column: str = "rows") -> int:
        """Returns the rows of a part, or the sum of a label over it."""
        return sum(self.manifest["days"][day][column] for day in getattr(self.split, part))
