"""Open and closed loop against a server that stalls."""

import asyncio
import time

import numpy as np

from cmdcm.jobs.loadtest.arrivals import arrival_times
from cmdcm.jobs.loadtest.driver import closed_loop, open_loop
from cmdcm.jobs.loadtest.statistics import summarize

STALL = 1.0


class StallingServer:
    """Answers one call after the other, at once but for one second in which it does nothing."""

    def __init__(self, stalls_at: int):
        self.stalls_at = stalls_at
        self._turn = asyncio.Lock()
        self._answered = 0

    async def call(self, number: int) -> str:
        async with self._turn:
            self._answered += 1
            if self._answered == self.stalls_at:
                await asyncio.sleep(STALL)
        return "OK"


def summary_of(calls):
    return summarize(calls, np.ones(len(calls.due), int), warmup=0.0, seconds=2.0)


def test_an_open_loop_sees_the_whole_stall():
    due = arrival_times("constant", rate=100.0, seconds=2.0, seed=0)

    async def run():
        return await open_loop(StallingServer(stalls_at=20).call, due)

    calls = asyncio.run(run())
    assert (calls.codes == "OK").all()
    assert (calls.sent >= calls.due).all() and (calls.ended >= calls.sent).all()
    found = summary_of(calls).latency
    # About half of the 200 calls are due in the second in which nothing is answered, and wait for
    # what is left of it: a tenth of all for more than 0.8 s.
    assert found.calls == 200
    assert found.percentiles[90.0] > 500
    assert found.percentiles[99.0] > 900


def test_a_closed_loop_hides_it():
    async def run():
        server = StallingServer(stalls_at=20)

        async def call(number: int) -> str:
            await asyncio.sleep(0.005)
            return await server.call(number)

        return await closed_loop(call, clients=1, seconds=2.0)

    found = summary_of(asyncio.run(run())).latency
    assert found.percentiles[100.0] >= 1000 * STALL
    assert found.percentiles[90.0] < 500


def test_calls_that_the_client_itself_sends_late_count_from_when_they_were_due():
    due = arrival_times("constant", rate=100.0, seconds=0.5, seed=0)

    async def call(number: int) -> str:
        if number == 0:
            time.sleep(0.6)  # the event loop stands still
        return "OK"

    async def run():
        return await open_loop(call, due)

    calls = asyncio.run(run())
    waited = calls.ended - calls.due
    # A call due at t is sent at 0.6 s or later.
    assert (waited[1:] >= 0.6 - due[1:] - 0.01).all()
    assert summary_of(calls).send_delay_ms >= 500


def test_calls_of_an_open_loop_do_not_wait_for_each_other():
    async def run():
        together = asyncio.Barrier(5)

        async def call(number: int) -> str:
            await together.wait()
            return "OK"

        return await asyncio.wait_for(open_loop(call, np.arange(5) / 100), 20)

    assert len(asyncio.run(run()).codes) == 5


def test_clients_of_a_closed_loop_have_one_call_under_way_each():
    under_way, most = 0, 0

    async def call(number: int) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return "OK" if number % 2 else "UNAVAILABLE"

    calls = asyncio.run(closed_loop(call, clients=3, seconds=0.2))
    assert most == 3
    assert calls.codes[:4].tolist() == ["UNAVAILABLE", "OK", "UNAVAILABLE", "OK"]
    assert (calls.due == calls.sent).all() and (calls.due < 0.2).all()
