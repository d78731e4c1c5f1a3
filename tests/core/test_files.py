"""Staged outputs and manifests: all or nothing, and every changed byte is noticed."""

import errno
import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.errors import DataError, OutputError, PreemptedError
from cmdcm.core.files import (
    read_json,
    read_manifest,
    sha256,
    staged_directory,
    staged_file,
    verify_manifest,
    write_json,
    write_manifest,
)
from cmdcm.core.signals import ending_at_sigterm


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_the_disk() -> None:
    """Raises the real error of a full disk."""
    with open("/dev/full", "w") as stream:  # noqa: PTH123
        stream.write("x")


class TestStagedDirectory:
    def test_publishes_at_the_end_and_not_before(self, tmp_path):
        target = tmp_path / "new" / "out"
        with staged_directory(target) as staging:
            (staging / "sub").mkdir()
            (staging / "sub" / "a").write_text("1")
            assert not target.exists()
        assert (target / "sub" / "a").read_text() == "1"
        assert names(target.parent) == ["out"]

    @pytest.mark.parametrize("failure", [ValueError("ours"), KeyboardInterrupt()])
    def test_a_failure_leaves_nothing_behind(self, tmp_path, failure):
        with pytest.raises(type(failure)), staged_directory(tmp_path / "out") as staging:
            (staging / "half").write_text("1")
            raise failure
        assert names(tmp_path) == []

    def test_a_full_disk_is_named_and_leaves_nothing_behind(self, tmp_path):
        target = tmp_path / "out"
        with (
            pytest.raises(OutputError, match=rf"no space left while writing {target}"),
            staged_directory(target) as staging,
        ):
            (staging / "half").write_text("1")
            fill_the_disk()
        assert names(tmp_path) == []

    def test_refuses_to_replace_results_unless_told(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        (target / "old").write_text("precious")
        with pytest.raises(OutputError, match="not empty; pass --overwrite"):
            staged_directory(target).__enter__()
        assert (target / "old").read_text() == "precious"
        assert names(tmp_path) == ["out"]

    def test_an_empty_directory_is_no_obstacle(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        with staged_directory(target) as staging:
            (staging / "a").write_text("1")
        assert names(target) == ["a"]
        assert names(tmp_path) == ["out"]

    def test_overwrite_replaces_everything(self, tmp_path):
        target = tmp_path / "out"
        for name in ("old", "new"):
            with staged_directory(target, overwrite=True) as staging:
                (staging / name).write_text(name)
        assert names(target) == ["new"]
        assert names(tmp_path) == ["out"]

    def test_a_failed_overwrite_keeps_the_old_results(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        (target / "old").write_text("precious")
        with (
            pytest.raises(RuntimeError),
            staged_directory(target, overwrite=True) as staging,
        ):
            (staging / "new").write_text("1")
            raise RuntimeError
        assert names(target) == ["old"]
        assert names(tmp_path) == ["out"]

    def test_sigterm_between_the_renames_puts_the_old_results_back(self, tmp_path, monkeypatch):
        target = tmp_path / "out"
        target.mkdir()
        (target / "old").write_text("precious")
        rename = Path.rename

        def stop_after_the_first(self, other):
            renamed = rename(self, other)
            if self == target:
                signal.raise_signal(signal.SIGTERM)
            return renamed

        monkeypatch.setattr(Path, "rename", stop_after_the_first)
        with (
            pytest.raises(PreemptedError),
            ending_at_sigterm(),
            staged_directory(target, overwrite=True) as staging,
        ):
            (staging / "new").write_text("1")
        assert names(target) == ["old"]
        assert names(tmp_path) == ["out"]

    def test_a_failed_rename_puts_the_old_results_back(self, tmp_path, monkeypatch):
        target = tmp_path / "out"
        target.mkdir()
        (target / "old").write_text("precious")
        rename = Path.rename

        def fail_to_publish(self, other):
            if ".staging-" in self.name:
                raise OSError(errno.EIO, "Input/output error")
            return rename(self, other)

        monkeypatch.setattr(Path, "rename", fail_to_publish)
        with pytest.raises(OSError, match="Input/output"), staged_directory(target, overwrite=True):
            pass
        assert names(target) == ["old"]
        assert names(tmp_path) == ["out"]

    def test_a_link_to_a_directory_stays_a_link(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "old").write_text("1")
        (tmp_path / "link").symlink_to(tmp_path / "disk")
        with staged_directory(tmp_path / "link", overwrite=True) as staging:
            (staging / "new").write_text("1")
        assert (tmp_path / "link").is_symlink()
        assert names(tmp_path / "disk") == ["new"]
        assert names(tmp_path) == ["disk", "link"]

    def test_a_file_in_the_way_is_named(self, tmp_path):
        (tmp_path / "out").write_text("1")
        with pytest.raises(OutputError, match="a file of that name is in the way"):
            staged_directory(tmp_path / "out", overwrite=True).__enter__()
        with pytest.raises(OutputError, match=f"cannot write {tmp_path}/out/below"):
            staged_directory(tmp_path / "out" / "below").__enter__()

    def test_an_unwritable_place_is_named(self):
        with pytest.raises(OutputError, match="cannot write /sys/cmdcm: "):
            staged_directory(Path("/sys/cmdcm")).__enter__()

    def test_an_input_that_cannot_be_read_is_named_too(self, tmp_path):
        with (
            pytest.raises(OutputError, match=r"Is a directory: .*input"),
            staged_directory(tmp_path / "out"),
        ):
            (tmp_path / "input").mkdir()
            (tmp_path / "input").read_text()

    def test_leftovers_of_a_killed_run_do_not_disturb(self, tmp_path):
        leftover = tmp_path / f".out.staging-{os.getpid()}"
        leftover.mkdir()
        (leftover / "half").write_text("1")
        with staged_directory(tmp_path / "out") as staging:
            (staging / "a").write_text("1")
        assert names(tmp_path / "out") == ["a"]


class TestStagedFile:
    def test_replaces_the_old_file_at_the_end_and_not_before(self, tmp_path):
        target = tmp_path / "sub" / "a.json"
        for text in ("first", "second"):
            before = target.read_text() if target.exists() else None
            with staged_file(target) as staging:
                staging.write_text(text)
                assert (target.read_text() if target.exists() else None) == before
            assert target.read_text() == text
        assert names(target.parent) == ["a.json"]

    def test_a_failure_keeps_the_old_file(self, tmp_path):
        target = tmp_path / "a"
        target.write_text("precious")
        with pytest.raises(OutputError, match="no space left"), staged_file(target) as staging:
            staging.write_text("half")
            fill_the_disk()
        assert target.read_text() == "precious"
        assert names(tmp_path) == ["a"]

    def test_a_directory_in_the_way_is_named(self, tmp_path):
        (tmp_path / "a").mkdir()
        with (
            pytest.raises(OutputError, match=f"cannot write {tmp_path}/a"),
            staged_file(tmp_path / "a") as staging,
        ):
            staging.write_text("1")
        assert names(tmp_path) == ["a"]


class TestJson:
    def test_equal_values_give_equal_bytes(self, tmp_path):
        write_json(tmp_path / "a", {"b": 1, "a": [1.5, None]})
        write_json(tmp_path / "b", {"a": [1.5, None], "b": 1})
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert read_json(tmp_path / "a", "thing") == {"a": [1.5, None], "b": 1}

    def test_errors_name_what_and_where(self, tmp_path):
        path = tmp_path / "x.json"
        with pytest.raises(DataError, match=f"plan not found at {path}"):
            read_json(path, "plan")
        path.write_text("{")
        with pytest.raises(DataError, match=f"plan at {path} is not valid JSON: .*line 1"):
            read_json(path, "plan")
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(DataError, match="not valid JSON"):
            read_json(path, "plan")
        with pytest.raises(DataError, match=f"cannot read plan at {tmp_path}: Is a directory"):
            read_json(tmp_path, "plan")


@pytest.fixture
def artefact(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "sub" / "b.bin").write_bytes(bytes(range(256)))
    write_manifest(tmp_path, {"kind": "events", "rows": 3})
    return tmp_path


class TestManifest:
    def test_hashes_are_sha256(self, artefact):
        # The test vector of FIPS 180-2 for "abc".
        digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert sha256(artefact / "a.txt") == digest
        manifest = read_manifest(artefact, "events")
        assert manifest["rows"] == 3
        assert manifest["files"]["a.txt"] == {"bytes": 3, "sha256": digest}
        assert sorted(manifest["files"]) == ["a.txt", "sub/b.bin"]

    def test_an_untouched_artefact_is_verified(self, artefact):
        verify_manifest(artefact)

    def test_writing_it_again_gives_the_same_bytes(self, artefact):
        before = (artefact / "manifest.json").read_bytes()
        write_manifest(artefact, {"kind": "events", "rows": 3})
        assert (artefact / "manifest.json").read_bytes() == before

    def test_every_difference_is_named(self, artefact):
        (artefact / "a.txt").write_text("abd")
        (artefact / "sub" / "b.bin").unlink()
        (artefact / "sub" / "c").write_text("")
        with pytest.raises(DataError) as error:
            verify_manifest(artefact)
        assert "a.txt: SHA-256 differs" in str(error.value)
        assert "sub/b.bin: missing" in str(error.value)
        assert "sub/c: not in the manifest" in str(error.value)

    def test_of_many_differences_ten_are_named(self, artefact):
        for n in range(12):
            (artefact / f"extra-{n:02}").write_text("")
        with pytest.raises(DataError) as error:
            verify_manifest(artefact)
        assert str(error.value).count("not in the manifest") == 10

    def test_another_kind_of_artefact_is_refused(self, artefact):
        with pytest.raises(DataError, match="holds 'events', expected 'model'"):
            read_manifest(artefact, "model")

    @pytest.mark.parametrize("text", ["[]", "{}", '{"files": 3, "kind": "events"}'])
    def test_a_foreign_manifest_is_refused(self, artefact, text):
        (artefact / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=r"manifest.json lists no files"):
            read_manifest(artefact, "events")
        with pytest.raises(DataError, match=r"manifest.json lists no files"):
            verify_manifest(artefact)

    @pytest.mark.parametrize("entry", [None, 3, "a", {}, {"sha256": None}])
    def test_a_file_without_a_hash_is_not_verified(self, artefact, entry):
        manifest = json.loads((artefact / "manifest.json").read_text())
        manifest["files"]["a.txt"] = entry
        (artefact / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=r"a\.txt: SHA-256 differs"):
            verify_manifest(artefact)

    def test_a_missing_manifest_is_named(self, tmp_path):
        with pytest.raises(DataError, match=f"manifest of the events not found at {tmp_path}"):
            read_manifest(tmp_path, "events")

    @given(st.binary(min_size=1, max_size=50), st.data())
    def test_any_flipped_bit_is_noticed(self, content, data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x")
            path.write_bytes(content)
            write_manifest(Path(folder), {})
            verify_manifest(Path(folder))
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(DataError, match="x: SHA-256 differs"):
                verify_manifest(Path(folder))
