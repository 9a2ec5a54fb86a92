"""A store in a fresh folder for each test, and an LLM client that nothing has to call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kernelsearch.llm.client import LlmClient
from kernelsearch.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "journal.db")
    yield store
    await store.close()


@pytest.fixture
async def client() -> AsyncIterator[LlmClient]:
    async with LlmClient(retries=0, backoff_seconds=0.01) as client:
        yield client
