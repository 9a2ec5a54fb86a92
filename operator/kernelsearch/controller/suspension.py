"""Saying in the status that a search rests.

A suspended search has no daemon, so whoever notices first (its runner on the way out, or the sweeper after a restart)
writes the same status: the last one, with Suspended=True and Progressing=False. suspend_all.py suspends.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from kernelsearch.api.resources import KernelSearch
from kernelsearch.api.search_status import KernelSearchStatus
from kernelsearch.controller import events
from kernelsearch.controller.conditions import PROGRESSING, SUSPENDED, Fact, Situation, facts, stamp
from kernelsearch.controller.status import Pace, SearchGone, StatusWriter, Superseded
from kernelsearch.evaluate.kube import Kube, Object

log = logging.getLogger(__name__)


def says_suspended(status: KernelSearchStatus) -> bool:
    return any(each.type == SUSPENDED and each.status == "True" for each in status.conditions)


async def mark_suspended(kube: Kube, pace: Pace, found: Object) -> None:
    """Write Suspended=True when the spec says so and the status does not. Does nothing for any other object."""
    search = KernelSearch.model_validate(found)
    status = search.status or KernelSearchStatus()
    if not search.spec.suspend or search.metadata.deletion_timestamp or says_suspended(status):
        return
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = stamp(suspended_facts(status), status.conditions, search.metadata.generation, now)
    rested = status.model_copy(
        update={
            "observed_generation": search.metadata.generation,
            "conditions": conditions,
            "phase": "Suspended",
            "targets": tuple(each.model_copy(update={"message": ""}) for each in status.targets),
        }
    )
    writer = StatusWriter(kube, search, status.controller_epoch or 0, pace)
    writer.offer(rested)
    try:
        await writer.flush()
    except (SearchGone, Superseded) as error:
        log.info("not marked as suspended: %s", error)
        return
    await events.record(kube, search, "Suspended", "its pods are removed; the journal is kept")


def suspended_facts(status: KernelSearchStatus) -> tuple[Fact, ...]:
    """Suspended and Progressing as they are now; the other conditions as they were."""
    fresh = {fact.type: fact for fact in facts(Situation(suspended=True))}
    known = {
        each.type: Fact(each.type, each.status, each.reason, each.message)
        for each in status.conditions
        if each.type not in (SUSPENDED, PROGRESSING)
    }
    return tuple({**fresh, **known}.values())
