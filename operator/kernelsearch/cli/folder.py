"""The folder of one local search, out/<name>/: journal.db, batches/, cache/, bundle/, report.html."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kernelsearch.evaluate.local import LocalEvaluator
from kernelsearch.store.sqlite import SqliteStore


@dataclass(frozen=True)
class SearchFolder:
    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def batches(self) -> Path:
        return self.path / "batches"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SqliteStore]:
        """The journal, locked for this process. Raise StoreError when another process has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        store = await SqliteStore.open(self.journal)
        try:
            yield store
        finally:
            await store.close()

    def evaluator(self) -> LocalEvaluator:
        return LocalEvaluator(self.batches.resolve(), cache=self.cache.resolve())

    async def start_over(self) -> None:
        """Remove everything of an earlier search here, and end its judge. Raise StoreError when it still runs."""
        async with self.open():
            await self.evaluator().cancel("")
            for folder in (self.batches, self.bundle, self.cache):
                shutil.rmtree(folder, ignore_errors=True)
            self.report.unlink(missing_ok=True)
        for file in self.path.glob("journal.db*"):
            file.unlink()


async def uid_of(store: SqliteStore) -> str:
    """The search of this folder: the one in its journal, else a new one."""
    known = await store.searches()
    return known[0] if known else str(uuid.uuid4())
