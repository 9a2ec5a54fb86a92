"""When a finished search is deleted, and what wakes a running one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from kernelsearch.controller.sweeper import is_expired
from kernelsearch.controller.wakeups import Wakeups

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def a_search(ttl: int | None, completed: str | None, generation: int = 1) -> dict[str, Any]:
    conditions = [{"type": "Complete", "status": "True", "observedGeneration": 1}] if completed else []
    return {
        "metadata": {"generation": generation},
        "spec": {} if ttl is None else {"ttlSecondsAfterFinished": ttl},
        "status": {"conditions": conditions, **({"completionTime": completed} if completed else {})},
    }


@pytest.mark.parametrize(
    ("search", "expired"),
    [
        pytest.param(a_search(3600, "2030-01-01T22:59:59Z"), True, id="over"),
        pytest.param(a_search(3600, "2030-01-01T23:00:01Z"), False, id="not yet"),
        pytest.param(a_search(0, "2030-01-02T00:00:00Z"), True, id="zero: at once"),
        pytest.param(a_search(None, "2029-01-01T00:00:00Z"), False, id="kept for ever"),
        pytest.param(a_search(0, None), False, id="still running"),
        pytest.param(a_search(0, "2030-01-01T00:00:00Z", generation=2), False, id="its budget was raised"),
    ],
)
def test_a_search_is_deleted_when_its_time_after_the_end_is_over(search: dict[str, Any], expired: bool) -> None:
    assert is_expired(search, NOW) is expired


def a_body(generation: int, **annotations: str) -> dict[str, Any]:
    return {"metadata": {"uid": "u", "generation": generation, "annotations": annotations}}


async def wakes(wakeups: Wakeups) -> bool:
    waiting = asyncio.create_task(wakeups.wait("u", None))
    for _ in range(3):
        await asyncio.sleep(0)
    woke = waiting.done()
    waiting.cancel()
    return woke


async def test_a_changed_spec_wakes_and_a_written_status_does_not() -> None:
    wakeups = Wakeups()
    wakeups.saw(a_body(1))
    assert not await wakes(wakeups), "seeing a search for the first time is no change"
    wakeups.saw(a_body(1))
    assert not await wakes(wakeups)
    wakeups.saw(a_body(2))
    assert await wakes(wakeups)
    assert not await wakes(wakeups), "one change wakes once"


async def test_an_approval_wakes() -> None:
    wakeups = Wakeups()
    wakeups.saw(a_body(1))
    wakeups.saw(a_body(1, **{"kernelsearch.dev/approved-digest": "abc"}))
    assert await wakes(wakeups)
