"""The clicks of a stream by row: serialized examples on disk, and what decides when they enter.

A late positive enters long after its click, so a stream needs any click at any time. The examples
are copied into one file that is read by place; memory holds a few integers a click.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest, staged_directory, write_manifest
from cmdcm.features.decode import Decoder
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.features.tfrecord import read_records
from cmdcm.features.windows import Int64s
from cmdcm.model.rows import hash_ids

KIND = "click store"

_COLUMNS = (
    "click_time_ms",
    "direct_known_ms",
    "delayed_known_ms",
    "conversion_delay_ms",
    "direct",
    "conversion",
)
_BATCH = 8192
_RECORDS = "records.bin"
_KNOWN = {"direct": "direct_known_ms", "conversion": "delayed_known_ms"}


class ClickStore:
    """Clicks in the order of their time.

    Attributes:
        clicks_ms: int64 [clicks], UTC ms, increasing.
        users: int64 [clicks], one number a user; the row itself where examples have no user.
    """

    def __init__(self, directory: Path):
        """Opens a store that `build` wrote."""
        manifest = read_manifest(directory, KIND)
        self._columns = {n: np.load(directory / f"{n}.npy") for n in (*_COLUMNS, "users")}
        self._starts = np.load(directory / "starts.npy")
        self._sizes = np.load(directory / "sizes.npy")
        self._records = np.memmap(
            directory / _RECORDS, np.uint8, "r", shape=(int(manifest["bytes"]),)
        )
        self.clicks_ms: Int64s = self._columns["click_time_ms"]
        self.users: Int64s = self._columns["users"]

    @classmethod
    def build(cls, files: Sequence[Path], spec: FeatureSpec, directory: Path) -> "ClickStore":
        """Copies the examples of some files, or opens the store that is there.

        Raises:
            DataError: The examples lack a column that a stream goes by, or there are none.
        """
        missing = [name for name in _COLUMNS if name not in spec]
        if missing:
            raise DataError(f"the examples lack the columns {missing} that a stream goes by")
        if not (directory / "manifest.json").exists():
            with staged_directory(directory, overwrite=True) as staging:
                _write(files, spec, staging)
        return cls(directory)

    def __len__(self) -> int:
        return len(self.clicks_ms)

    def labels(self, label: str) -> npt.NDArray[np.int64]:
        """Returns the final labels `conversion` or `direct`, [clicks]."""
        return self._columns[label]

    def delays_ms(self, label: str, wait_ms: int = 0) -> Int64s:
        """Returns the time from click to known conversion, -1 without one; [clicks].

        Args:
            label: `conversion` or `direct`.
            wait_ms: From a purchase until it is known, such as the time that its refund may take.
        """
        positive = self._columns[label] == 1
        return np.where(positive, self._columns["conversion_delay_ms"] + wait_ms, -1)

    def known_ms(self, label: str) -> Int64s:
        """Returns when the labels are final, [clicks]."""
        return self._columns[_KNOWN[label]]

    def records(self, rows: Int64s) -> list[bytes]:
        """Returns the serialized examples of some rows."""
        return [
            self._records[start : start + size].tobytes()
            for start, size in zip(
                self._starts[rows].tolist(), self._sizes[rows].tolist(), strict=True
            )
        ]


def last_known_ms(files: Sequence[Path], spec: FeatureSpec, label: str) -> int:
    """Returns when the last label of some examples is final, UTC ms."""
    name = _KNOWN[label]
    decoder = Decoder(spec, [spec[name]])
    return max(int(decoder.decode(records)[name].max()) for records in _batches(files))


def _batches(files: Sequence[Path]) -> Iterator[list[bytes]]:
    for file in files:
        records = read_records(file)
        while batch := list(islice(records, _BATCH)):
            yield batch


def _write(files: Sequence[Path], spec: FeatureSpec, directory: Path) -> None:
    decoder = Decoder(spec, [spec[name] for name in _COLUMNS])
    user = next((f for f in spec.features if f.name == "user_id"), None)
    parts: list[dict[str, Any]] = []
    with (directory / _RECORDS).open("wb") as out:
        for batch in _batches(files):
            part = {n: np.asarray(v, np.int64) for n, v in decoder.decode(batch).items()}
            part["sizes"] = np.array([len(record) for record in batch], np.int64)
            if user is not None:
                ids = parse_examples(tf.constant(batch), [user])["user_id"]
                part["users"] = (ids if user.dtype == "int64" else hash_ids(ids, 2**62)).numpy()
            parts.append(part)
            out.writelines(batch)
    if not parts:
        raise DataError("there are no clicks to make a stream of")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns["starts"] = np.cumsum(columns["sizes"]) - columns["sizes"]
    columns.setdefault("users", np.arange(len(columns["sizes"])))
    order = np.argsort(columns["click_time_ms"], kind="stable")
    for name, values in columns.items():
        np.save(directory / f"{name}.npy", values[order], allow_pickle=False)
    write_manifest(
        directory, {"kind": KIND, "rows": len(order), "bytes": int(columns["sizes"].sum())}
    )
