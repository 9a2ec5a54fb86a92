"""Which search should look again: set by the watch on our own kind, awaited by the search's runner."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

APPROVAL = "kernelsearch.dev/approved-digest"


class Wakeups:
    """One flag per search. Only what a person changed wakes: the spec's generation, an approval; never our status."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, ...]] = {}
        self._flags: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def saw(self, body: Mapping[str, Any]) -> None:
        """A watch event of a search."""
        metadata = body["metadata"]
        uid = str(metadata["uid"])
        mark = (metadata.get("generation"), (metadata.get("annotations") or {}).get(APPROVAL))
        if self._seen.setdefault(uid, mark) != mark:
            self._seen[uid] = mark
            self._flags[uid].set()

    def forget(self, uid: str) -> None:
        self._seen.pop(uid, None)
        self._flags.pop(uid, None)

    async def wait(self, uid: str, seconds: float | None) -> None:
        """Return when the search changed since the last time, or after `seconds`."""
        flag = self._flags[uid]
        try:
            async with asyncio.timeout(seconds):
                await flag.wait()
        except TimeoutError:
            return
        flag.clear()  # not when the wait was cancelled: a change at that moment is for the next one who waits
