"""Which lineage to work on next, and which of its kernels to start from.

A lane is worth its best score and what it gained of late; a young one is given time to mature, for a rewrite that
starts slower than the champion's lineage may end faster.
"""

from __future__ import annotations

from random import Random

from kernelsearch.search.records import Lane
from kernelsearch.search.state import State

PROVEN_ASKS = 12
MOMENTUM = 1.5
MOMENTUM_RESULTS = 10
RANK_EXPONENT = 3


def of_target(state: State, target: str) -> list[Lane]:
    return [lane for lane in state.lanes.values() if lane.target == target]


def alive(state: State, target: str) -> list[Lane]:
    """The lanes with a kernel to start from."""
    return [lane for lane in of_target(state, target) if lane.top]


def unproven(state: State, target: str) -> list[Lane]:
    """Living lanes that have not had their asks yet."""
    return [lane for lane in alive(state, target) if lane.asks < PROVEN_ASKS]


def value(state: State, lane: Lane, budget_left: float) -> float:
    """Best score plus momentum, which fades with the budget: near the end only the score counts."""
    best = best_score(state, lane)
    then = lane.trail[-1 - min(MOMENTUM_RESULTS, len(lane.trail) - 1)] if lane.trail else best
    return best + MOMENTUM * max(0.0, best - then) * min(1.0, 3 * budget_left)


def best_score(state: State, lane: Lane) -> float:
    return (state.candidates[lane.top[0]].score or 0.0) if lane.top else float("-inf")


def most_promising(state: State, target: str, budget_left: float) -> Lane:
    """The lane to exploit. Raise ValueError when no lane lives."""
    return max(alive(state, target), key=lambda lane: value(state, lane, budget_left))


def choose_parent(lane: Lane, rng: Random) -> str:
    """One of the lane's best, P(rank r) ~ r^-3: four times in five the best itself."""
    weights = [rank**-RANK_EXPONENT for rank in range(1, len(lane.top) + 1)]
    return rng.choices(lane.top, weights)[0]
