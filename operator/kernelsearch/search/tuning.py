"""Trying other values of a kernel's tunables: no model, no token, never the same setting twice.

Settings are tried nearest first around the best one known of that source (one value changed, then two, ...), so a
search without a model is a systematic autotuner that ends when every setting of every seed was tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelsearch.search import lanes
from kernelsearch.search.records import Candidate, Lane
from kernelsearch.search.state import State
from kernelsearch.search.tunables import settings_around


@dataclass(frozen=True)
class Setting:
    """Values for all tunables of a candidate that nobody has tried with its source."""

    parent: str
    values: dict[str, str]


def untried_around(state: State, parent: Candidate) -> Setting | None:
    """The untried setting nearest to the candidate's own; None when it has no tunables or all were tried."""
    tunables = parent.proposal.tunables
    for values in settings_around(tunables):
        if (parent.template, values) not in state.settings:
            return Setting(parent.id, dict(zip((tunable.name for tunable in tunables), values, strict=True)))
    return None


def next_setting(state: State, target: str) -> Setting | None:
    """Without a model: young lanes first in turn, then the best; failed seeds last, other values may mend them."""

    def order(lane: Lane) -> tuple[float, float, float]:
        if not lane.top:
            return (2, lane.asks, 0)
        young = lane.asks < lanes.PROVEN_ASKS
        return (0, lane.asks, 0) if young else (1, -lanes.best_score(state, lane), lane.asks)

    for lane in sorted(lanes.of_target(state, target), key=order):
        for id in lane.top or (lane.id,):
            candidate = state.candidates.get(id)
            setting = untried_around(state, candidate) if candidate else None
            if setting:
                return setting
    return None
