"""What a store is: an append-only journal per search, and blobs by hash. Nothing else is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kernelsearch.search.journal import Event


class StoreError(RuntimeError):
    """The store cannot be used; the message says what to do."""


class EpochFenced(StoreError):
    """Another process took this search over: stop at once, write nothing more."""


class Store(Protocol):
    """Every method is called off the event loop or is itself async-safe; one writer per search (its epoch)."""

    async def begin(self, uid: str) -> int:
        """Take the search over: raise its epoch by one and return it. Earlier epochs are fenced from now on."""
        ...

    async def append(self, uid: str, epoch: int, events: Sequence[Event]) -> int:
        """Write all events in one transaction; return the number of events in the journal. Raise EpochFenced."""
        ...

    async def read(self, uid: str) -> list[Event]:
        """The whole journal in order; empty for an unknown uid."""
        ...

    async def searches(self) -> list[str]:
        """The uids that the store knows."""
        ...

    async def put_blob(self, content: bytes) -> str:
        """Keep the content and return its sha256 (hex). Idempotent."""
        ...

    async def get_blob(self, ref: str) -> bytes:
        """Raise KeyError for an unknown hash, StoreError when the content no longer has it."""
        ...

    async def delete(self, uid: str) -> None:
        """Forget a search's journal; blobs that no journal refers to go too. Idempotent."""
        ...

    async def close(self) -> None: ...
