"""Version swaps, canary moves and reloads under traffic: no failed request, and the p99 meanwhile.

Calls are due at times fixed before (open loop), half of them for the label `stable` and half
without a label. A swap is four reloads: the other version is loaded beside the stable one, gets the
label `canary`, becomes `stable`, and the one before is unloaded. Steady traffic is measured before
and after. Failures are counted by the server, before any retry of the client, and by the client.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)

from cmdcm.benchmarks.harness import Target, report
from cmdcm.benchmarks.served_model import NAME, SIZES, VERSIONS, served_model, served_spec, traffic
from cmdcm.benchmarks.server_process import ServerProcess, server_process
from cmdcm.jobs.loadtest.arrivals import arrival_times
from cmdcm.jobs.loadtest.driver import Call, open_loop
from cmdcm.jobs.loadtest.statistics import OK, percentile
from cmdcm.serving.client import AsyncScoringClient
from cmdcm.serving.metrics import PROMETHEUS_PATH
from cmdcm.serving.status import StatusError

SWAPS = 200
SEGMENT_SECONDS = 10.0
WAIT_SECONDS = 60.0

_COUNTED = re.compile(r':tensorflow:serving:request_count\{.*status="(\w+)"\} ([\d.e+]+)')


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=SWAPS)
    parser.add_argument("--size", type=int, default=500, help="candidates of a request")
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="steady traffic on each side")
    args = parser.parse_args(arguments)
    base = served_model()
    with tempfile.TemporaryDirectory() as folder:
        config, monitoring = Path(folder, "models.config"), Path(folder, "monitoring.config")
        config.write_text(str(_reload(base, VERSIONS[:1], {}).config), encoding="utf-8")
        monitoring.write_text("prometheus_config { enable: true }", encoding="utf-8")
        flags = [f"--model_config_file={config}", f"--monitoring_config_file={monitoring}"]
        with server_process(Path(folder, "log"), *flags, "--rest_api_port=0") as server:
            steady, during, codes, seconds = asyncio.run(_run(server, base, args))
            counted = _counted(server)
    p99, p99_steady = percentile(during, 99), percentile(steady, 99)
    figures = {
        "swaps": args.swaps,
        "reloads": 4 * args.swaps,
        "swap_seconds": seconds / args.swaps,
        "calls_during": len(during),
        "calls_steady": len(steady),
        "p50_steady_ms": percentile(steady, 50),
        "p50_during_ms": percentile(during, 50),
        "p99_steady_ms": p99_steady,
        "p99_during_ms": p99,
        "max_during_ms": percentile(during, 100),
        "answers": dict(codes),
    }
    targets = {
        "failed_calls": Target(codes.total() - codes[OK], at_most=0),
        "failed_requests_of_the_server": Target(counted.total() - counted[OK], at_most=0),
        "p99_during_over_steady": Target(p99 / p99_steady, at_most=2),
    }
    return report("swap", figures, targets)


async def _run(
    server: ServerProcess, base: Path, args: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, Counter[str], float]:
    """Returns the milliseconds of steady calls and of those during swaps, codes and seconds."""
    requests, spec = traffic(base, args.size), served_spec(base)
    settings: dict[str, Any] = {"deadline_ms": 10_000, "sizes": SIZES}
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(server.target) as channel:
        swapper = _Swapper(model_service_pb2_grpc.ModelServiceStub(channel), base)
        swapper.reload(VERSIONS[:1], {"stable": VERSIONS[0]})
        async with (
            AsyncScoringClient(server.target, NAME, spec, **settings) as newest,
            AsyncScoringClient(server.target, NAME, spec, label="stable", **settings) as stable,
        ):
            clients = (newest, stable)

            async def call(number: int) -> str:
                try:
                    await clients[number % 2].score_candidates(*requests.request(number))
                except StatusError as error:
                    return error.code.name
                return OK

            async def send(seconds: float, seed: int) -> np.ndarray:
                return await _send(call, args.rate, seconds, seed, codes)

            await send(SEGMENT_SECONDS / 2, 0)  # warm-up
            codes.clear()
            before = await send(args.seconds, 1)
            started = time.monotonic()
            swaps = asyncio.create_task(asyncio.to_thread(swapper.swap, args.swaps))
            during = [await send(SEGMENT_SECONDS, 2)]
            while not swaps.done():
                during.append(await send(SEGMENT_SECONDS, 2 + len(during)))
            seconds = await swaps - started
            after = await send(args.seconds, 1)
    return np.concatenate([before, after]), np.concatenate(during), codes, seconds


async def _send(
    call: Call, rate: float, seconds: float, seed: int, codes: Counter[str]
) -> np.ndarray:
    """Returns the milliseconds from due to answered, infinite for a failed call."""
    calls = await open_loop(call, arrival_times("poisson", rate, seconds, seed))
    codes.update(calls.codes.tolist())
    return np.where(calls.codes == OK, calls.ended - calls.due, np.inf) * 1e3


class _Swapper:
    """Moves the server between the two versions."""

    def __init__(self, stub: model_service_pb2_grpc.ModelServiceStub, base: Path):
        self._stub = stub
        self._base = base

    def swap(self, count: int) -> float:
        """Swaps so many times and returns the time at the end."""
        old, new = VERSIONS
        for _ in range(count):
            self.reload((old, new), {"stable": old})
            self._wait(new, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
            self.reload((old, new), {"stable": old, "canary": new})
            self.reload((old, new), {"stable": new})
            self.reload((new,), {"stable": new})
            self._wait(old, get_model_status_pb2.ModelVersionStatus.END)
            old, new = new, old
        return time.monotonic()

    def reload(self, versions: Sequence[int], labels: Mapping[str, int]) -> None:
        """Has the server serve versions under labels."""
        request = _reload(self._base, versions, labels)
        self._stub.HandleReloadConfigRequest(request, timeout=WAIT_SECONDS)

    def _wait(self, version: int, state: int) -> None:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = NAME
        deadline = time.monotonic() + WAIT_SECONDS
        answer = None
        while time.monotonic() < deadline:
            answer = self._stub.GetModelStatus(request, timeout=WAIT_SECONDS)
            if (version, state) in {(s.version, s.state) for s in answer.model_version_status}:
                return
            time.sleep(0.05)
        raise RuntimeError(f"version {version} does not reach state {state} but is\n{answer}")


def _reload(
    base: Path, versions: Sequence[int], labels: Mapping[str, int]
) -> model_management_pb2.ReloadConfigRequest:
    request = model_management_pb2.ReloadConfigRequest()
    entry = request.config.model_config_list.config.add(name=NAME, base_path=str(base))
    entry.model_platform = "tensorflow"
    entry.model_version_policy.specific.versions.extend(versions)
    for label, version in labels.items():
        entry.version_labels[label] = version
    return request


def _counted(server: ServerProcess) -> Counter[str]:
    """Returns the requests that the server counted, by status."""
    url = f"http://127.0.0.1:{server.rest_port}{PROMETHEUS_PATH}"
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as page:
        text = page.read().decode()
    found: Counter[str] = Counter()
    for status, count in _COUNTED.findall(text):
        found[status] += int(float(count))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
