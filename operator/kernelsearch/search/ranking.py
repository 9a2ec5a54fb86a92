"""Who leads: the best of each lane and of each target, and the target's last significant win.

A new score is inserted where it belongs. A confirmation may lower a score or refuse a candidate, which happens seldom,
so then the rankings that it stood in are made anew from all candidates.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from kernelsearch.search.evolve import replace
from kernelsearch.search.records import LANE_TOP, LANE_TRAIL, Candidate, Mark
from kernelsearch.search.scoring import BASELINE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernelsearch.search.state import State

LEADERS = 16


def rank(candidate: Candidate) -> tuple[float, int]:
    """Sort key, best first; of equals the one that finished first."""
    score = candidate.score if candidate.score is not None else float("-inf")
    return (-score, candidate.finished_no or 0)


def enter(state: State, candidate: Candidate) -> State:
    """Rank a candidate that has just scored."""
    lane = state.lanes[candidate.lane]
    top = _insert(state, lane.top, candidate, LANE_TOP)
    best = state.candidates[top[0]].score or 0.0
    lane = replace(lane, top=top, trail=(*lane.trail, best)[-LANE_TRAIL:])
    state = replace(state, lanes=state.lanes.put(lane.id, lane))
    if not candidate.eligible:
        return state
    target = state.targets[candidate.target]
    leaders = _insert(state, target.leaders, candidate, LEADERS)
    target = replace(target, leaders=leaders, best=leaders[0])
    state = replace(state, targets={**state.targets, target.name: target})
    return _mark(state, candidate)


def rank_again(state: State, changed: Candidate) -> State:
    """Make the rankings of a candidate's lane and target anew, after a confirmation changed what it is worth."""
    own = [c for c in state.candidates.values() if c.target == changed.target and _ranked(c)]
    lane = state.lanes[changed.lane]
    top = _best(state, (c for c in own if c.lane == lane.id), LANE_TOP)
    state = replace(state, lanes=state.lanes.put(lane.id, replace(lane, top=top)))
    leaders = _best(state, (c for c in own if c.eligible), LEADERS)
    verified = _best(state, (c for c in own if c.verified), 1)
    target = replace(
        state.targets[changed.target],
        leaders=leaders,
        best=leaders[0] if leaders else None,
        confirmed_best=verified[0] if verified else None,
    )
    state = replace(state, targets={**state.targets, target.name: target})
    if target.mark and state.candidates[target.mark.candidate].refused:
        state = _unmark(state, target.name)
    return _mark(state, changed) if changed.verified else state


def _ranked(candidate: Candidate) -> bool:
    return candidate.score is not None and candidate.alias_of is None and not candidate.refused


def _insert(state: State, ranked: tuple[str, ...], candidate: Candidate, size: int) -> tuple[str, ...]:
    found = [state.candidates[id] for id in ranked]
    insort(found, candidate, key=rank)
    return tuple(c.id for c in found[:size])


def _best(state: State, candidates: Iterable[Candidate], size: int) -> tuple[str, ...]:
    return tuple(c.id for c in sorted(candidates, key=rank)[:size])


def _mark(state: State, candidate: Candidate) -> State:
    """Note a win that is significant against the last one (the reference at first): it resets the plateau's count."""
    target = state.targets[candidate.target]
    before = state.candidates[target.mark.candidate].estimate if target.mark else BASELINE
    estimate = candidate.estimate
    if estimate is None or candidate.finished_no is None or not estimate.beats(before or BASELINE):
        return state
    target = replace(target, mark=Mark(candidate.id, candidate.finished_no, candidate.finished_at_ns))
    return replace(state, targets={**state.targets, target.name: target})


def _unmark(state: State, target: str) -> State:
    """The last win was refused: fall back on the verified best."""
    known = state.targets[target]
    best = state.candidates[known.confirmed_best] if known.confirmed_best else None
    mark = Mark(best.id, best.finished_no or 0, best.finished_at_ns) if best else None
    return replace(state, targets={**state.targets, target: replace(known, mark=mark)})
