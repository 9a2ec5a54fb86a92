"""Append batches of events until killed; print the length of the journal after each append that returned."""

import asyncio
import sys
from pathlib import Path

from kernelsearch.search.journal import Resumed
from kernelsearch.store.sqlite import SqliteStore


async def main(path: Path, batch: int) -> None:
    store = await SqliteStore.open(path)
    epoch = await store.begin("killed")
    count = len(await store.read("killed"))
    while True:
        count = await store.append("killed", epoch, [Resumed(at_ns=count + n, epoch=epoch) for n in range(batch)])
        print(count, flush=True)


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
