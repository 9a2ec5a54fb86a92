"""What to propose next: the operator, its lane and parent, and the model. Rules 3 to 8 of `policy.ask`.

Each ask draws from its own generator, seeded by the search's seed and the ask's number, so there is no generator to
save and a replay decides the same.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import Random

from kernelharness.protocol import Stage

from kernelsearch.search import budget, lanes, stopping, tuning
from kernelsearch.search.actions import CallModel, ProposeTuned
from kernelsearch.search.journal import Operator
from kernelsearch.search.models import choose_model
from kernelsearch.search.records import Candidate, TargetState
from kernelsearch.search.state import State
from kernelsearch.search.width import NARROWEST, under_way, width

P_REPAIR = 0.35
P_REWRITE = 0.10
P_INCUBATE = 0.30
P_TUNE = 0.35
REPAIR_DEPTH = 2
REWRITE_BUDGET_LEFT = 0.20
UNPROVEN_LANES = 3
CANDIDATES_PER_OPENING = 20
MOST_OPENINGS = 4

_progress = {Stage.COMPILE: 0, Stage.LOAD: 1, Stage.CORRECTNESS: 2, Stage.TIMING: 3}


def next_proposal(state: State, now_ns: int) -> CallModel | ProposeTuned | None:
    """None: nothing to propose now (enough is under way, no model is free, the candidates are counted out)."""
    if not budget.proposal_fits(state):
        return None
    waiting = [target for target in state.targets.values() if target.probed and not target.failed]
    waiting = [target for target in waiting if not stopping.end_of(state, target)]
    for target in sorted(waiting, key=lambda target: target.asks):
        if under_way(state, target) < width(state, target, len(waiting)):
            proposal = _propose(state, target, now_ns) if state.limits.has_llm else _tune(state, target)
            if proposal:
                return proposal
    return None


def generator(state: State) -> Random:
    """The randomness of the next ask, and of no other."""
    return Random(sha256(f"{state.seed}/{state.next_ask}".encode()).digest())


def _tune(state: State, target: TargetState) -> ProposeTuned | None:
    setting = tuning.next_setting(state, target.name)
    return _tuned(state, target, setting) if setting else None


def _tuned(state: State, target: TargetState, setting: tuning.Setting) -> ProposeTuned:
    lane = state.candidates[setting.parent].lane
    return ProposeTuned(state.next_ask, target.name, lane, setting.parent, setting.values)


def _propose(state: State, target: TargetState, now_ns: int) -> CallModel | ProposeTuned | None:
    rng = generator(state)
    left = budget.left(state, now_ns)
    broken = _to_repair(state, target)

    def call(operator: Operator, lane: str | None, parent: str | None) -> CallModel | None:
        model = choose_model(state, operator, rng, now_ns)
        return CallModel(state.next_ask, target.name, operator, lane, parent, model) if model else None

    if _openings(state, target) < openings_wanted(state):
        return call(Operator.DRAFT, None, None)
    if broken and rng.random() < P_REPAIR:
        return call(Operator.REPAIR, broken.lane, broken.id)
    living = lanes.alive(state, target.name)
    if not living:
        return _start_over(state, target, broken, call)
    unproven = lanes.unproven(state, target.name)
    if rng.random() < P_REWRITE and left > REWRITE_BUDGET_LEFT and _unproven_rewrites(state, target) < UNPROVEN_LANES:
        return call(Operator.REWRITE, None, lanes.most_promising(state, target.name, left).top[0])
    if unproven and rng.random() < P_INCUBATE:
        lane = min(unproven, key=lambda lane: lane.asks)
    else:
        lane = lanes.most_promising(state, target.name, left)
    parent = lanes.choose_parent(lane, rng)
    if rng.random() < P_TUNE and (setting := tuning.untried_around(state, state.candidates[parent])):
        return _tuned(state, target, setting)
    return call(Operator.EDIT, lane.id, parent)


def openings_wanted(state: State) -> int:
    """How many lanes a target starts with, seeds included: a few different ideas before the first is exploited."""
    return min(max(1, round(budget.expected_calls(state) / CANDIDATES_PER_OPENING)), MOST_OPENINGS)


def _openings(state: State, target: TargetState) -> int:
    return len(lanes.of_target(state, target.name)) + _running(state, target, Operator.DRAFT)


def _running(state: State, target: TargetState, operator: Operator) -> int:
    calls = state.calls_in_flight.values()
    return sum(call.target == target.name and call.operator is operator for call in calls)


def _unproven_rewrites(state: State, target: TargetState) -> int:
    """Rewrites that were not given their asks yet, those being written included. Openings do not count: they would
    keep rewrites away until late."""
    roots = [state.candidates[lane.id] for lane in lanes.of_target(state, target.name) if lane.asks < lanes.PROVEN_ASKS]
    young = [root for root in roots if root.operator is Operator.REWRITE]
    return sum(bool(state.lanes[root.id].top) or not root.finished for root in young) + _running(
        state, target, Operator.REWRITE
    )


def _to_repair(state: State, target: TargetState) -> Candidate | None:
    """The failed candidate that came furthest; of equals the newest. Each is repaired once, two repairs in a row."""
    busy = {call.parent for call in state.calls_in_flight.values() if call.operator is Operator.REPAIR}
    broken = [state.candidates[id] for id in target.repairable if id not in busy]
    broken = [candidate for candidate in broken if candidate.depth < REPAIR_DEPTH]

    def newest_best(candidate: Candidate) -> tuple[int, int]:
        stage = _progress[candidate.result.stage] if candidate.result else 0
        return (stage, candidate.finished_no or 0)

    return max(broken, key=newest_best, default=None)


def _start_over(
    state: State, target: TargetState, broken: Candidate | None, call: Callable[..., CallModel | None]
) -> CallModel | None:
    """Nothing works yet: mend what failed, else draft again, but not blindly ahead of what is still running."""
    if broken:
        return call(Operator.REPAIR, broken.lane, broken.id)
    if under_way(state, target) < NARROWEST:
        return call(Operator.DRAFT, None, None)
    return None
