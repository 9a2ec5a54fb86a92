"""State is a fold over the journal: `fold(events)`, or `apply(state, event)` one at a time. Nothing else makes it.

Both are pure, so a crash, a restart and a replay are the same thing. An event that says nothing new (the same batch
done twice, a candidate proposed again, a call settled twice) changes nothing. This file is what the rest of the program
reads; how each event changes it is in fold_calls.py, fold_candidates.py and fold_batches.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeVar

from kernelsearch.search import fold_batches, fold_calls, fold_candidates
from kernelsearch.search.evolve import replace
from kernelsearch.search.growing import GrowingMap
from kernelsearch.search.journal import (
    BatchDone,
    BatchSubmitted,
    CandidateProposed,
    Event,
    Limits,
    LimitsChanged,
    LlmReserved,
    LlmSettled,
    Paused,
    Published,
    Resumed,
    SearchStarted,
    Stopped,
    TargetFailed,
    TargetProbed,
)
from kernelsearch.search.records import (
    BatchRecord,
    Candidate,
    Failure,
    Lane,
    Ledger,
    ModelHealth,
    Progress,
    Reservation,
    TargetState,
)
from kernelsearch.search.scoring import BASELINE

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    uid: str = ""
    name: str = ""
    problem_digest: str = ""
    seed: int = 0
    started_at_ns: int = 0
    generation: int = 0
    limits: Limits = field(default_factory=Limits)
    candidates: GrowingMap[str, Candidate] = field(default_factory=GrowingMap)
    """In the order in which they were proposed."""
    lanes: GrowingMap[str, Lane] = field(default_factory=GrowingMap)
    targets: Mapping[str, TargetState] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    calls: GrowingMap[str, LlmReserved] = field(default_factory=GrowingMap)
    """Every call ever reserved, by id."""
    calls_in_flight: Mapping[str, LlmReserved] = field(default_factory=dict)
    batches: GrowingMap[str, BatchRecord] = field(default_factory=GrowingMap)
    batches_in_flight: Mapping[str, BatchSubmitted] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    models: Mapping[str, ModelHealth] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    sources: GrowingMap[tuple[str, str], str] = field(default_factory=GrowingMap)
    """(target, source ref) -> the candidate that came with it first."""
    binaries: GrowingMap[tuple[str, str], str] = field(default_factory=GrowingMap)
    """(target, binary hash) -> the candidate that was first timed with it."""
    settings: GrowingMap[tuple[str, tuple[str, ...]], str] = field(default_factory=GrowingMap)
    """(template, values of its tunables) -> candidate: what tuning has tried."""
    next_ask: int = 1
    next_batch: int = 1
    finished: int = 0
    consecutive_failures: int = 0
    """Candidates, replies and calls that came to nothing, in a row."""
    consecutive_call_errors: int = 0
    paused: bool = False
    stopped: Stopped | None = None
    published: Published | None = None
    last_at_ns: int = 0

    def resolve(self, candidate: str) -> Candidate:
        """The candidate, or the one that stands for it when it is a clone."""
        known = self.candidates[candidate]
        while known.alias_of is not None:
            known = self.candidates[known.alias_of]
        return known

    def leaderboard(self, target: str, count: int = 10) -> tuple[Candidate, ...]:
        """The best candidates of a target, best first; `verified` says which of them were confirmed."""
        return tuple(self.candidates[id] for id in self.targets[target].leaders[:count])

    def improved(self, target: str) -> bool:
        """True when a verified kernel of this target beats the reference; otherwise nothing is to be published."""
        best = self.targets[target].confirmed_best
        estimate = self.candidates[best].estimate if best else None
        return estimate is not None and estimate.beats(BASELINE)

    @property
    def winners(self) -> dict[str, Candidate]:
        """Target -> the verified kernel to publish; empty: NoImprovement."""
        best = {name: target.confirmed_best for name, target in self.targets.items()}
        return {name: self.candidates[id] for name, id in best.items() if id and self.improved(name)}

    @property
    def progress(self) -> Progress:
        """Counts over all targets; walks every candidate, so not for an inner loop."""
        found = list(self.candidates.values())
        operators: dict[str, int] = {}
        for candidate in found:
            operators[candidate.operator] = operators.get(candidate.operator, 0) + 1
        running = sum(candidate.in_flight for candidate in found)
        done = sum(candidate.finished for candidate in found)
        return Progress(
            proposed=len(found),
            evaluated=self.ledger.evaluations,
            correct=sum(target.ok for target in self.targets.values()),
            failed=sum(target.failed_candidates for target in self.targets.values()),
            running=running,
            pending=len(found) - done - sum(c.in_flight and not c.finished for c in found),
            by_operator=operators,
        )


def put(known: Mapping[str, T], key: str, value: T) -> dict[str, T]:
    """A small mapping with one more entry."""
    return {**known, key: value}


def fold(events: Iterable[Event], start: State | None = None) -> State:
    """The state after these events."""
    return reduce(apply, events, start or State())


def apply(state: State, event: Event) -> State:
    """The state after one more event. Time only ever goes forward, whatever the writer's clock did."""
    after = _apply(state, event)
    return after if event.at_ns <= after.last_at_ns else replace(after, last_at_ns=event.at_ns)


def _apply(state: State, event: Event) -> State:
    match event:
        case SearchStarted():
            return _start(state, event)
        case LimitsChanged():
            return _limit(state, event)
        case TargetProbed():
            return _probed(state, event)
        case TargetFailed():
            return _target_failed(state, event)
        case LlmReserved():
            return fold_calls.reserved(state, event)
        case LlmSettled():
            return fold_calls.settled(state, event)
        case CandidateProposed():
            return fold_candidates.proposed(state, event)
        case BatchSubmitted():
            return fold_batches.submitted(state, event)
        case BatchDone():
            return fold_batches.done(state, event)
        case Published():
            return replace(state, published=event)
        case Paused():
            return _stop_clock(replace(state, paused=True), max(event.at_ns, state.last_at_ns))
        case Resumed():
            return _resume(state, event)
        case Stopped():
            return _stop_clock(replace(state, stopped=event), max(event.at_ns, state.last_at_ns))


def _start(state: State, event: SearchStarted) -> State:
    if state.uid:
        return state
    state = replace(state, uid=event.uid, name=event.name, problem_digest=event.problem_digest, seed=event.seed)
    return _start_clock(replace(state, started_at_ns=event.at_ns), event.at_ns)


def _limit(state: State, event: LimitsChanged) -> State:
    """New limits take a stopped search up again, and what spoke against going on is forgotten: whoever raised a budget
    has seen it. Whether the search then stops at once is the policy's to say."""
    targets = dict(state.targets)
    for limits in event.limits.targets:
        known = targets.get(limits.name)
        targets[limits.name] = replace(known, limits=limits) if known else TargetState(limits)
    restarted = state.stopped is not None
    if restarted:
        targets = {
            name: replace(target, infrastructure=(), drift_first=(), drift_last=()) for name, target in targets.items()
        }
        state = replace(state, consecutive_failures=0, consecutive_call_errors=0)
    state = replace(
        state,
        limits=event.limits,
        generation=event.generation,
        targets=targets,
        stopped=None,
        models=_forgiven(state.models),
    )
    return _start_clock(state, event.at_ns) if restarted and not state.paused else state


def _probed(state: State, event: TargetProbed) -> State:
    target = state.targets.get(event.target)
    if target is None:
        return state
    target = replace(target, probed=event, failed=None)
    return replace(state, targets=put(state.targets, event.target, target))


def _target_failed(state: State, event: TargetFailed) -> State:
    target = state.targets.get(event.target)
    if target is None:
        return state
    state = replace(state, targets=put(state.targets, event.target, replace(target, failed=event)))
    return fold_candidates.fail(state, event.reason, event.message, event.at_ns)


def _resume(state: State, event: Resumed) -> State:
    """A process that died without a word stopped working after its last event, so only up to there it was active."""
    state = replace(_stop_clock(state, state.last_at_ns), paused=False, models=_forgiven(state.models))
    return state if state.stopped else _start_clock(state, event.at_ns)


def _forgiven(models: Mapping[str, ModelHealth]) -> dict[str, ModelHealth]:
    """Whoever took the search up again may have mended the key or the endpoint: every model is tried again."""
    return {name: ModelHealth() for name in models}


def _start_clock(state: State, at_ns: int) -> State:
    if state.ledger.running_since_ns is not None:
        return state
    return replace(state, ledger=replace(state.ledger, running_since_ns=max(at_ns, state.last_at_ns)))


def _stop_clock(state: State, at_ns: int) -> State:
    since = state.ledger.running_since_ns
    if since is None:
        return state
    active_ns = state.ledger.active_ns + max(0, at_ns - since)
    return replace(state, ledger=replace(state.ledger, active_ns=active_ns, running_since_ns=None))
