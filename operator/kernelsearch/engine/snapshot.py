"""What an observer sees of a running search: its state, what runs right now, and what it waits for.

The command draws its table from this, the controller its status. An observer is called often and on the event loop: it
must return at once and may skip what it has no time for, because the next snapshot says everything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from kernelsearch.engine.publishing import PublishRefused
from kernelsearch.evaluate.base import Progress
from kernelsearch.search.journal import Published, Stopped
from kernelsearch.search.state import State


@dataclass(frozen=True)
class Ended:
    """Why `run` returned."""

    state: State
    stopped: Stopped | None = None
    """The search ended by itself and its output is settled. None: it was told to stop and can be taken up again."""
    refused: PublishRefused | None = None
    """Why its output could not be published, for good."""

    @property
    def published(self) -> Published | None:
        """What was published last, if anything ever was."""
        return self.state.published

    @property
    def improved(self) -> bool:
        """Something verified above 1.0x was found."""
        return bool(self.state.winners)


@dataclass(frozen=True)
class Snapshot:
    state: State
    epoch: int = 0
    """Of the engine that took it: a status of a lower epoch is outdated."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """Batch id -> where it stands, for the batches in flight."""
    waiting_for: str = ""
    """One line for people: the next thing that will happen, or why nothing does."""
    refused: PublishRefused | None = None
    """Set while publishing waits (approval) or cannot go on (conflict)."""
    ended: Ended | None = None


Observer = Callable[[Snapshot], None]


def waiting_for(state: State, progress: Mapping[str, Progress], refused: PublishRefused | None) -> str:
    """One line: what the search waits for right now."""
    return "; ".join(_waits(state, progress, refused)) or "the next decision"


def _waits(state: State, progress: Mapping[str, Progress], refused: PublishRefused | None) -> Iterator[str]:
    if refused is not None:
        yield f"publishing: {refused.message}"
    if state.stopped is not None:
        return
    for id, batch in state.batches_in_flight.items():
        seen = progress.get(id)
        where = f"{seen.state.lower()}, {seen.message}" if seen and seen.message else seen.state.lower() if seen else ""
        yield f"{batch.purpose.value} {id}" + (f" ({where})" if where else "")
    if state.calls_in_flight:
        models = sorted({call.model for call in state.calls_in_flight.values()})
        yield f"{len(state.calls_in_flight)} answers of {', '.join(models)}"
    for name, health in state.models.items():
        if health.refused or health.errors:
            yield f"model {name} {'refuses' if health.refused else 'rests'}: {health.message}"
