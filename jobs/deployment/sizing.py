"""How many servers a peak needs, from the CPU time of a request.

    servers = ceil(peak x cpu / (cpus x utilisation)) + 1

with the peak in requests a second and the CPU time in seconds. The utilisation leaves room for what
queues at random and for a version that loads; the one more is for a server that is lost or drained.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from cmdcm.core.config import ServerGroupConfig
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_json

_VERSIONS = 3  # stable, previous and a canary that loads


@dataclass(frozen=True)
class Sizing:
    """What a group needs at its peak.

    Attributes:
        busy_cpus: CPUs that are busy with requests.
        servers: Servers that keep them at the wanted utilisation, and one more.
    """

    busy_cpus: float
    servers: int


def sizing(
    peak_requests_per_second: float, cpu_ms_per_request: float, cpus: int, utilisation: float
) -> Sizing:
    """Returns what a peak needs.

    Args:
        peak_requests_per_second: Requests a second in the busiest minute.
        cpu_ms_per_request: CPU time of a request, of the server's process.
        cpus: CPUs of a server.
        utilisation: Share of them that may be busy.

    Example:
        2,000 requests a second of 10.7 ms keep 21.4 CPUs busy; servers of 4 CPUs at 60 % take 2.4
        each:

        >>> sizing(2000, 10.7, cpus=4, utilisation=0.6)
        Sizing(busy_cpus=21.4, servers=10)
    """
    busy = peak_requests_per_second * cpu_ms_per_request / 1000
    # Rounded first, so that 2.4 / 2.4 is one server and not two.
    return Sizing(busy, math.ceil(round(busy / (cpus * utilisation), 9)) + 1)


def memory_advice(name: str, settings: ServerGroupConfig, version: Path) -> list[str]:
    """Returns a line where the versions that a server holds at a time are larger than its memory.

    The variables take as much memory as they take on disk; code and requests come on top. Of
    `assets.extra` a server keeps nothing.

    Args:
        name: Name of the group.
        settings: Its settings.
        version: Folder of a version.
    """
    extra = version / "assets.extra"
    files = [p for p in version.rglob("*") if p.is_file() and not p.is_relative_to(extra)]
    size = sum(file.stat().st_size for file in files) / (1 << 20)
    if _VERSIONS * size <= settings.memory_mib:
        return []
    return [
        f"{name}: while a canary loads, {_VERSIONS} versions of {size:.0f} MiB need more than "
        f"deploy.{name}.memory_mib = {settings.memory_mib}"
    ]


def measured_cpu_ms(path: Path, signature: str) -> float:
    """Returns the CPU time of a request from a `cmdcm loadtest`, of the server's process.

    Args:
        path: Its `loadtest.json`.
        signature: The signature that was called.

    Returns:
        Milliseconds; the largest of several measurements; 0 if there is none of that signature.

    Raises:
        DataError: The file is something else.
    """
    report = read_json(path, "load test")
    try:
        measured = [
            float(result["server_cpu_ms"])
            for result in report["results"]
            if result["signature"] == signature and result["server_cpu_ms"] is not None
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no loadtest.json of cmdcm loadtest: {error!r}") from error
    return max(measured, default=0.0)


def sizing_advice(
    name: str, settings: ServerGroupConfig, utilisation: float, cpu_ms: float
) -> list[str]:
    """Returns lines of advice for a group.

    Args:
        name: Name of the group.
        settings: Its settings.
        utilisation: Share of a server's CPUs that may be busy.
        cpu_ms: CPU time of a request; 0 if not known.
    """
    peak = settings.peak_requests_per_second
    if not (peak and cpu_ms):
        return [
            f"{name}: no sizing; set deploy.{name}.peak_requests_per_second, and pass --loadtest "
            f"or set deploy.{name}.cpu_ms_per_request"
        ]
    advice = sizing(peak, cpu_ms, settings.cpus, utilisation)
    lines = [
        f"{name}: {peak:g} requests/s x {cpu_ms:.3g} ms = {advice.busy_cpus:.3g} busy CPUs; with "
        f"{settings.cpus} CPUs at {utilisation:.0%}: {advice.servers} servers, one of them to spare"
    ]
    if advice.servers > settings.max_replicas:
        lines.append(
            f"{name}: deploy.{name}.max_replicas = {settings.max_replicas} is too few for the peak"
        )
    if advice.servers > settings.min_replicas:
        lines.append(
            f"{name}: autoscaling lags by minutes; set deploy.{name}.min_replicas = "
            f"{advice.servers} before a promotion starts"
        )
    return lines
