"""Free memory: the host's, or what a container's limit leaves of it."""

import psutil
import pytest

from cmdcm.core.memory import free_memory


@pytest.mark.parametrize(
    ("prefix", "limit", "used", "files"),
    [
        ("memory.", "max", "current", "inactive_file"),
        ("memory/memory.", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_containers_limit_counts_and_its_cached_files_do_not(
    tmp_path, prefix, limit, used, files
):
    (tmp_path / "memory").mkdir()
    (tmp_path / f"{prefix}{limit}").write_text("1000000\n")
    (tmp_path / f"{prefix}{used}").write_text("600000\n")
    (tmp_path / f"{prefix}stat").write_text(f"anon 400000\n{files} 150000\n")
    assert free_memory(tmp_path) == 550_000
    (tmp_path / f"{prefix}{used}").write_text("1200000\n")
    assert free_memory(tmp_path) == 0


@pytest.mark.parametrize(
    ("line", "group", "names"),
    [
        ("0::/system.slice/cmdcm.service", "system.slice/cmdcm.service", ("max", "current")),
        ("0::/system.slice/cmdcm.service", "system.slice", ("max", "current")),
        ("7:memory:/cmdcm", "memory/cmdcm", ("limit_in_bytes", "usage_in_bytes")),
        ("0::/../../outside", "", ("max", "current")),
    ],
)
def test_the_limit_of_a_service_or_of_its_slice_counts(tmp_path, line, group, names):
    own, folder = tmp_path / "own", tmp_path / "cgroup" / group
    own.write_text(f"3:cpu,cpuacct:/cmdcm\n{line}\n")
    folder.mkdir(parents=True)
    for name, text in zip(names, ("1000000\n", "600000\n"), strict=True):
        (folder / f"memory.{name}").write_text(text)
    (folder / "memory.stat").write_text("anon 600000\n")
    assert free_memory(tmp_path / "cgroup", own) == 400_000


def test_without_a_limit_it_is_the_hosts(tmp_path):
    host = psutil.virtual_memory().total
    assert 0 < free_memory(tmp_path) <= host
    for name, text in (("max", "max\n"), ("current", "5\n"), ("stat", "anon 5\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert 0 < free_memory(tmp_path) <= host
