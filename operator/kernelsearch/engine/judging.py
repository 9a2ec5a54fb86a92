"""One batch, from request to events: evaluated anywhere, kept in blobs, given up when nothing ever starts.

Runs as a task of the engine and writes no journal. An evaluator's own trouble is in its outcome; what it raises is a
fault of ours and ends the engine, whose successor adopts the batch.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kernelsearch.engine.batches import to_events
from kernelsearch.evaluate.base import BatchOutcome, BatchRequest, Evaluator, OnProgress, Progress
from kernelsearch.search.journal import BatchDone, BatchSubmitted, Event, TargetFailed
from kernelsearch.store.base import Store


@dataclass(frozen=True)
class BatchEnd:
    request: BatchRequest
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Judging:
    evaluator: Evaluator
    store: Store
    patience_seconds: float
    """`stop.pendingTimeout`: a target that starts nothing for this long has failed."""

    async def judge(self, batch: BatchSubmitted, request: BatchRequest, on_progress: OnProgress) -> BatchEnd:
        last = Progress(batch.target, "Pending")
        try:
            async with asyncio.timeout(None) as pending:

                def note(progress: Progress) -> None:
                    nonlocal last
                    last = progress
                    if progress.state == "Running":
                        pending.reschedule(None)
                    elif pending.when() is None:
                        pending.reschedule(asyncio.get_running_loop().time() + self.patience_seconds)
                    on_progress(progress)

                outcome = await self.evaluator.evaluate(request, note)
        except TimeoutError:
            if not pending.expired():
                raise
            return BatchEnd(request, _never_started(batch, self.patience_seconds, last.message))
        return BatchEnd(request, await self._keep(batch, outcome))

    async def _keep(self, batch: BatchSubmitted, outcome: BatchOutcome) -> tuple[Event, ...]:
        """Blobs first, then the events that name them."""
        log_ref = await self.store.put_blob(outcome.log.encode())
        refs = {key: await self.store.put_blob(content) for key, content in outcome.artifacts.items()}
        return to_events(batch, outcome, log_ref, refs)


def _never_started(batch: BatchSubmitted, patience_seconds: float, message: str) -> tuple[Event, ...]:
    why = f"nothing was started within {patience_seconds:.0f} s" + (f": {message}" if message else "")
    return (
        TargetFailed(at_ns=0, target=batch.target, reason="PendingTimeout", message=why),
        BatchDone(at_ns=0, id=batch.id, results=(), infrastructure="PendingTimeout", message=why),
    )
