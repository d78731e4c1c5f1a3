"""One measurement of a server: traffic, driver and statistics put together."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from absl import logging

from cmdcm.core.errors import ConfigError
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.loadtest.arrivals import Arrivals, arrival_times
from cmdcm.jobs.loadtest.cpu import CpuMeter
from cmdcm.jobs.loadtest.driver import Call, Calls, closed_loop, open_loop
from cmdcm.jobs.loadtest.statistics import OK, Summary, summarize
from cmdcm.jobs.loadtest.traffic import Traffic
from cmdcm.serving.channels import ClientTls
from cmdcm.serving.client import AsyncScoringClient
from cmdcm.serving.status import StatusError


@dataclass(frozen=True)
class Measured:
    """What is measured.

    Attributes:
        target: HOST:PORT of the server, or any gRPC target.
        model_name: Name of the served model.
        spec: The model's features.
        label: Version label to ask for; empty for the newest version.
        deadline_ms: Deadline of every call.
        max_message_mb: Largest request and answer.
        sizes: Candidate counts to which requests are padded.
        tls: None for plain text.
        server_pid: The server's process on this machine, to measure its CPU; or None.
        warmup: Seconds at the front of a measurement that are left out.
        seconds: Length of a measurement with its warm-up.
        arrivals: When calls of an open loop are due.
        seed: Seed of the arrivals.
    """

    target: str
    model_name: str
    spec: FeatureSpec
    label: str = ""
    deadline_ms: int = 1000
    max_message_mb: int = 64
    sizes: tuple[int, ...] = (1, 10, 100, 500)
    tls: ClientTls | None = field(default=None, repr=False)
    server_pid: int | None = None
    warmup: float = 2.0
    seconds: float = 12.0
    arrivals: Arrivals = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.seconds:
            raise ConfigError(
                f"a warm-up of {self.warmup:g} s leaves nothing of a test of {self.seconds:g} s; "
                "raise --seconds or lower --warmup"
            )


def measure_open_loop(measured: Measured, traffic: Traffic, signature: str, rate: float) -> Summary:
    """Makes `rate` calls a second, whenever they are due.

    Raises:
        ServingError: The first call, made before the test, failed.
    """
    logging.info("%s: %.4g calls a second for %g s", signature, rate, measured.seconds)
    due = arrival_times(measured.arrivals, rate, measured.seconds, measured.seed)
    return _measure(measured, traffic, signature, lambda call: open_loop(call, due))


def measure_closed_loop(
    measured: Measured, traffic: Traffic, signature: str, clients: int
) -> Summary:
    """Lets `clients` call one after the other.

    Raises:
        ServingError: The first call, made before the test, failed.
    """
    logging.info("%s: %d clients for %g s", signature, clients, measured.seconds)
    return _measure(
        measured, traffic, signature, lambda call: closed_loop(call, clients, measured.seconds)
    )


def _measure(
    measured: Measured, traffic: Traffic, signature: str, drive: Callable[[Call], Awaitable[Calls]]
) -> Summary:
    async def run() -> Summary:
        async with AsyncScoringClient(
            measured.target,
            measured.model_name,
            measured.spec,
            deadline_ms=measured.deadline_ms,
            max_message_mb=measured.max_message_mb,
            sizes=measured.sizes,
            label=measured.label,
            tls=measured.tls,
        ) as client:

            async def call(number: int) -> str:
                user, candidates = traffic.request(number)
                try:
                    await client.score_candidates(user, candidates, signature)
                except StatusError as error:
                    return error.code.name
                return OK

            # A wrong target, model or request is one error, and not a test full of them.
            await client.score_candidates(*traffic.request(0), signature)
            meter = CpuMeter(measured.server_pid)
            asyncio.get_running_loop().call_later(measured.warmup, meter.start)
            calls = await drive(call)
            return summarize(
                calls,
                traffic.sizes(len(calls.due)),
                warmup=measured.warmup,
                seconds=measured.seconds,
                client_cpu=meter.client(),
                server_cpu=meter.server(),
            )

    return asyncio.run(run())
