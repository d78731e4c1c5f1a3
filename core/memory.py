"""How much memory this process can still get."""

import itertools
from pathlib import Path, PurePosixPath

import psutil

CGROUP = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"),
)
"""Limit, use and statistics of a group, and of what use there are files that can go."""


def free_memory(cgroup: Path = CGROUP, own: Path = OWN) -> int:
    """Returns the bytes of main memory that can be had: the host's, or less under a limit.

    The limit is that of a container, or of a service of systemd.

    Args:
        cgroup: Where the kernel shows limits, of cgroup v2 or v1.
        own: Where it says which groups this process is in.
    """
    free = int(psutil.virtual_memory().available)
    for group, (limit, used, statistics, files) in itertools.product(_groups(cgroup, own), _FILES):
        try:
            most, taken = (int((group / name).read_text()) for name in (limit, used))
            held = dict(line.split() for line in (group / statistics).read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
        free = min(free, most - taken + int(held.get(files, 0)))
    return max(free, 0)


def _groups(cgroup: Path, own: Path) -> list[Path]:
    """Returns this process' groups and those around them, any of which may have a limit.

    In a container the outermost one that it sees is its own, whatever the name outside.
    """
    found = [cgroup, cgroup / "memory"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "memory"):  # of v2, of v1
            group = PurePosixPath(name.lstrip("/"))
            found += [cgroup / controllers / part for part in (group, *group.parents)]
    return list(dict.fromkeys(found))
