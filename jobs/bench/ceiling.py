"""What a network could learn: examples whose label is the simulator's true probability.

The row `ceiling` of a bench is an ordinary model, trained as all others are, but on these: what is
left between it and `oracle` no label can teach its features and its network; what is left between a
model and it is the price of learning from outcomes. Only a bench reads the truth.
"""

import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa

from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest, staged_directory, write_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.encode import RecordWriter
from cmdcm.features.plan import EXAMPLES
from cmdcm.features.rows import parse_rows
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.tfrecord import read_records

LABEL, PROBABILITY = "conversion", "p_conversion"
_KEYS = ("user_id", "item_id", "click_time_ms")


def soft_examples(data: ExampleSet, truth: Path, target: Path) -> None:
    """Writes the training and validation examples with the truth as the training rows' label.

    Validation, which decides the epoch, keeps what happened, as for every other model.

    Args:
        data: The examples.
        truth: The directory of the truth about them.
        target: The directory to write; is left as it is where it is there already.

    Raises:
        DataError: A click is missing in the truth.
    """
    if target.exists():
        return
    read_manifest(truth, "truth")
    true = pl.read_parquet(truth / "part-*.parquet").with_columns(
        click_time_ms=pl.col("timestamp").dt.epoch("ms")
    )
    spec = FeatureSpec(
        features=tuple(
            f.model_copy(update={"dtype": "float32"}) if f.name == LABEL else f
            for f in data.spec.features
        )
    )
    days = {day: dict(data.manifest["days"][day]) for day in data.manifest["days"]}
    files = {}
    with staged_directory(target) as staging:
        for part in ("train", "validation"):
            for day in getattr(data.split, part):
                days[day][LABEL] = 0.0
            for shard in data.files(part):
                name = shard.relative_to(data.directory).as_posix()
                table = parse_rows(list(read_records(shard)), data.spec.features)
                soft = table[LABEL].cast(pa.float32())
                if part == "train":
                    soft = _true(table, true.select(*_KEYS, PROBABILITY), name)
                place = table.column_names.index(LABEL)
                days[name.split("/")[0]][LABEL] += float(soft.to_numpy().sum())
                (staging / name).parent.mkdir(exist_ok=True)
                with RecordWriter(staging / name, name.endswith(".gz")) as writer:
                    writer.add(table.set_column(place, LABEL, soft))
                files[name] = {"bytes": writer.bytes, "sha256": writer.sha256()}
        spec.save(staging / "spec.json")
        shutil.copyfile(data.directory / "config.json", staging / "config.json")
        described = {k: v for k, v in data.manifest.items() if k not in ("files", "days", "kind")}
        write_manifest(staging, {"kind": EXAMPLES, **described, "days": days}, files)


def _true(table: pa.Table, true: pl.DataFrame, name: str) -> pa.ChunkedArray:
    """Returns the true probability of each row."""
    keys = pl.DataFrame({key: table[key].to_numpy() for key in _KEYS})
    joined = keys.join(true, on=_KEYS, how="left", maintain_order="left")
    if len(joined) != len(keys) or joined[PROBABILITY].null_count():
        raise DataError(f"{name}: the truth is not that of these examples; clicks are missing")
    return pa.chunked_array([joined[PROBABILITY].cast(pl.Float32).to_arrow()])
