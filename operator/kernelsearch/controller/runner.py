"""One search, from the moment that its daemon starts until it is told to leave.

Level-based: read the object, look up what it refers to, run the engine on the journal, report. A change of the spec, a
missing Secret that appears, a crash and a restart all lead through the same lines. What may be repeated is repeated
here; what must not happen twice is guarded by the journal's epoch and by the names of the pods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kernelsearch.api.resources import KernelSearch
from kernelsearch.controller import events
from kernelsearch.controller.conditions import has_ended
from kernelsearch.controller.output import ConfigMapPublisher
from kernelsearch.controller.references import References, Rejected, resolve
from kernelsearch.controller.report import Reporter
from kernelsearch.controller.resting import tell_rejected, tell_suspended
from kernelsearch.controller.settings import Settings
from kernelsearch.controller.status import Pace, SearchGone, StatusWriter, Superseded
from kernelsearch.controller.wakeups import Wakeups
from kernelsearch.engine import Engine, SearchInputs
from kernelsearch.evaluate.cache import EvaluationCache
from kernelsearch.evaluate.jobs import JobsEvaluator, remove_search
from kernelsearch.evaluate.kube import SEARCHES, Kube
from kernelsearch.llm.client import LlmClient
from kernelsearch.llm.origins import OriginPolicy
from kernelsearch.store.base import EpochFenced, Store

log = logging.getLogger(__name__)

RETRY_SECONDS = 15.0
"""How often a missing reference is looked for again."""
LONGEST_PAUSE_SECONDS = 300.0
GOOD_ORDER_SECONDS = 15.0
"""What an engine gets to stop by itself; below the daemon's own grace (handlers.py)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """What all searches share."""

    kube: Kube
    store: Store
    cache: EvaluationCache
    settings: Settings
    origins: OriginPolicy
    wakeups: Wakeups
    pace: Pace
    engines: dict[str, Engine] = field(default_factory=dict)
    """Running ones by search uid, for the health probe and the metrics."""


class Runner:
    """Runs one search in the cluster."""

    def __init__(self, services: Services, namespace: str, name: str, uid: str) -> None:
        self._services = services
        self._namespace, self._name, self._uid = namespace, name, uid
        self._leaving = False
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Search in the background until `leave`."""
        self._work = asyncio.create_task(self._keep_searching(), name=f"search {self._namespace}/{self._name}")

    async def leave(self, *, exiting: bool) -> None:
        """Stop in good order. `exiting`: the operator ends and the next one adopts the pods; otherwise they go too."""
        self._leaving = True
        if engine := self._services.engines.get(self._uid):
            engine.stop(keep_batches=exiting)
        elif self._work:
            self._work.cancel()
        if self._work:
            await asyncio.wait({self._work}, timeout=GOOD_ORDER_SECONDS)
            self._work.cancel()
            await asyncio.wait({self._work})
        if not exiting:
            await self._clean_up()

    # -- the life of a search ------------------------------------------------------------------------------------------

    async def _keep_searching(self) -> None:
        pause = 1.0
        while not self._leaving:
            try:
                search = await self._read()
                if not has_ended(search.model_dump(mode="json", by_alias=True)):
                    await self._search(search)
                    pause = 1.0
                if not self._leaving:
                    await self._services.wakeups.wait(self._uid, None)
            except Rejected:
                await self._services.wakeups.wait(self._uid, RETRY_SECONDS)
            except (SearchGone, Superseded, EpochFenced) as error:
                log.info("%s/%s is no longer ours: %s", self._namespace, self._name, error)
                return
            except Exception:
                log.exception("%s/%s: trying again in %.0f s", self._namespace, self._name, pause)
                await self._services.wakeups.wait(self._uid, pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _search(self, search: KernelSearch) -> None:
        """Once through: until the search ended, or was told to stop. Raise Rejected, having said so in the status."""
        kube, store, pace = self._services.kube, self._services.store, self._services.pace
        try:
            references = await self._resolve(search)
        except Rejected as rejected:
            await tell_rejected(kube, pace, search, rejected.rejection)
            raise
        epoch = await self._take_over(search)
        writer = StatusWriter(kube, search, epoch, pace)
        reporter = Reporter(kube, search, epoch, writer)
        reporter.accepted(search, references.problem_digest)
        evaluator = JobsEvaluator(kube, self._services.cache, references.placements)
        async with LlmClient(
            max_concurrent_requests=search.spec.llm.max_concurrent_requests if search.spec.llm else 1,
            origins=self._services.origins,
        ) as client:
            engine = Engine(
                inputs_of(search, references),
                store=store,
                evaluator=evaluator,
                client=client,
                publisher=ConfigMapPublisher(kube, store, self._namespace, reporter.approved_digest),
                observe=reporter.observe,
            )
            self._services.engines[self._uid] = engine
            try:
                await beside(engine.run(), writer.run(), reporter.run(), self._follow_spec(engine, evaluator, reporter))
            finally:
                del self._services.engines[self._uid]
        if not self._leaving:
            await reporter.conclude()

    async def _follow_spec(self, engine: Engine, evaluator: JobsEvaluator, reporter: Reporter) -> None:
        """Hand every change of the spec to the running engine; one that cannot be followed is told and tried again."""
        patience: float | None = None
        while True:
            await self._services.wakeups.wait(self._uid, patience)
            patience = None
            search = await self._read()
            try:
                references = await self._resolve(search)
            except Rejected as rejected:
                reporter.troubled(rejected.rejection.reason, rejected.rejection.message)
                patience = RETRY_SECONDS
                continue
            evaluator.place(references.placements)
            reporter.accepted(search, references.problem_digest)
            engine.update(inputs_of(search, references))
            engine.wake()

    # -- parts ---------------------------------------------------------------------------------------------------------

    async def _read(self) -> KernelSearch:
        found = await self._services.kube.find(SEARCHES, self._namespace, self._name)
        if found is None or found["metadata"]["uid"] != self._uid:
            raise SearchGone(f"{self._namespace}/{self._name}")
        return KernelSearch.model_validate(found)

    async def _resolve(self, search: KernelSearch) -> References:
        services = self._services
        references = await resolve(services.kube, services.store, services.settings, services.origins, search)
        if references.source_changed:
            note = "the problem's source was changed or removed; the search goes on with what was read at its start"
            await events.record(services.kube, search, "SourceChanged", note, "Warning")
        return references

    async def _take_over(self, search: KernelSearch) -> int:
        """A higher epoch than any that wrote this status, even when the journal was lost and counts from one again."""
        written = (search.status.controller_epoch if search.status else None) or 0
        while (epoch := await self._services.store.begin(self._uid)) <= written:
            pass
        return epoch

    async def _clean_up(self) -> None:
        """Deleted, suspended or ended: nothing of this search runs any more."""
        if evaluation := self._services.settings.evaluation_namespace(self._namespace):
            await remove_search(self._services.kube, evaluation, self._uid)
        found = await self._services.kube.find(SEARCHES, self._namespace, self._name)
        if found is not None and found["metadata"]["uid"] == self._uid:
            await tell_suspended(self._services.kube, self._services.pace, KernelSearch.model_validate(found))


def inputs_of(search: KernelSearch, references: References) -> SearchInputs:
    return SearchInputs(
        uid=search.metadata.uid or "",
        name=search.metadata.name,
        generation=search.metadata.generation or 0,
        spec=search.spec,
        files=references.files,
        problem_digest=references.problem_digest,
        profiles=references.profiles,
        endpoints=references.endpoints,
    )


async def beside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """The result of `main`. The others run beside it and end with it; the first of them that fails ends `main`."""
    work = asyncio.create_task(main)
    company = [asyncio.create_task(each) for each in others]
    try:
        await asyncio.wait({work, *company}, return_when=asyncio.FIRST_COMPLETED)
        for each in company:
            if each.done():
                each.result()
        return await work
    finally:
        for task in (work, *company):
            task.cancel()
        await asyncio.gather(work, *company, return_exceptions=True)
