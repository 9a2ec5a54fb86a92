"""How many candidates of a target are under way at once: W = clamp(calls / 30, 2, slots).

More at once is faster by the clock and worse by the call, because each ask then knows less (measured on synthetic
landscapes: at 60 calls, going from 1 to 16 at once halves what is reached). Without a model nothing is learnt between
asks that would matter, so the slots alone decide.
"""

from __future__ import annotations

from kernelsearch.search import budget
from kernelsearch.search.journal import TargetLimits
from kernelsearch.search.records import TargetState
from kernelsearch.search.state import State

CALLS_PER_LANE_AT_ONCE = 30
NARROWEST = 2


def slots(limits: TargetLimits) -> int:
    """Candidates that the target's pods can hold at once."""
    return limits.parallelism * limits.batch_size


def width(state: State, target: TargetState, sharers: int) -> int:
    """Asks that may be under way for the target, when `sharers` targets share the budget."""
    room = slots(target.limits)
    if not state.limits.has_llm:
        return room
    if state.limits.width is not None:
        return min(state.limits.width, max(NARROWEST, room))
    wanted = round(budget.expected_calls(state) / max(1, sharers) / CALLS_PER_LANE_AT_ONCE)
    return min(max(wanted, NARROWEST), max(NARROWEST, room))


def under_way(state: State, target: TargetState) -> int:
    """Asks whose candidate has no verdict yet: running calls, waiting candidates, candidates in a pod."""
    calls = {call.ask_no for call in state.calls_in_flight.values() if call.target == target.name}
    waiting = {state.candidates[id].proposal.ask_no for id in target.queue}
    judged = {
        state.candidates[id].proposal.ask_no
        for batch in state.batches_in_flight.values()
        if batch.target == target.name
        for id in batch.candidates
        if not state.candidates[id].finished
    }
    return len(calls | waiting | judged)
