"""The provisional best is judged again: fresh pods, other nodes, new secret inputs, more samples.

One confirmation of a target runs at a time, so each pod can avoid the nodes of the earlier ones, and a best that is
overtaken (or whose first fresh pod disappoints) costs no more pods. While a target has nothing verified its best is
confirmed at once; later a best must first survive some results, and search batches go in between.
"""

from __future__ import annotations

from kernelharness.protocol import Purpose

from kernelsearch.search import budget
from kernelsearch.search.actions import SubmitBatch
from kernelsearch.search.records import Candidate, TargetState
from kernelsearch.search.scoring import BASELINE
from kernelsearch.search.state import State
from kernelsearch.search.width import width


def next_confirmation(state: State, *, ending: bool) -> SubmitBatch | None:
    """`ending`: the search draws to its end, so what is to be confirmed is confirmed now."""
    if not budget.confirmation_fits(state):
        return None
    for target in state.targets.values():
        candidate = None if target.failed else contender(state, target)
        if candidate and _free(state, target) and (ending or _due(state, target, candidate)):
            attempt = candidate.confirm_faults
            nodes = (candidate.node, *(confirmation.node for confirmation in candidate.confirmations))
            avoid = tuple(dict.fromkeys(node for node in (*nodes, *candidate.bad_nodes) if node))
            id = f"{target.name}-{state.next_batch}-{attempt}"
            return SubmitBatch(id, target.name, Purpose.CONFIRM, (candidate.id,), attempt, avoid)
    return None


def contender(state: State, target: TargetState) -> Candidate | None:
    """The best unverified kernel that, as far as is known, beats what is verified (the reference, at first)."""
    verified = state.candidates[target.confirmed_best].estimate if target.confirmed_best else None
    for id in target.leaders:
        candidate = state.candidates[id]
        estimate = candidate.estimate
        if not candidate.verified and estimate and estimate.beats(verified or BASELINE):
            return candidate
    return None


def _free(state: State, target: TargetState) -> bool:
    """A pod is free and none confirms already."""
    batches = [batch for batch in state.batches_in_flight.values() if batch.target == target.name]
    confirming = any(batch.purpose is Purpose.CONFIRM for batch in batches)
    return not confirming and len(batches) < target.limits.parallelism


def _due(state: State, target: TargetState, candidate: Candidate) -> bool:
    if target.queue and target.confirmed_last:
        return False
    if target.confirmed_best is None or candidate.confirmations:
        return True
    survived = state.finished - (candidate.finished_no or 0)
    return survived >= 2 * width(state, target, len(state.targets))
