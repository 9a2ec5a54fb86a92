"""When the best verified kernels are published, and by whom.

Level-based like everything here: what should be published (`State.winners`) is compared with what was. At the end of a
search always, before it only when the spec says OnImprovement; nothing verified above 1.0x publishes nothing, and so
does a search whose measurements were found suspect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.search.journal import StopReason
from kernelsearch.search.state import State

RETRY_SECONDS = 30.0
"""How soon a refusal that is not final is tried again unless something wakes the engine first."""


@dataclass(frozen=True)
class Publication:
    digest: str
    """sha256 of the bundle."""
    reference: str
    """configmap/<namespace>/<name>, repository@sha256:..., or a folder."""


class PublishRefused(Exception):
    """The output cannot be written now. `final`: not until a person changes something (OutputConflict)."""

    def __init__(self, reason: str, message: str, *, final: bool) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        """CamelCase, for a condition: OutputConflict, AwaitingApproval, TooLarge."""
        self.message = message
        self.final = final


class Publisher(Protocol):
    async def publish(self, inputs: SearchInputs, state: State) -> Publication:
        """Write `state.winners` out. Idempotent: the same winners again give the same digest and reference.

        Raise PublishRefused when that is not possible, or not yet.
        """
        ...


def unpublished(inputs: SearchInputs, state: State) -> dict[str, str]:
    """Target -> candidate that should be published now and is not; empty when nothing is to be done."""
    if state.stopped is None and inputs.spec.output.publish != "OnImprovement":
        return {}
    if state.stopped is not None and state.stopped.reason is StopReason.HARNESS_SUSPECT:
        return {}
    winners = {target: candidate.id for target, candidate in state.winners.items()}
    if state.published is not None and state.published.candidates == winners:
        return {}
    return winners


class Outbox:
    """Remembers what was refused, so that it is tried again when that may help and not more often."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._winners: dict[str, str] = {}
        self._refusal: PublishRefused | None = None
        self._not_before = 0.0

    def due(self, inputs: SearchInputs, state: State) -> dict[str, str]:
        """What to publish now."""
        winners = unpublished(inputs, state)
        refusal = self.refusal(winners)
        if refusal is not None and (refusal.final or self._clock() < self._not_before):
            return {}
        return winners

    def settled(self, inputs: SearchInputs, state: State) -> bool:
        """Nothing is left to publish, or nothing that could be."""
        winners = unpublished(inputs, state)
        refusal = self.refusal(winners)
        return not winners or (refusal is not None and refusal.final)

    def refusal(self, winners: dict[str, str]) -> PublishRefused | None:
        """Why these could not be published."""
        return self._refusal if winners and winners == self._winners else None

    def note(self, winners: dict[str, str], refusal: PublishRefused) -> None:
        self._winners, self._refusal = winners, refusal
        self._not_before = self._clock() + RETRY_SECONDS

    def try_again(self) -> None:
        """Something changed outside: an approval, a mended output."""
        self._not_before = 0.0

    def forget(self) -> None:
        """The spec changed: whatever was refused may be possible now."""
        self._winners, self._refusal = {}, None
