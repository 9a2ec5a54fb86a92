"""How many requests are out at once, and how long an endpoint that asked for patience is left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class RequestGate:
    """At most `limit` requests at once, over all endpoints; a pause of an endpoint holds back every request to it."""

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._not_before: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def slot(self, endpoint: str) -> AsyncIterator[None]:
        """Wait for the end of the endpoint's pause and for a free slot; waiting for the former holds no slot."""
        now = asyncio.get_running_loop().time
        while True:
            while (seconds := self._not_before.get(endpoint, 0.0) - now()) > 0:
                await asyncio.sleep(seconds)
            async with self._slots:
                if self._not_before.get(endpoint, 0.0) <= now():
                    yield
                    return

    def pause(self, endpoint: str, seconds: float) -> None:
        """Leave the endpoint alone for that long from now; a longer pause that is already set stays."""
        until = asyncio.get_running_loop().time() + seconds
        self._not_before[endpoint] = max(until, self._not_before.get(endpoint, 0.0))
