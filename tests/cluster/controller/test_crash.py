"""The operator is killed without warning: the next one finishes the same search and counts everything once."""

from __future__ import annotations

from typing import Any

import pytest
from kernelsearch.search.journal import BatchDone, BatchSubmitted, CandidateProposed
from kernelsearch.store.sqlite import SqliteStore

from .conftest import Operator, Place, conditions, probed

Object = dict[str, Any]


def evaluated(at_least: int) -> Any:
    return lambda status: status.get("progress", {}).get("evaluated", 0) >= at_least


async def journal(operator: Operator, uid: str) -> list[Any]:
    """The events of a search whose operator does not run any more."""
    store = await SqliteStore.open(operator.folder / "journal.db")
    try:
        return list(await store.read(uid))
    finally:
        await store.close()


async def test_killed_in_the_middle_of_a_batch_it_finishes_the_same_search(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=5"))
    place.until("tuned", probed, "the probe's end")
    before = place.search()
    uid = before["metadata"]["uid"]
    place.wait_for_pod(uid)
    pods = place.pods_of(uid)
    operator.kill()
    assert pods <= place.pods_of(uid), "the pod runs on without an operator"
    operator.start()
    place.wait("tuned", "Complete", 180)
    status = place.search()["status"]
    assert status["progress"] == {**status["progress"], "proposed": 3, "evaluated": 3, "correct": 3, "failed": 0}
    assert status["problemDigest"] == before["status"]["problemDigest"]
    assert status["controllerEpoch"] > before["status"]["controllerEpoch"]

    operator.kill()
    events = await journal(operator, uid)
    proposed = [event.id for event in events if isinstance(event, CandidateProposed)]
    assert len(proposed) == len(set(proposed)) == 3
    submitted = [event.id for event in events if isinstance(event, BatchSubmitted)]
    done = [event.id for event in events if isinstance(event, BatchDone)]
    assert sorted(submitted) == sorted(done) == sorted(set(done)), "every batch was ended once, by adoption"
    assert [event.infrastructure for event in events if isinstance(event, BatchDone)] == [""] * len(done)


@pytest.mark.parametrize("seconds", [0.2, 0.7, 1.5])
def test_killed_again_and_again_it_still_ends(place: Place, operator: Operator, seconds: float) -> None:
    """At no particular point: whatever was just being written, the journal and the names of the pods settle it."""
    place.apply(place.search_document(seed="SPEED = 110  # tune: 110, 120, 130, 140, 150"))
    for _ in range(3):
        with pytest.raises(AssertionError):
            place.until("tuned", lambda status: False, "a moment of work", seconds + 2)
        operator.kill()
        operator.start()
    place.wait("tuned", "Complete", 180)
    status = place.search()["status"]
    assert status["progress"] == {**status["progress"], "proposed": 5, "evaluated": 5, "correct": 5}
    assert status["bestSpeedup"] == "1.500"
    place.wait_until_gone(place.search()["metadata"]["uid"])


def test_a_batch_that_ended_while_nobody_watched_is_read_afterwards(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=3"))
    place.until("tuned", probed, "the probe's end")
    uid = place.search()["metadata"]["uid"]
    place.wait_for_pod(uid)
    operator.kill()
    labels = f"kernelsearch.dev/search-uid={uid},kernelsearch.dev/purpose=search"
    place.kubectl("-n", place.pods, "wait", "job", "-l", labels, "--for=condition=Complete", "--timeout=60s")
    job = place.kubectl("-n", place.pods, "get", "job", "-l", labels, "-o", "jsonpath={.items[*].metadata.uid}")
    operator.start()
    status = place.until("tuned", evaluated(1), "the result of the batch")
    assert conditions(status)["Accepted"][0] == "True"
    place.wait("tuned", "Complete", 120)
    assert job, "the very Job of before was read, not another one run"
    assert place.search()["status"]["progress"]["evaluated"] == 3


def test_a_lost_journal_starts_the_search_over_under_a_higher_epoch(place: Place, operator: Operator) -> None:
    place.apply(place.search_document(orders="seconds=2"))
    status = place.until("tuned", evaluated(1), "a first candidate")
    operator.kill()
    for file in operator.folder.glob("journal.db*"):
        file.unlink()
    operator.start()
    place.wait("tuned", "Complete", 180)
    final = place.search()["status"]
    assert final["controllerEpoch"] > status["controllerEpoch"]
    assert final["progress"]["evaluated"] == 3
