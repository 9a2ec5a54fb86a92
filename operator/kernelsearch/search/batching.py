"""Which waiting candidates go into a pod now.

A full batch goes as soon as a pod is free. A partial one goes when nothing that runs could still fill it, or when its
first candidate has waited as long as a pod takes to start: pods are kept busy, and no slow reply holds them up.
"""

from __future__ import annotations

from kernelharness.protocol import Purpose

from kernelsearch.search import budget
from kernelsearch.search.actions import SubmitBatch
from kernelsearch.search.records import Candidate, TargetState
from kernelsearch.search.state import State

PATIENCE_NS = 20 * 1_000_000_000


def next_batch(state: State, now_ns: int, *, ending: bool, growing: frozenset[str]) -> SubmitBatch | None:
    """`growing`: targets whose queue the engine is about to lengthen, so their batches wait for the next ask."""
    if not budget.evaluation_fits(state):
        return None
    for target in state.targets.values():
        if target.name in growing or target.failed or not target.probed or not has_free_pod(state, target):
            continue
        members = _members(state, target)
        full = len(members) >= target.limits.batch_size or (bool(members) and members[0].suspect)
        if members and (full or ending or not _fillable(state, target) or patience_ends_ns(members) <= now_ns):
            return _submit(state, target, members)
    return None


def has_free_pod(state: State, target: TargetState) -> bool:
    batches = state.batches_in_flight.values()
    return sum(batch.target == target.name for batch in batches) < target.limits.parallelism


def held_until_ns(state: State, target: TargetState) -> int | None:
    """When a partial batch that is held back goes after all; None when nothing is held back."""
    members = _members(state, target)
    return patience_ends_ns(members) if members and has_free_pod(state, target) else None


def patience_ends_ns(members: list[Candidate]) -> int:
    return min(member.proposal.at_ns for member in members) + PATIENCE_NS


def _members(state: State, target: TargetState) -> list[Candidate]:
    """The head of the queue; one that may have killed its pod goes alone."""
    waiting = [state.candidates[id] for id in target.queue]
    if waiting and waiting[0].suspect:
        return waiting[:1]
    return [candidate for candidate in waiting if not candidate.suspect][: target.limits.batch_size]


def _fillable(state: State, target: TargetState) -> bool:
    return any(call.target == target.name for call in state.calls_in_flight.values())


def _submit(state: State, target: TargetState, members: list[Candidate]) -> SubmitBatch:
    attempt = max(member.attempts for member in members)
    avoid = tuple(dict.fromkeys(node for member in members for node in member.bad_nodes))
    ids = tuple(member.id for member in members)
    id = f"{target.name}-{state.next_batch}-{attempt}"
    return SubmitBatch(id, target.name, Purpose.SEARCH, ids, attempt, avoid)
