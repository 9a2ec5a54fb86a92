"""A search that is killed anywhere and taken up again ends as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from kernelsearch.engine import Ended, Engine
from kernelsearch.llm.client import LlmClient
from kernelsearch.search.journal import Event
from kernelsearch.search.state import State
from kernelsearch.store.sqlite import SqliteStore

from .simulated import KeepingPublisher, SimulatedEvaluator, inputs


class Killed(BaseException):
    """What SIGKILL is to the code that runs: no handler sees it."""


class MortalStore(SqliteStore):
    """Kills its engine at one append, before or after the events are on the disk."""

    appends = 0
    kill_at: int | None = None
    after_writing = False

    async def append(self, uid: str, epoch: int, events: Sequence[Event]) -> int:
        self.appends += 1
        if self.appends != self.kill_at:
            return await super().append(uid, epoch, events)
        if self.after_writing:
            await super().append(uid, epoch, events)
        raise Killed


async def run(store: SqliteStore, evaluator: SimulatedEvaluator, client: LlmClient) -> Ended:
    engine = Engine(inputs(), store=store, evaluator=evaluator, client=client, publisher=KeepingPublisher())
    return await engine.run()


def outcome(state: State) -> dict[str, object]:
    """What must not depend on a crash: who was proposed, what of it was measured, who won."""
    return {
        "candidates": {c.id: (c.source_ref, c.score, c.verified, c.finished) for c in state.candidates.values()},
        "evaluations": state.ledger.evaluations,
        "confirmations": state.ledger.confirmations,
        "winners": {target: candidate.id for target, candidate in state.winners.items()},
        "stopped": state.stopped and state.stopped.reason,
    }


@pytest.mark.parametrize("after_writing", [False, True], ids=["before-writing", "after-writing"])
async def test_killed_at_any_append_the_next_engine_finishes_the_same_search(
    tmp_path: Path, client: LlmClient, after_writing: bool
) -> None:
    store = await MortalStore.open(tmp_path / "whole.db")
    expected = outcome((await run(store, SimulatedEvaluator(), client)).state)
    await store.close()
    for kill_at in range(1, store.appends + 1):
        store, evaluator = await MortalStore.open(tmp_path / f"{kill_at}.db"), SimulatedEvaluator()
        store.kill_at, store.after_writing = kill_at, after_writing
        with pytest.raises(Killed):
            await run(store, evaluator, client)
        assert outcome((await run(store, evaluator, client)).state) == expected, f"killed at append {kill_at}"
        assert len(evaluator.runs) == len(set(evaluator.runs)), "a batch that had run was run again"
        await store.close()


async def test_cancelled_while_it_waits_it_leaves_no_task_behind(store: SqliteStore, client: LlmClient) -> None:
    evaluator, begun = SimulatedEvaluator(), asyncio.Event()

    async def hold(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    evaluator.before = hold
    task = asyncio.create_task(run(store, evaluator, client))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each for each in asyncio.all_tasks() if each.get_name().startswith("batch")] == []
