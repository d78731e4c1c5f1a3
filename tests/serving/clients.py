"""Both scoring clients behind one set of calls, so that one test covers both."""

import asyncio
from typing import Any

from cmdcm.serving.client import AsyncScoringClient


class Awaited:
    """The asyncio client on an event loop of its own, whose calls block."""

    def __init__(self, *args: Any, **settings: Any):
        self._runner = asyncio.Runner()

        async def make() -> AsyncScoringClient:
            return AsyncScoringClient(*args, **settings)

        self._client = self._runner.run(make())

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not callable(value):
            return value
        return lambda *args, **named: self._runner.run(value(*args, **named))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __enter__(self) -> "Awaited":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
