"""Hostile requests to the embedded server: answered, not crashed, not hung, and memory stays.

Generated requests (tests/serving/hostile_requests.py) over gRPC and REST: damaged and random
protos, tensors, examples, model configs, JSON and HTTP, by seed; then clients that stall, flood,
leave and send 100 MB. A good request in between is answered right all the time. Memory counts
after a warm-up of a fifth of the requests; the growth of the second half of the others tells
whether it goes on.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from cmdcm.benchmarks.harness import Target, report
from cmdcm.benchmarks.server_process import server_process
from cmdcm.tests.serving.hostile_requests import HostileRequests, model_config
from cmdcm.tests.serving.hostile_run import DEADLINE_SECONDS, Attacker
from cmdcm.tests.serving.models import write_examples_model, write_tiny_model

REQUESTS = 100_000
GROWTH_MB = 64
SHOWN = 20


def main(arguments: list[str]) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="generated requests")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for version in (1, 2):
            write_tiny_model(base / "tiny" / str(version), version)
        write_examples_model(base / "examples" / "1", 1)
        config, reload = base / "models.config", model_config(base)
        config.write_text(str(reload.config), encoding="utf-8")
        flags = [f"--model_config_file={config}", "--rest_api_port=0"]
        with server_process(base / "log", *flags) as server:
            attacker = Attacker(
                server, HostileRequests(base, args.seed), reload.SerializeToString()
            )
            started = time.monotonic()
            outcome = attacker.run(args.requests, args.requests // 5)
            seconds = time.monotonic() - started
            if server.process.poll() is None:
                attacker.abuse()
            attacker.close()
            resident = server.resident_mb
    for fault in outcome.faults[:SHOWN]:
        print(fault)
    figures = {
        "requests": args.requests,
        "requests_per_second": args.requests / seconds,
        "good_requests": outcome.good,
        "resident_mb_at_the_end": resident,
        "memory_growth_of_the_second_half_mb": outcome.grown_late_mb,
        **{f"answers {code}": count for code, count in sorted(outcome.codes.items())},
    }
    targets = {
        "faults": Target(len(outcome.faults), at_most=0),
        "slowest_seconds": Target(outcome.slowest, at_most=DEADLINE_SECONDS),
        "memory_growth_mb": Target(outcome.grown_mb, at_most=GROWTH_MB),
    }
    return report("hostile", figures, targets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
