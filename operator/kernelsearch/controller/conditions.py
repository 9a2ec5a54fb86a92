"""The conditions of a search and when they hold: decisions only, in stable words that people and scripts wait for.

Exactly one of Complete and Failed becomes True, once the search ended *and* its output is settled; a raised budget or
an added target sets it False again. Progressing is True while anything may still happen by itself, so
`kubectl wait --for=condition=Progressing=false` always returns, and the reason says what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kernelsearch.api.search_status import Condition
from kernelsearch.search.journal import Stopped

ACCEPTED, PROGRESSING, DEGRADED = "Accepted", "Progressing", "Degraded"
PUBLISHED, COMPLETE, FAILED, SUSPENDED = "Published", "Complete", "Failed", "Suspended"

MAX_MESSAGE = 1024
_WAITING = ("Pending", "Unschedulable", "Queued")
"""States of a target that runs nothing. Between two of its pods a search is not called pending again."""


@dataclass(frozen=True)
class Rejection:
    """Why the search cannot run as it stands. `is_final`: no waiting will help, only another spec."""

    reason: str
    message: str
    is_final: bool = False


@dataclass(frozen=True)
class Output:
    """What became of publishing: Published, NoImprovement, AwaitingApproval, OutputConflict, ..."""

    outcome: Literal["published", "nothing", "waiting", "refused"]
    """`waiting` may become one of the others by itself or by an approval; `refused` is for good."""
    reason: str
    message: str

    @property
    def is_settled(self) -> bool:
        return self.outcome != "waiting"


@dataclass(frozen=True)
class Situation:
    """Everything that the conditions depend on."""

    rejection: Rejection | None = None
    activity: str = "Starting"
    """CamelCase reason of Progressing while it is True: Starting, Probing, Searching, Verifying, Publishing."""
    activity_message: str = ""
    stopped: Stopped | None = None
    output: Output | None = None
    suspended: bool = False
    trouble: tuple[str, str] | None = None
    """(reason, message) of what makes the search slower or smaller than it should be."""

    @property
    def unsettled(self) -> Output | None:
        """The output that the search waits for when nothing else is left to do: an approval, a quota."""
        waits = self.activity == "Publishing" and self.output is not None and not self.output.is_settled
        return self.output if waits else None


@dataclass(frozen=True)
class Fact:
    """A condition without its times."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def facts(now: Situation) -> tuple[Fact, ...]:
    """All conditions, always in the same order."""
    return (
        _accepted(now),
        _progressing(now),
        _degraded(now),
        _published(now),
        _complete(now),
        _failed(now),
        _suspended(now),
    )


def stamp(
    current: Sequence[Fact], previous: Sequence[Condition], generation: int | None, now: str
) -> tuple[Condition, ...]:
    """Facts as conditions: `lastTransitionTime` moves only when the status does."""
    known = {condition.type: condition for condition in previous}
    stamped = []
    for fact in current:
        before = known.get(fact.type)
        since = before.last_transition_time if before and before.status == fact.status else now
        stamped.append(
            Condition(
                type=fact.type,
                status=fact.status,
                observed_generation=generation,
                last_transition_time=since,
                reason=fact.reason,
                message=fact.message[:MAX_MESSAGE],
            )
        )
    return tuple(stamped)


def phase(now: Situation, states: Sequence[str]) -> str:
    """For people. `states` are the targets' states."""
    if now.suspended:
        return "Suspended"
    by_type = {fact.type: fact.status == "True" for fact in facts(now)}
    if by_type[COMPLETE]:
        return "Succeeded"
    if by_type[FAILED]:
        return "Failed"
    if now.rejection or not states:
        return "Pending"
    if set(states) == {"Queued"}:
        return "Queued"
    if now.activity in ("Starting", "Probing") and all(state in _WAITING for state in states):
        return "Pending"
    return "Verifying" if now.activity == "Verifying" else "Running"


def is_active(body: Mapping[str, Any]) -> bool:
    """Whether a search wants its daemon: not deleting, not suspended, and not ended under its present spec."""
    metadata = body.get("metadata", {})
    if metadata.get("deletionTimestamp") or body.get("spec", {}).get("suspend"):
        return False
    return not has_ended(body)


def has_ended(body: Mapping[str, Any]) -> bool:
    """Whether Complete or Failed is True for the spec as it is now."""
    generation = body.get("metadata", {}).get("generation")
    return any(
        condition.get("type") in (COMPLETE, FAILED)
        and condition.get("status") == "True"
        and condition.get("observedGeneration") == generation
        for condition in (body.get("status") or {}).get("conditions") or []
    )


def _accepted(now: Situation) -> Fact:
    if now.rejection:
        return Fact(ACCEPTED, "False", now.rejection.reason, now.rejection.message)
    return Fact(ACCEPTED, "True", "Accepted", "all that the spec refers to is there and allowed")


def _progressing(now: Situation) -> Fact:
    if now.suspended:
        return Fact(PROGRESSING, "False", "Suspended", "spec.suspend is true")
    if now.rejection:
        return Fact(PROGRESSING, "False", now.rejection.reason, now.rejection.message)
    if output := now.unsettled:
        return Fact(PROGRESSING, "False", output.reason, output.message)
    if ended := _ending(now):
        return Fact(PROGRESSING, "False", ended.reason, ended.message)
    return Fact(PROGRESSING, "True", now.activity, now.activity_message)


def _degraded(now: Situation) -> Fact:
    if now.trouble:
        return Fact(DEGRADED, "True", *now.trouble)
    return Fact(DEGRADED, "False", "AsExpected")


def _published(now: Situation) -> Fact:
    if now.output is None:
        return Fact(PUBLISHED, "False", "NotYet", "nothing was published so far")
    return Fact(
        PUBLISHED, "True" if now.output.outcome == "published" else "False", now.output.reason, now.output.message
    )


def _complete(now: Situation) -> Fact:
    ended = _ending(now)
    if ended and not ended.is_failure:
        return Fact(COMPLETE, "True", ended.reason, ended.message)
    if output := now.unsettled:
        return Fact(COMPLETE, "False", output.reason, output.message)
    return Fact(COMPLETE, "False", ended.reason if ended else "InProgress")


def _failed(now: Situation) -> Fact:
    ended = _ending(now)
    if ended and ended.is_failure:
        return Fact(FAILED, "True", ended.reason, ended.message)
    return Fact(FAILED, "False", ended.reason if ended else "InProgress")


def _suspended(now: Situation) -> Fact:
    if now.suspended:
        return Fact(SUSPENDED, "True", "Suspended", "set spec.suspend to false to go on where it stopped")
    return Fact(SUSPENDED, "False", "NotSuspended")


@dataclass(frozen=True)
class _Ending:
    reason: str
    message: str
    is_failure: bool


def _ending(now: Situation) -> _Ending | None:
    """How the search ended, or None while it has not, or while its output is not settled."""
    if now.rejection:
        final = now.rejection.is_final
        return _Ending("InvalidSpec", f"{now.rejection.reason}: {now.rejection.message}", True) if final else None
    if now.stopped is None:
        return None
    if now.stopped.reason.is_failure:
        return _Ending(now.stopped.reason.value, now.stopped.message, True)
    if now.output is None or not now.output.is_settled:
        return None
    if now.output.outcome == "refused":
        return _Ending(now.output.reason, now.output.message, True)
    return _Ending(now.stopped.reason.value, now.stopped.message, False)
