"""The status of a search that no engine runs: suspended, refused, or in a namespace that nobody serves.

Such a status is the last one with other conditions: what was found and spent stays. Whoever notices first writes it (a
runner on its way in or out, the sweeper after a restart), and writing it twice changes nothing.
"""

from __future__ import annotations

import logging
import time

from kernelsearch.api.resources import KernelSearch
from kernelsearch.api.search_status import KernelSearchStatus
from kernelsearch.controller import events
from kernelsearch.controller.conditions import (
    COMPLETE,
    DEGRADED,
    FAILED,
    PUBLISHED,
    Fact,
    Rejection,
    Situation,
    facts,
    phase,
    stamp,
)
from kernelsearch.controller.report import turns
from kernelsearch.controller.status import Pace, SearchGone, StatusWriter, Superseded
from kernelsearch.controller.view import timestamp
from kernelsearch.evaluate.kube import Kube

log = logging.getLogger(__name__)

_KEPT = (DEGRADED, PUBLISHED)
"""Conditions that say the same whether the search runs or rests."""
_KEPT_SUSPENDED = (*_KEPT, COMPLETE, FAILED)
"""A search that has ended stays ended when it is suspended."""


async def tell_suspended(kube: Kube, pace: Pace, search: KernelSearch) -> None:
    """Suspended=True, when the spec says so. Does nothing for any other search."""
    if search.spec.suspend and not search.metadata.deletion_timestamp:
        await _tell(kube, pace, search, Situation(suspended=True))


async def tell_rejected(kube: Kube, pace: Pace, search: KernelSearch, rejection: Rejection) -> None:
    """Accepted=False, and why."""
    await _tell(kube, pace, search, Situation(rejection=rejection))


async def _tell(kube: Kube, pace: Pace, search: KernelSearch, situation: Situation) -> None:
    before = search.status or KernelSearchStatus()
    status = rested(search, before, situation, timestamp(time.time_ns()))
    writer = StatusWriter(kube, search, before.controller_epoch or 0, pace)
    writer.offer(status)
    try:
        await writer.flush()
    except (SearchGone, Superseded) as error:
        log.info("not told: %s", error)
        return
    for kind, reason, message in turns(before.conditions, status.conditions):
        await events.record(kube, search, reason, message, kind)


def rested(search: KernelSearch, before: KernelSearchStatus, situation: Situation, now: str) -> KernelSearchStatus:
    """The status of before under the present generation, with the conditions of `situation`."""
    kept = _KEPT_SUSPENDED if situation.suspended else _KEPT
    known = {
        each.type: Fact(each.type, each.status, each.reason, each.message)
        for each in before.conditions
        if each.type in kept
    }
    fresh = tuple(known.get(fact.type, fact) for fact in facts(situation))
    targets = tuple(target.model_copy(update={"message": ""}) for target in before.targets)
    return before.model_copy(
        update={
            "observed_generation": search.metadata.generation,
            "conditions": stamp(fresh, before.conditions, search.metadata.generation, now),
            "phase": phase(situation, [target.state or "" for target in targets]),
            "targets": targets,
        }
    )
