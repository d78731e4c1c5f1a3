"""How much memory this process can still get."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")

_V1 = "memory/memory."
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (f"{_V1}limit_in_bytes", f"{_V1}usage_in_bytes", f"{_V1}stat", "total_inactive_file"),
)
"""Limit, use and statistics of a container, and of what use there are files that can go."""


def free_memory(cgroup: Path = CGROUP) -> int:
    """Returns the bytes of main memory that can be had: the host's, or less in a container.

    Args:
        cgroup: Where the kernel shows a container's limit, of cgroup v2 or v1.
    """
    free = int(psutil.virtual_memory().available)
    for limit, used, statistics, files in _FILES:
        try:
            most, taken = (int((cgroup / name).read_text()) for name in (limit, used))
            held = dict(line.split() for line in (cgroup / statistics).read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
        free = min(free, most - taken + int(held.get(files, 0)))
    return max(free, 0)
