"""The embedded server end to end: client, gRPC and model, by signature and number of candidates.

One client in a closed loop calls a server in a process of its own; latency is from the candidates
as arrays to their scores as arrays. `candidates` is `score_candidates` by the client; `examples` is
`serving_default` with requests of its encoder; `python` is `serving_default` as a plain Python
client calls it through the stubs, with one tf.train.Example built for each candidate.

The overhead of the server is that of a request that was built before over the call of the model in
this process, in turns. Its CPU is the server's alone. `make bench-export` has the model call
against the arithmetic limit.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from cmdcm.benchmarks.example_rows import python_example
from cmdcm.benchmarks.harness import Target, report
from cmdcm.benchmarks.served_model import NAME, SIZES, VERSIONS, served_model, served_spec, traffic
from cmdcm.benchmarks.server_process import ServerProcess, server_process
from cmdcm.export.warmup import WARMUP_FILE
from cmdcm.jobs.loadtest.cpu import CpuMeter
from cmdcm.jobs.loadtest.driver import closed_loop
from cmdcm.jobs.loadtest.statistics import OK, Summary, summarize
from cmdcm.jobs.prediction_logs import read_logs
from cmdcm.serving.client import ScoringClient
from cmdcm.serving.loading import load_servable
from cmdcm.serving.scoring import CANDIDATES_SIGNATURE, EXAMPLES_INPUT
from cmdcm.serving.servable import DEFAULT_SIGNATURE
from cmdcm.serving.tensors import from_protos

Send = Callable[[Mapping[str, Any], Mapping[str, Any]], object]

TARGET_SIZE = 500
TURNS = 10
INTRA_OP_THREADS = 1  # docs/deployment.md says why
_MAX_BYTES = 64 << 20


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement")
    parser.add_argument("--warmup", type=float, default=3.0, help="of these, left out at the front")
    parser.add_argument("--calls", type=int, default=50, help="calls in each turn of the overhead")
    args = parser.parse_args(arguments)
    base = served_model()
    figures: dict[str, Any] = {}
    found: dict[tuple[str, int], Summary] = {}
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--model_base_path={base}", f"--model_name={NAME}", "--rest_api_port=-1"]
        flags.append(f"--tensorflow_intra_op_parallelism={INTRA_OP_THREADS}")
        with server_process(Path(folder, "log"), *flags) as server:
            for size in SIZES:
                for way, summary in _measure(server, base, size, args.seconds, args.warmup).items():
                    found[way, size] = summary
                    figures |= _figures(f"{way}_{size}", summary)
            overhead = _overhead(server, base, args.calls)
    figures |= overhead
    calls = {way: found[way, TARGET_SIZE].answered for way in ("candidates", "examples", "python")}
    targets = {
        "times_python_500": Target(calls["candidates"] / calls["python"], at_least=3),
        "times_examples_500": Target(calls["candidates"] / calls["examples"], at_least=1.5),
        "candidates_500_p99_ms": Target(figures.pop("candidates_500_p99_ms"), at_most=10),
        "overhead_p50_ms": Target(figures.pop("overhead_p50_ms"), at_most=1),
        "overhead_cpu_ms": Target(figures.pop("overhead_cpu_ms"), at_most=1),
    }
    return report("serve", figures, targets)


def _figures(name: str, summary: Summary) -> dict[str, float]:
    assert summary.server_cpu_ms is not None
    return {
        f"{name}_per_second": summary.answered,
        f"{name}_p50_ms": summary.latency.percentiles[50.0],
        f"{name}_p99_ms": summary.latency.percentiles[99.0],
        f"{name}_client_cpu_ms": summary.client_cpu_ms,
        f"{name}_server_cpu_ms": summary.server_cpu_ms,
    }


def _measure(
    server: ServerProcess, base: Path, size: int, seconds: float, warmup: float
) -> dict[str, Summary]:
    """Returns what was measured for requests of `size` candidates, by way of sending them."""
    spec, requests = served_spec(base), traffic(base, size)
    with (
        ScoringClient(server.target, NAME, spec, deadline_ms=10_000, sizes=SIZES) as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        ways: dict[str, Send] = {
            "candidates": lambda user, rows: client.score_candidates(user, rows),
            "examples": lambda user, rows: client.score_candidates(user, rows, DEFAULT_SIGNATURE),
            "python": lambda user, rows: _send_python(stub, user, rows),
        }
        summaries = {}
        for way, send in ways.items():
            made = [requests.request(number) for number in range(32)]
            if way == "python":  # what a plain client starts from: dicts of Python's values
                made = [({}, {"rows": _python_rows(user, rows)}) for user, rows in made]
            summaries[way] = _closed_loop(send, made, server, size, seconds, warmup)
    return summaries


def _closed_loop(
    send: Send,
    made: list[tuple[Any, Any]],
    server: ServerProcess,
    size: int,
    seconds: float,
    warmup: float,
) -> Summary:
    meter = CpuMeter(server.process.pid)
    begun = time.monotonic()
    is_warm = False

    async def call(number: int) -> str:
        nonlocal is_warm
        if not is_warm and time.monotonic() - begun >= warmup:
            is_warm = True
            meter.start()
        send(*made[number % len(made)])  # blocks: the one client there is waits for its answer
        return OK

    calls = asyncio.run(closed_loop(call, 1, seconds))
    sizes = np.full(len(calls.due), size)
    return summarize(
        calls,
        sizes,
        warmup=warmup,
        seconds=seconds,
        client_cpu=meter.client(),
        server_cpu=meter.server(),
    )


def _python_rows(user: Mapping[str, Any], rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the candidates as dicts of Python's values, each with its user."""

    def plain(value: Any) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, list):
            return [plain(element) for element in value]
        return value.decode() if isinstance(value, bytes) else value

    shared = {name: plain(array[0]) for name, array in user.items()}
    count = len(next(iter(rows.values())))
    return [
        {**shared, **{name: plain(array[row]) for name, array in rows.items()}}
        for row in range(count)
    ]


def _send_python(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
    _: Mapping[str, Any],
    made: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    examples = [python_example(row) for row in made["rows"]]
    request.inputs[EXAMPLES_INPUT].CopyFrom(tf.make_tensor_proto(examples))
    answer = stub.Predict(request, timeout=10)
    return {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}


def _overhead(server: ServerProcess, base: Path, calls: int) -> dict[str, float]:
    """Returns what the server adds to the model call at `TARGET_SIZE` candidates."""
    version = max(VERSIONS)
    requests = [log.predict_log.request for log in read_logs([base / "1" / WARMUP_FILE])]
    request = next(
        request
        for request in requests
        if request.model_spec.signature_name == CANDIDATES_SIGNATURE
        and request.inputs["item_id"].tensor_shape.dim[0].size == TARGET_SIZE
    )
    arrays = from_protos(request.inputs, _MAX_BYTES)
    servable = load_servable(base / str(version), NAME, version, intra_op_threads=INTRA_OP_THREADS)
    times: dict[str, list[float]] = {"served": [], "in_process": []}
    cpu = {"served": 0.0, "in_process": 0.0}
    with grpc.insecure_channel(server.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        ways: dict[str, Callable[[], object]] = {
            "served": lambda: stub.Predict(request, timeout=10),
            "in_process": lambda: servable.predict(CANDIDATES_SIGNATURE, arrays),
        }
        for turn in range(TURNS + 1):
            for way, run in ways.items():
                meter = CpuMeter(server.process.pid)
                taken = [_seconds(run) for _ in range(calls)]
                if turn:  # the first one does not count
                    times[way] += taken
                    used = meter.server() if way == "served" else meter.client()
                    assert used is not None
                    cpu[way] += used
    servable.close()
    p50 = {way: 1e3 * statistics.median(taken) for way, taken in times.items()}
    each = {way: 1e3 * used / (TURNS * calls) for way, used in cpu.items()}
    return {
        "served_p50_ms": p50["served"],
        "in_process_p50_ms": p50["in_process"],
        "overhead_p50_ms": p50["served"] - p50["in_process"],
        "served_cpu_ms": each["served"],
        "in_process_cpu_ms": each["in_process"],
        "overhead_cpu_ms": each["served"] - each["in_process"],
    }


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
