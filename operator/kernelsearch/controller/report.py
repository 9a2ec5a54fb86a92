"""From what the engine shows to what people see: the status to write, and events for its turns.

Snapshots come often and on the event loop, so they are only kept; at most twice a second the newest one becomes a
status. Nothing is remembered that the journal or the object does not hold, except the conditions' times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from kernelharness.protocol import Purpose

from kernelsearch.api.resources import KernelSearch
from kernelsearch.api.search_status import Condition, KernelSearchStatus
from kernelsearch.controller import events
from kernelsearch.controller.conditions import Output, Situation
from kernelsearch.controller.status import StatusWriter
from kernelsearch.controller.view import Origin, status_of
from kernelsearch.controller.wakeups import APPROVAL
from kernelsearch.engine import Ended, Snapshot
from kernelsearch.evaluate.base import Progress
from kernelsearch.evaluate.kube import Kube
from kernelsearch.search.state import State

LOOK_SECONDS = 0.5
_ROUTINE = ("Searching", "Verifying")


class Reporter:
    """Keeps one search's status up to date. `observe` is the engine's observer; `run` until cancelled."""

    def __init__(self, kube: Kube, search: KernelSearch, epoch: int, writer: StatusWriter) -> None:
        self._kube = kube
        self._writer = writer
        self._search = search
        status = search.status or KernelSearchStatus()
        self._origin = Origin(
            generation=search.metadata.generation or 0,
            problem_digest=status.problem_digest or "",
            epoch=epoch,
            previous=status.conditions,
        )
        self._snapshot: Snapshot | None = None
        self._trouble: tuple[str, str] | None = None
        self._news = asyncio.Event()

    # -- what happened -------------------------------------------------------------------------------------------------

    def observe(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._news.set()

    def accepted(self, search: KernelSearch, problem_digest: str) -> None:
        """Everything that this generation of the spec refers to is there."""
        self._search, self._trouble = search, None
        self._origin = replace(self._origin, generation=search.metadata.generation or 0, problem_digest=problem_digest)
        self._news.set()

    def troubled(self, reason: str, message: str) -> None:
        """The search goes on, but not as it should."""
        self._trouble = (reason, message)
        self._news.set()

    def approved_digest(self) -> str:
        """What a person approved, as the object was last read."""
        return self._search.metadata.annotations.get(APPROVAL, "")

    # -- telling it ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self.tell()
            await asyncio.sleep(LOOK_SECONDS)

    async def tell(self) -> None:
        """Offer the status as it is now, and record an event for every condition that turned."""
        if self._snapshot is None:
            return  # what the journal holds is not known yet, and an empty status would take back what was found
        status = self._status(self._snapshot)
        turned = turns(self._origin.previous, status.conditions)
        self._origin = replace(self._origin, previous=status.conditions)
        self._writer.offer(status)
        for kind, reason, message in turned:
            await events.record(self._kube, self._search, reason, message, kind)

    async def conclude(self) -> None:
        """Tell, and return when it is written."""
        await self.tell()
        await self._writer.flush()

    def _status(self, snapshot: Snapshot) -> KernelSearchStatus:
        situation = situation_of(snapshot)
        situation = replace(situation, trouble=situation.trouble or self._trouble)
        return status_of(snapshot.state, snapshot.progress, situation, self._origin, time.time_ns())


def situation_of(snapshot: Snapshot) -> Situation:
    """What the conditions depend on, out of a running or ended search."""
    state = snapshot.state
    return Situation(
        activity=_activity(state),
        activity_message=snapshot.waiting_for,
        stopped=snapshot.ended.stopped if snapshot.ended else None,  # until then its output is not settled
        output=_output(snapshot, snapshot.ended),
        trouble=_trouble(state, snapshot.progress),
    )


def turns(
    before: tuple[Condition, ...], after: tuple[Condition, ...]
) -> list[tuple[Literal["Normal", "Warning"], str, str]]:
    """(event type, reason, message) of every condition whose status or reason changed to something worth telling."""
    known = {condition.type: (condition.status, condition.reason) for condition in before}
    found: list[tuple[Literal["Normal", "Warning"], str, str]] = []
    for condition in after:
        if known.get(condition.type) == (condition.status, condition.reason):
            continue
        if condition.type in ("Complete", "Published", "Suspended") and condition.status == "True":
            found.append(("Normal", condition.reason, condition.message))
        elif condition.type in ("Failed", "Degraded") and condition.status == "True":
            found.append(("Warning", condition.reason, condition.message))
        elif condition.type == "Accepted":
            kind: Literal["Normal", "Warning"] = "Normal" if condition.status == "True" else "Warning"
            found.append((kind, condition.reason, condition.message))
        elif condition.type == "Progressing" and condition.status == "True" and _is_first(condition, known):
            found.append(("Normal", condition.reason, condition.message))
    return found


def _is_first(progressing: Condition, known: Mapping[str, tuple[str, str]]) -> bool:
    """Searching and Verifying alternate with every batch; only what comes before and after them is news."""
    before = known.get("Progressing", ("", ""))[1]
    return not (before in _ROUTINE and progressing.reason in _ROUTINE)


def _activity(state: State) -> str:
    if not state.uid:
        return "Starting"
    if state.stopped:
        return "Publishing"
    if not any(target.probed for target in state.targets.values()):
        return "Probing"
    batches = state.batches_in_flight.values()
    if batches and all(batch.purpose is Purpose.CONFIRM for batch in batches) and not state.calls_in_flight:
        return "Verifying"
    return "Searching"


def _output(snapshot: Snapshot, ended: Ended | None) -> Output | None:
    refused = (ended.refused if ended else None) or snapshot.refused
    if refused is not None:
        return Output("refused" if refused.final else "waiting", refused.reason, refused.message)
    if snapshot.state.published is not None:
        published = snapshot.state.published
        return Output("published", "Published", f"{published.reference} ({published.digest[:12]})")
    if ended is not None and ended.stopped is not None:
        return Output("nothing", "NoImprovement", "no verified kernel is faster than the reference")
    return None


def _trouble(state: State, progress: Mapping[str, Progress]) -> tuple[str, str] | None:
    """What holds the search up most, in the words of whoever says so."""
    if state.stopped is not None:
        return None
    for target in state.targets.values():
        if target.failed:
            return target.failed.reason, f"target {target.name}: {target.failed.message}"
    for name, health in state.models.items():
        if health.refused:
            return health.refused, f"model {name}: {health.message}"
    for name, health in state.models.items():
        if health.errors:
            return _newest_llm_failure(state), f"model {name}: {health.message}"
    for report in progress.values():
        if report.reason:
            return report.reason, f"target {report.target}: {report.message}"
    return None


def _newest_llm_failure(state: State) -> str:
    found = [(each.last_at_ns, reason) for reason, each in state.failures.items() if reason.startswith("LLM")]
    return max(found)[1] if found else "LLMUnavailable"
