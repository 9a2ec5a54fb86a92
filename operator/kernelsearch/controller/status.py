"""The only writer of a search's status: server-side apply, fenced by resourceVersion and epoch, few and bounded.

At most one write in `QUIET_SECONDS` per search unless something turned (a condition, a phase, a target's state), none
when nothing changed, and a common pace for all searches. Server-side apply alone does not fence: it takes a stale epoch
and even another object's uid. So every write carries the resourceVersion last read; on a conflict the object is read
again, and a new uid or a higher epoch means that this search is no longer ours.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from kernelsearch.api.resources import KernelSearch
from kernelsearch.api.search_status import KernelSearchStatus
from kernelsearch.controller.view import fitting, manifest
from kernelsearch.evaluate.kube import SEARCHES, Kube, KubeError, Object

log = logging.getLogger(__name__)

MANAGER = "kernelsearch-controller"
QUIET_SECONDS = 10.0
WRITES_PER_SECOND = 5.0


class SearchGone(Exception):
    """The object was deleted, or another one has its name: nothing may be written for this search any more."""


class Superseded(Exception):
    """Another controller took this search over: stop, write nothing."""


class Pace:
    """So many turns a second for everybody together."""

    def __init__(self, per_second: float) -> None:
        self._seconds = 1.0 / per_second
        self._next = 0.0
        self.turns = 0
        """How often somebody had a turn: the number of status writes."""

    async def turn(self) -> None:
        self.turns += 1
        now = time.monotonic()
        self._next = max(self._next + self._seconds, now)
        await asyncio.sleep(self._next - now)


class StatusWriter:
    """Writes what was offered last. `run` until cancelled; it raises SearchGone or Superseded when it must end."""

    def __init__(
        self, kube: Kube, search: KernelSearch, epoch: int, pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        metadata = search.metadata
        self._kube, self._epoch, self._pace, self._clock = kube, epoch, pace, clock
        self._namespace, self._name, self._uid = metadata.namespace or "", metadata.name, metadata.uid or ""
        self._resource_version = metadata.resource_version or ""
        self._offered: KernelSearchStatus | None = None
        self._written = manifest(search.status) if search.status else None
        self._turn = turn(search.status) if search.status else ()
        self._last_write = -QUIET_SECONDS
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    def offer(self, status: KernelSearchStatus) -> None:
        """The newest status; returns at once."""
        self._offered = status
        if turn(status) != self._turn or self._clock() - self._last_write >= QUIET_SECONDS:
            self._wake.set()

    async def run(self) -> None:
        while True:
            quiet = QUIET_SECONDS - (self._clock() - self._last_write)
            try:
                async with asyncio.timeout(max(quiet, 0.5)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write now what was offered last, if it differs from what was written last."""
        async with self._writing:
            if (status := self._offered) is None:
                return
            body = manifest(status)
            if _without_clock(body) == _without_clock(self._written):
                return
            await self._pace.turn()
            await self._write(status)
            self._written, self._turn, self._last_write = body, turn(status), self._clock()

    async def _write(self, status: KernelSearchStatus) -> None:
        """The largest reduction that fits, or a smaller one when the API server refuses it."""
        candidates = fitting(status)
        for cut, dropped in candidates:
            try:
                await self._apply(manifest(_degraded(cut, dropped) if dropped else cut))
                return
            except KubeError as error:
                if error.status not in (413, 422) or cut is candidates[-1][0]:
                    raise
                log.warning("status of %s/%s was refused: %s", self._namespace, self._name, error)

    async def _apply(self, status: Object) -> None:
        while True:
            try:
                written = await self._kube.apply(
                    SEARCHES, self._namespace, self._body(status), manager=MANAGER, subresource="status"
                )
                self._resource_version = written["metadata"]["resourceVersion"]
                return
            except KubeError as error:
                if error.is_missing:
                    raise SearchGone(f"{self._namespace}/{self._name}") from error
                if not error.is_conflict:
                    raise
            await self._read_again()

    async def _read_again(self) -> None:
        found = await self._kube.find(SEARCHES, self._namespace, self._name)
        if found is None or found["metadata"]["uid"] != self._uid:
            raise SearchGone(f"{self._namespace}/{self._name}")
        epoch = int((found.get("status") or {}).get("controllerEpoch") or 0)
        if epoch > self._epoch:
            raise Superseded(f"{self._namespace}/{self._name} is at epoch {epoch}, this controller holds {self._epoch}")
        self._resource_version = found["metadata"]["resourceVersion"]

    def _body(self, status: Object) -> Object:
        return {
            "apiVersion": "kernelsearch.dev/v1alpha1",
            "kind": "KernelSearch",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                "uid": self._uid,
                "resourceVersion": self._resource_version,
            },
            "status": status,
        }


def turn(status: KernelSearchStatus) -> tuple[object, ...]:
    """What people wait for: when this changes, the write does not wait. Searching and Verifying alternate too often."""
    conditions = tuple(
        (each.type, each.status, None if each.type == "Progressing" and each.status == "True" else each.reason)
        for each in status.conditions
    )
    targets = tuple((each.name, _coarse(each.state)) for each in status.targets)
    return _coarse(status.phase), status.observed_generation, conditions, targets, status.outputs


def _coarse(word: str | None) -> str | None:
    return "Running" if word in ("Searching", "Verifying") else word


def _without_clock(body: Object | None) -> Object | None:
    """Active time alone is no reason to write."""
    if body is None:
        return None
    usage = {key: value for key, value in (body.get("usage") or {}).items() if key != "activeSeconds"}
    return {**body, "usage": usage}


def _degraded(status: KernelSearchStatus, dropped: str) -> KernelSearchStatus:
    changed = tuple(
        each.model_copy(
            update={"status": "True", "reason": "StatusTruncated", "message": f"too large; dropped its {dropped}"}
        )
        if each.type == "Degraded" and each.status == "False"
        else each
        for each in status.conditions
    )
    return status.model_copy(update={"conditions": changed})
