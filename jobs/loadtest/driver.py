"""Making the calls of a load test and recording when each was due, sent and answered.

In an open loop calls are made when they are due, however many are under way, as users do who do not
wait for each other; latency counts from that time. In a closed loop each client waits for its
answer before it calls again: a server that stalls is then asked less just while it stalls, and
hardly a call sees it ("coordinated omission", Gil Tene). That is what a batch job sees.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

Call = Callable[[int], Awaitable[str]]
"""Makes the call of a number and returns the name of its code, `OK` when it was answered."""

_LEAD_SECONDS = 0.05  # until the first call is due, so that it is not late already


@dataclass(frozen=True)
class Calls:
    """What became of each call; times are seconds from the start.

    Attributes:
        due: When it was to be sent, float64 [calls].
        sent: When it was sent, float64 [calls].
        ended: When it was answered or failed, float64 [calls].
        codes: How it ended, str [calls].
    """

    due: np.ndarray
    sent: np.ndarray
    ended: np.ndarray
    codes: np.ndarray


async def open_loop(call: Call, due: np.ndarray) -> Calls:
    """Makes a call whenever one is due and waits for the last answer.

    Args:
        call: Makes a call; bounded by a deadline of its own.
        due: Ascending seconds from the start, float64 [calls].
    """
    loop = asyncio.get_running_loop()
    sent, ended = np.zeros(len(due)), np.zeros(len(due))
    codes = [""] * len(due)
    start = time.monotonic() + _LEAD_SECONDS
    stopped = threading.Event()

    async def make(number: int) -> None:
        sent[number] = time.monotonic() - start
        codes[number] = await call(number)
        ended[number] = time.monotonic() - start

    def begin(number: int) -> None:
        group.create_task(make(number))

    def dispatch() -> None:
        # A thread of its own, because timers of the event loop are up to a millisecond late.
        for number, seconds in enumerate(due.tolist()):
            if stopped.wait(max(start + seconds - time.monotonic(), 0)):
                return
            loop.call_soon_threadsafe(begin, number)

    async with asyncio.TaskGroup() as group:
        try:
            await asyncio.to_thread(dispatch)
        finally:
            stopped.set()
    return Calls(due, sent, ended, np.array(codes))


async def closed_loop(call: Call, clients: int, seconds: float) -> Calls:
    """Lets clients call one after the other; a call is due when its client is free.

    Args:
        call: Makes a call.
        clients: How many clients there are.
        seconds: Time after which no call is begun.
    """
    numbers = itertools.count()
    sent: dict[int, float] = {}
    ended: dict[int, tuple[float, str]] = {}
    start = time.monotonic()

    async def client() -> None:
        while (now := time.monotonic() - start) < seconds:
            number = next(numbers)
            sent[number] = now
            code = await call(number)
            ended[number] = (time.monotonic() - start, code)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    made = range(len(sent))
    due = np.array([sent[number] for number in made])
    ends = np.array([ended[number][0] for number in made])
    return Calls(due, due, ends, np.array([ended[number][1] for number in made]))
