"""A directory of examples and its split: shards are checked against the manifest."""

import shutil

import pytest

from cmdcm.core.errors import DataError
from cmdcm.features.dataset import ExampleSet


@pytest.fixture
def data(small_world, tmp_path):
    shutil.copytree(small_world.examples, tmp_path / "examples")
    return ExampleSet.open(tmp_path / "examples", small_world.config.split)


def test_files_of_a_part_are_those_of_its_days(data):
    for part in ("train", "validation", "test"):
        days = getattr(data.split, part)
        assert {file.parent.name for file in data.files(part)} == set(days)


def test_a_shard_of_another_size_is_named(data, caplog):
    shard = data.files("train")[1]
    name = shard.relative_to(data.directory).as_posix()
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[: size - 5])
    message = f"{name}: {size - 5}, the manifest says {size}"
    with pytest.raises(DataError, match=message):
        data.files("train")
    assert shard in data.files("train", on_corrupt="skip")
    assert message in caplog.text
    assert data.files("test"), "other parts can be used"


def test_a_missing_and_an_unknown_shard_are_named(data):
    first, second = data.files("train")[:2]
    size = first.stat().st_size
    first.unlink()
    shutil.copy(second, second.with_name("part-99999.tfrecord"))
    with pytest.raises(DataError) as caught:
        data.files("train")
    assert f"{first.name}: missing, the manifest says {size}" in str(caught.value)
    unknown = f"part-99999.tfrecord: {second.stat().st_size}, the manifest says nothing"
    assert unknown in str(caught.value)
    assert first not in data.files("train", on_corrupt="skip")
