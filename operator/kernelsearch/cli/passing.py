"""A judge on this machine for one command that keeps no state: nothing of it is left when the command ends.

A search leaves its judge running so that the next `kernelsearch run` may adopt it. Here nobody would come back for it,
so however the command ends, by Ctrl-C too, its process tree and its folder go first. Only compiled baselines stay,
because compiling them takes longer than anything else. Neighbours: check.py, evaluate.py, baselines.py.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from kernelsearch.cli.baselines import cache_folder, make_room
from kernelsearch.cli.exits import CommandError, Exit
from kernelsearch.evaluate.local import LocalEvaluator

_T = TypeVar("_T")


@asynccontextmanager
async def passing_evaluator() -> AsyncIterator[LocalEvaluator]:
    """Raise CommandError when the cache folder cannot be made."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            Exit.UNUSABLE, f"{cache} cannot be made: {error.strerror}; set XDG_CACHE_HOME to a folder of yours"
        ) from error
    await asyncio.to_thread(make_room, cache)
    with tempfile.TemporaryDirectory(prefix="kernelsearch-") as folder:
        evaluator = LocalEvaluator(Path(folder), cache=cache)
        try:
            yield evaluator
        finally:
            await evaluator.cancel("")


def run_until_told(main: Coroutine[Any, Any, _T]) -> _T:
    """Run; the first Ctrl-C (or SIGTERM, or a closed terminal) cancels it, and further ones do not disturb its end.

    Raise CommandError when it was told to stop.
    """
    told = False

    async def listening() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop() -> None:
            nonlocal told
            if not told:
                told = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, say
                loop.add_signal_handler(number, stop)
        return await main

    try:
        return asyncio.run(listening())
    except asyncio.CancelledError as error:
        if not told:
            raise
        raise CommandError(Exit.INTERRUPTED, "interrupted; nothing of it is left running") from error
