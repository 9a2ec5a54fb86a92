"""The loop of one search: fold the journal, ask, journal the answer, do it, journal what came of it, ask again.

Invariants: only this coroutine writes to the journal, so what `ask` saw is what its actions are applied to; an action
is journalled before it is performed and its result after, so a process may die between any two lines and the next
engine on the same store finishes the same search; nothing waits for longer than the next event, the policy's own timer,
or `_TURN_SECONDS`. What runs concurrently (calls, batches, publishing) are tasks that touch only their own input.

Neighbours: policy.py decides; calls.py, judging.py and publishing.py do; snapshot.py shows.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from kernelsearch.api.translate import parse_duration, problem_document
from kernelsearch.engine import batches, calls, proposals, publishing
from kernelsearch.engine.calls import Call, CallEnd
from kernelsearch.engine.errors import ProblemChanged
from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.engine.judging import BatchEnd, Judging
from kernelsearch.engine.limits import to_limits
from kernelsearch.engine.publishing import Outbox, Publication, Publisher, PublishRefused
from kernelsearch.engine.snapshot import Ended, Observer, Snapshot, waiting_for
from kernelsearch.evaluate.base import BatchRequest, Evaluator, Progress
from kernelsearch.llm.client import LlmClient
from kernelsearch.search.actions import CallModel, ProposeTuned, Stop, SubmitBatch
from kernelsearch.search.edits import set_tunables
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    Event,
    LimitsChanged,
    Paused,
    Published,
    Resumed,
    SearchStarted,
    Stopped,
    StopReason,
    TargetFailed,
)
from kernelsearch.search.policy import ask, wake_ns
from kernelsearch.search.prompts import needed_sources
from kernelsearch.search.state import State, apply, fold
from kernelsearch.store.base import Store

_TURN_SECONDS = 30.0
"""The longest time between two looks at everything."""


@dataclass(frozen=True)
class _PublishEnd:
    winners: dict[str, str]
    result: Publication | PublishRefused


_TaskEnd = CallEnd | BatchEnd | _PublishEnd | None


class Engine:
    """Runs one search to its end, or until it is told to stop. Use each engine for one `run`."""

    def __init__(
        self,
        inputs: SearchInputs,
        *,
        store: Store,
        evaluator: Evaluator,
        client: LlmClient,
        publisher: Publisher,
        observe: Observer = lambda _: None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._inputs = inputs
        self._store = store
        self._evaluator = evaluator
        self._client = client
        self._publisher = publisher
        self._observe = observe
        self._clock = clock
        self._state = State()
        self._epoch = 0
        self._tasks: dict[asyncio.Task[_TaskEnd], str] = {}
        self._progress: dict[str, Progress] = {}
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._new_inputs: SearchInputs | None = None
        self._told_to_stop = False
        self._keep_batches = False
        self.last_turn = time.monotonic()
        """When the loop last came round (time.monotonic()): a health probe compares it with now."""

    # -- from outside, on the same event loop --------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    def update(self, inputs: SearchInputs) -> None:
        """The spec changed (a raised budget, another target, a mended endpoint): go on under the new one."""
        self._new_inputs = inputs
        self.wake()

    def stop(self, *, keep_batches: bool = False) -> None:
        """End in good order: `run` returns soon, and another engine may take the search up again.

        `keep_batches`: leave what is being judged alone, because the next engine will adopt it (the controller exits).
        Without it everything that runs for this search is removed (suspended, deleted, Ctrl-C).
        """
        self._told_to_stop, self._keep_batches = True, keep_batches
        self.wake()

    def wake(self) -> None:
        """Look at everything again now: something outside changed, such as an approval."""
        self._outbox.try_again()
        self._wake.set()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> Ended:
        """Run until the search ended and its output is settled, or until `stop`.

        Raise ProblemChanged when the journal is of another problem, EpochFenced when another process took over, and
        StoreError when the store fails; the journal stays valid in every case.
        """
        try:
            await self._take_up()
            while True:
                self.last_turn = time.monotonic()
                await self._adopt_inputs()
                if self._told_to_stop:
                    return await self._pause()
                if self._state.stopped is None:
                    await self._act()
                self._publish_if_due()
                stopped = self._state.stopped
                if stopped is not None and not self._tasks and self._outbox.settled(self._inputs, self._state):
                    return await self._conclude(stopped)
                self._tell()
                await self._next()
        finally:
            await self._abandon_tasks()

    async def _take_up(self) -> None:
        """Begin a new journal, or go on with the one there is: charge lost calls, adopt what was being judged."""
        self._epoch = await self._store.begin(self._inputs.uid)
        self._state = fold(await self._store.read(self._inputs.uid))
        if not self._state.uid:
            problem = problem_document(self._inputs.files, self._inputs.spec.problem)
            await self._store.put_blob(problem)  # found again by its digest, whatever becomes of its source
            await self._record(*self._first_events())
        else:
            self._check_problem()
            new_limits = self._new_limits()
            stopped = self._state.stopped
            # Whoever takes up a search that no model would answer has mended something that no limit shows.
            if stopped is not None and stopped.reason is StopReason.LLM_UNAVAILABLE:
                new_limits = new_limits or (self._limits_changed(),)
            if stopped is not None and not new_limits:
                return
            # Resumed comes first, so that the time without a process is not counted as active.
            resumed = Resumed(at_ns=0, epoch=self._epoch)
            await self._record(resumed, *calls.losses(self._state, "the process ended"), *new_limits)
        await self._greet_targets()
        await self._adopt_batches()

    def _first_events(self) -> tuple[Event, ...]:
        inputs, seed = self._inputs, self._inputs.spec.policy.seed
        started = SearchStarted(
            at_ns=0,
            uid=inputs.uid,
            name=inputs.name,
            problem_digest=inputs.problem_digest,
            seed=int.from_bytes(hashlib.sha256(inputs.uid.encode()).digest()[:4]) if seed is None else seed,
        )
        return (started, self._limits_changed())

    def _limits_changed(self) -> LimitsChanged:
        return LimitsChanged(at_ns=0, generation=self._inputs.generation, limits=to_limits(self._inputs.spec))

    def _new_limits(self) -> tuple[LimitsChanged, ...]:
        """The spec's limits where they differ from the journal's. A new generation alone revives no ended search."""
        event, state = self._limits_changed(), self._state
        differs = event.limits != state.limits or (event.generation != state.generation and state.stopped is None)
        return (event,) if differs else ()

    def _check_problem(self) -> None:
        if self._state.problem_digest != self._inputs.problem_digest:
            raise ProblemChanged(
                f"the problem of search {self._inputs.name} changed since it was started (its files, cases, tolerance "
                f"or seeds): what was measured does not hold for it. Give the search another name, or start it over"
            )

    async def _adopt_inputs(self) -> None:
        if self._new_inputs is None:
            return
        self._inputs, self._new_inputs = self._new_inputs, None
        self._outbox.forget()
        self._check_problem()
        if new_limits := self._new_limits():
            await self._record(*new_limits)
            await self._greet_targets()
            await self._adopt_batches()

    async def _greet_targets(self) -> None:
        """Fail the targets that can never run, propose the seeds of the others. Says nothing twice."""
        for seed in self._inputs.spec.problem.seeds:
            await self._store.put_blob(seed.content.encode())
        events: list[Event] = []
        for target in self._state.targets.values():
            reason, message = self._inputs.why_no_target(target.limits)
            if reason and target.failed is None:
                events.append(TargetFailed(at_ns=0, target=target.name, reason=reason, message=message))
        if events := [*events, *proposals.seeds(self._inputs, self._state)]:
            await self._record(*events)

    async def _act(self) -> None:
        """Do what the policy asks for, until it asks for nothing more."""
        while actions := ask(self._state, self._now()):
            for action in actions:
                match action:
                    case CallModel():
                        await self._call(action)
                    case ProposeTuned():
                        await self._propose_tuned(action)
                    case SubmitBatch():
                        await self._submit(action)
                    case Stop():
                        await self._stop_search(action)
                        return
            self._tell()

    async def _next(self) -> None:
        """Wait for whatever comes first, and take in all that came."""
        waker = asyncio.create_task(self._wake.wait())
        timer = wake_ns(self._state, self._now()) if self._state.stopped is None else None
        seconds = _TURN_SECONDS if timer is None else min(_TURN_SECONDS, max(0.05, (timer - self._now()) / 1e9))
        try:
            done, _ = await asyncio.wait({waker, *self._tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waker.cancel()
        self._wake.clear()
        for task in [task for task in self._tasks if task in done]:
            del self._tasks[task]
            await self._take_in(task.result())

    async def _take_in(self, end: _TaskEnd) -> None:
        match end:
            case CallEnd(events, retry):
                if retry is not None and retry.fits(self._state):
                    await self._record(*events, retry.reservation())
                    self._start_call(retry)
                else:
                    await self._record(*events)
            case BatchEnd(request, events):
                await self._record(*events)
                self._progress.pop(request.batch.id, None)
                self._spawn(self._forget(request), f"forget {request.batch.id}")
            case _PublishEnd(winners, Publication(digest, reference)):
                await self._record(Published(at_ns=0, digest=digest, reference=reference, candidates=winners))
            case _PublishEnd(winners, PublishRefused() as refusal):
                self._outbox.note(winners, refusal)
            case None:
                pass

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _call(self, action: CallModel) -> None:
        """Render, reserve, and start the call."""
        sources = {id: await self._source(id) for id in needed_sources(self._state, action)}
        probed = self._state.targets[action.target].probed
        header = (await self._store.get_blob(probed.header_ref)).decode() if probed and probed.header_ref else ""
        call = calls.build(self._inputs, self._state, action, header, sources)
        await self._record(call.reservation())
        self._start_call(call)

    def _start_call(self, call: Call) -> None:
        endpoint = self._inputs.endpoints[call.model.name]
        self._spawn(calls.perform(call, self._client, endpoint, self._store), f"call {call.id}")

    async def _propose_tuned(self, action: ProposeTuned) -> None:
        source = set_tunables(await self._source(action.parent), action.values)
        ref = await self._store.put_blob(source.encode())
        await self._record(proposals.tuned(action, source, ref))

    async def _source(self, candidate: str) -> str:
        return (await self._store.get_blob(self._state.candidates[candidate].source_ref)).decode()

    # -- batches -------------------------------------------------------------------------------------------------------

    async def _submit(self, action: SubmitBatch) -> None:
        batch = BatchSubmitted(
            at_ns=0,
            id=action.id,
            target=action.target,
            purpose=action.purpose,
            candidates=action.candidates,
            attempt=action.attempt,
            avoid_nodes=action.avoid_nodes,
        )
        await self._record(batch)
        await self._start_batch(batch)

    async def _adopt_batches(self) -> None:
        """Wait again for what the journal says is being judged: of a dead process, or of an ended search revived."""
        for batch in tuple(self._state.batches_in_flight.values()):
            if _batch_task(batch) not in self._tasks.values():
                await self._start_batch(batch)

    async def _start_batch(self, batch: BatchSubmitted) -> None:
        reason, message = self._inputs.why_no_target(self._state.targets[batch.target].limits)
        if reason:  # the profile went while this batch was in flight
            await self._record(BatchDone(at_ns=0, id=batch.id, results=(), infrastructure=reason, message=message))
            return
        sources = {id: await self._source(id) for id in batch.candidates}
        request = batches.to_request(self._inputs, self._state, batch, sources)
        patience = parse_duration(self._inputs.spec.stop.pending_timeout)
        judging = Judging(self._evaluator, self._store, patience)

        def on_progress(progress: Progress) -> None:
            self._progress[batch.id] = progress
            self._tell()

        self._spawn(judging.judge(batch, request, on_progress), _batch_task(batch))

    async def _forget(self, request: BatchRequest) -> None:
        await self._evaluator.forget(request)

    # -- ending --------------------------------------------------------------------------------------------------------

    async def _stop_search(self, action: Stop) -> None:
        """What is being judged stays in flight in the journal: a raised budget judges it then."""
        stopped = Stopped(at_ns=0, reason=action.reason, message=action.message)
        await self._record(*calls.losses(self._state, "the search ended"), stopped)
        await self._abandon_tasks()

    def _publish_if_due(self) -> None:
        if "publish" not in self._tasks.values() and (winners := self._outbox.due(self._inputs, self._state)):
            self._spawn(self._publish(winners), "publish")

    async def _publish(self, winners: dict[str, str]) -> _PublishEnd:
        try:
            return _PublishEnd(winners, await self._publisher.publish(self._inputs, self._state))
        except PublishRefused as refused:
            return _PublishEnd(winners, refused)

    async def _conclude(self, stopped: Stopped) -> Ended:
        """The journal says that it is over and the output is settled: nothing of it runs any more."""
        await self._evaluator.cancel(self._inputs.uid)
        ended = Ended(self._state, stopped, self._refusal())
        self._tell(ended)
        return ended

    async def _pause(self) -> Ended:
        if self._state.stopped is None:
            await self._record(*calls.losses(self._state, "the search was paused"), Paused(at_ns=0))
        await self._abandon_tasks()
        if not self._keep_batches:
            await self._evaluator.cancel(self._inputs.uid)
        ended = Ended(self._state)
        self._tell(ended)
        return ended

    # -- small parts ---------------------------------------------------------------------------------------------------

    async def _record(self, *events: Event) -> None:
        """Stamp, write in one transaction, apply. The only place where the journal grows."""
        now = self._now()
        stamped = [event.model_copy(update={"at_ns": now}) for event in events]
        await self._store.append(self._inputs.uid, self._epoch, stamped)
        for event in stamped:
            self._state = apply(self._state, event)

    def _now(self) -> int:
        """Nanoseconds since the Unix epoch; never before the journal's last event, whatever the clock does."""
        return max(self._clock(), self._state.last_at_ns)

    def _spawn(self, work: Coroutine[Any, Any, _TaskEnd], name: str) -> None:
        self._tasks[asyncio.create_task(work, name=name)] = name

    async def _abandon_tasks(self) -> None:
        tasks = list(self._tasks)
        self._tasks.clear()
        self._progress.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _refusal(self) -> PublishRefused | None:
        return self._outbox.refusal(publishing.unpublished(self._inputs, self._state))

    def _tell(self, ended: Ended | None = None) -> None:
        refused = self._refusal()
        waits = waiting_for(self._state, self._progress, refused)
        self._observe(Snapshot(self._state, self._epoch, dict(self._progress), waits, refused, ended))


def _batch_task(batch: BatchSubmitted) -> str:
    return f"batch {batch.id}"
