"""Local paths and URLs, and uploads that become visible as a whole."""

import uuid
from pathlib import Path

import pytest
from upath import UPath

from cmdcm.core.errors import ConfigError, OutputError
from cmdcm.core.files import MANIFEST, read_manifest, upload, write_manifest
from cmdcm.core.locations import location


def directory(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    write_manifest(path, {"kind": "thing"})
    return path


@pytest.fixture
def remote() -> UPath:
    return UPath(f"memory://bucket/{uuid.uuid4()}/target")


def names(place: UPath) -> set[str]:
    return {
        path.as_posix().removeprefix(place.as_posix()).strip("/")
        for path in place.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("text", ["a/b", "/a/b", "file:///a/b"])
def test_paths_and_file_urls_are_paths(text):
    assert location(text) == Path(text.removeprefix("file://"))


@pytest.mark.parametrize("text", ["nosuchsystem://bucket/a", "s3://bucket/a"])
def test_a_file_system_that_is_not_there_is_a_configuration_error(text):
    pytest.importorskip("upath")
    if text.startswith("s3"):
        try:
            import s3fs  # type: ignore[import-not-found] # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed")
    with pytest.raises(ConfigError, match=text):
        location(text)


def test_an_upload_has_every_file(tmp_path, remote):
    upload(directory(tmp_path, "a", "2024-03-01/part-0"), remote, overwrite=False)
    assert names(remote) == {"a", "2024-03-01/part-0", MANIFEST}
    assert (remote / "2024-03-01" / "part-0").read_text() == "2024-03-01/part-0"
    assert read_manifest(remote, "thing")["files"].keys() == {"a", "2024-03-01/part-0"}


def test_an_upload_replaces_all_or_is_refused(tmp_path, remote):
    upload(directory(tmp_path / "old", "a", "b/c"), remote, overwrite=False)
    new = directory(tmp_path / "new", "a", "d")
    with pytest.raises(OutputError, match="--overwrite"):
        upload(new, remote, overwrite=False)
    assert names(remote) == {"a", "b/c", MANIFEST}
    upload(new, remote, overwrite=True)
    assert names(remote) == {"a", "d", MANIFEST}


def test_an_upload_that_breaks_off_leaves_no_manifest(tmp_path, remote, monkeypatch):
    upload(directory(tmp_path / "old", "a"), remote, overwrite=False)
    put = type(remote.fs).put_file

    def broken(self, source, target, *arguments, **named):
        if str(source).endswith("d"):
            raise OSError("connection lost")
        return put(self, source, target, *arguments, **named)

    monkeypatch.setattr(type(remote.fs), "put_file", broken)
    with pytest.raises(OutputError, match="connection lost"):
        upload(directory(tmp_path / "new", "a", "d"), remote, overwrite=True)
    assert MANIFEST not in names(remote)
