"""The one seam between a search and where its candidates run: this machine, or pods.

An evaluator is told a batch by a deterministic id and may be told the same one again after a crash: it adopts what is
there instead of running it twice. It never retries on its own; only search/ decides that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kernelharness.protocol import Baseline, Batch, Hello, ProblemFact, Result


@dataclass(frozen=True)
class BatchRequest:
    search_uid: str
    target: str
    batch: Batch
    attempt: int = 0
    avoid_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchOutcome:
    """What the judge said, and what became of its pod. Results may be fewer than candidates when it died early."""

    results: tuple[Result, ...] = ()
    hello: Hello | None = None
    problem: ProblemFact | None = None
    baselines: tuple[Baseline, ...] = ()
    artifacts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """(candidate id or '', file name) -> content, whole and checked."""
    node: str = ""
    device_seconds: float = 0.0
    log: str = ""
    infrastructure: str = ""
    """CamelCase reason why not all candidates have a result: Evicted, OutOfMemory, ImagePull, DeviceFault,
    LogIncomplete, DeadlineExceeded, InvalidBatch, NoDevice. Empty: the judge finished."""
    message: str = ""


Said = Hello | ProblemFact | Baseline | Result


@dataclass(frozen=True)
class Progress:
    """Where a batch stands, for people: why nothing runs, or which candidate is being judged."""

    target: str
    state: str
    """Pending | Unschedulable | Queued | Running"""
    message: str = ""
    said: Said | None = None
    """What the judge just said, seen while the batch still runs; advisory, it comes again in the outcome."""
    reason: str = ""
    """What holds the batch up, CamelCase: Unschedulable, ImagePullBackOff, FailedCreate. Empty: nothing does."""


OnProgress = Callable[[Progress], None]


class Evaluator(Protocol):
    async def evaluate(self, request: BatchRequest, on_progress: OnProgress) -> BatchOutcome:
        """Run or adopt the batch and return when it ended. Cancelling stops waiting, not the batch (see `cancel`)."""
        ...

    async def forget(self, request: BatchRequest) -> None:
        """The outcome is in the journal: remove what the batch left behind (Job, ConfigMap, folder). Idempotent."""
        ...

    async def cancel(self, search_uid: str) -> None:
        """Remove everything that runs for this search: it was suspended, deleted or has ended. Idempotent."""
        ...
