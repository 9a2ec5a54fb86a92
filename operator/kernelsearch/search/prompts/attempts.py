"""The ledger that a model sees: what was tried, `plan -> result -> reason`, and what is being tried right now."""

from __future__ import annotations

from kernelsearch.search import lanes
from kernelsearch.search.journal import Operator
from kernelsearch.search.prompts.text import oneline, times
from kernelsearch.search.records import Candidate, Lane, TargetState
from kernelsearch.search.state import State

MOST_APPROACHES = 20
MOST_RUNNING = 12


def of_lane(state: State, lane: Lane) -> list[str]:
    """The last attempts of a lane, oldest first."""
    return [_line(state, state.candidates[id]) for id in lane.recent if state.candidates[id].finished]


def approaches(state: State, target: TargetState) -> list[str]:
    """Every lane in one line, the newest MOST_APPROACHES."""
    found = []
    for lane in lanes.of_target(state, target.name)[-MOST_APPROACHES:]:
        root = state.candidates.get(lane.id)
        plan = oneline(root.plan) if root and root.plan else "(no plan given)"
        best = state.candidates[lane.top[0]].speedup if lane.top else None
        outcome = f"best {times(best)}" if best else "nothing that works yet"
        found.append(f"{lane.id}: {plan} -> {outcome} after {lane.asks} attempts")
    return found


def running(state: State, target: TargetState) -> list[str]:
    """Plans whose result is not known yet, and replies that are being written."""
    waiting = [state.candidates[id] for id in target.queue]
    judged = [
        state.candidates[id]
        for batch in state.batches_in_flight.values()
        if batch.target == target.name
        for id in batch.candidates
        if not state.candidates[id].finished
    ]
    plans = [f"{candidate.id}: {oneline(candidate.plan)}" for candidate in (*waiting, *judged) if candidate.plan]
    calls = [
        f"{call.operator.value} of {call.parent}: still being written"
        for call in state.calls_in_flight.values()
        if call.target == target.name and call.parent
    ]
    return [*plans, *calls][:MOST_RUNNING]


def earlier_fixes(state: State, candidate: Candidate) -> list[str]:
    """The failed versions that this failed repair tried to mend, oldest first."""
    found: list[str] = []
    while candidate.operator is Operator.REPAIR and candidate.parent:
        candidate = state.candidates[candidate.parent]
        found.append(_line(state, candidate))
    return found[::-1]


def _line(state: State, candidate: Candidate) -> str:
    origin = f"{candidate.operator.value} of {candidate.parent}" if candidate.parent else candidate.operator.value
    plan = oneline(candidate.plan) or "(no plan given)"
    return f"{candidate.id} ({origin}): {plan} -> {_outcome(state, candidate)}"


def _outcome(state: State, candidate: Candidate) -> str:
    if candidate.alias_of:
        stand_in = state.resolve(candidate.id)
        speedup = f", {times(stand_in.speedup)}" if stand_in.speedup else ""
        return f"the same as {stand_in.id}{speedup}"
    if candidate.refused:
        return f"refused: {oneline(candidate.refused)}"
    if candidate.speedup is not None:
        return times(candidate.speedup)
    if candidate.result:
        return f"{candidate.result.verdict.value}: {oneline(candidate.result.summary)}"
    return f"not measured: {oneline(candidate.given_up)}"
