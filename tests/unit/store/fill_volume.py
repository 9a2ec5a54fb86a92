"""Fill a small volume with a store, then make room: print the error and the journal's lengths before, after, later."""

import asyncio
import os
import sys
from pathlib import Path

from kernelsearch.search.journal import LlmSettled
from kernelsearch.store.base import StoreError
from kernelsearch.store.sqlite import SqliteStore


def event(size: int) -> LlmSettled:
    return LlmSettled(
        at_ns=1, call_id="c", outcome="ok", input_tokens=0, output_tokens=0, cost_micros=0, message="x" * size
    )


async def main(folder: Path) -> None:
    ballast = folder / "ballast"
    ballast.write_bytes(os.urandom(200_000))
    store = await SqliteStore.open(folder / "journal.db")
    epoch = await store.begin("uid")
    count = 0
    while True:
        try:
            count = await store.append("uid", epoch, [event(20_000), event(20_000)])
        except StoreError as error:
            print(str(error).replace("\n", " "))
            break
    print(count)
    print(len(await store.read("uid")))
    ballast.unlink()
    print(await store.append("uid", epoch, [event(10)]))
    await store.close()


asyncio.run(main(Path(sys.argv[1])))
