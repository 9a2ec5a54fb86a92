"""How a proposal and a verdict change the state.

A proposal whose source is known becomes a clone at once and is never evaluated; a kernel whose binary is known becomes
one when its verdict arrives, and takes no place in any ranking: nobody's beam fills with copies of one parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelharness.protocol import Result, Verdict

from kernelsearch.search import ranking
from kernelsearch.search.evolve import replace
from kernelsearch.search.journal import CandidateProposed, Operator
from kernelsearch.search.records import LANE_RECENT, Candidate, Failure, Lane
from kernelsearch.search.scoring import score_of, slow_cases

if TYPE_CHECKING:
    from kernelsearch.search.state import State

REPAIRABLE_KEPT = 12
MESSAGE_CHARS = 512

FAILURE_REASON = {
    Verdict.COMPILE_ERROR: "CompileError",
    Verdict.LOAD_ERROR: "LoadError",
    Verdict.WRONG_SHAPE: "WrongResult",
    Verdict.WRONG_DTYPE: "WrongResult",
    Verdict.WRONG_VALUES: "WrongResult",
    Verdict.PRECISION: "Precision",
    Verdict.NONDETERMINISTIC: "NonDeterministic",
    Verdict.INPUT_MUTATED: "InputMutated",
    Verdict.RUNTIME_ERROR: "Crash",
    Verdict.MEMORY_FAULT: "Crash",
    Verdict.TIMEOUT: "Timeout",
    Verdict.OOM: "OutOfMemory",
    Verdict.NOISY_NODE: "NoisyNode",
    Verdict.HARNESS_ERROR: "HarnessError",
}
"""The others are named by their verdict: TAMPERING is `Tampering`."""

REPAIRABLE = frozenset(FAILURE_REASON) - {Verdict.NOISY_NODE, Verdict.HARNESS_ERROR}
"""Honest mistakes. What cheats or abuses the machine is not worth mending."""


def failure_reason(verdict: Verdict) -> str:
    """CamelCase, for status.failures: `CompileError`."""
    return FAILURE_REASON.get(verdict, verdict.value.title().replace("_", ""))


def fail(state: State, reason: str, message: str, at_ns: int) -> State:
    """Count a failure by its reason."""
    known = state.failures.get(reason)
    failure = Failure((known.count if known else 0) + 1, message[:MESSAGE_CHARS], at_ns)
    return replace(state, failures={**state.failures, reason: failure})


def proposed(state: State, event: CandidateProposed) -> State:
    target = state.targets.get(event.target)
    if event.id in state.candidates or target is None:
        return state
    parent = state.candidates.get(event.parent) if event.parent else None
    original = state.sources.get((event.target, event.source_ref))
    tuned = event.operator is Operator.TUNE and parent is not None
    candidate = Candidate(
        proposal=event,
        depth=parent.depth + 1 if parent and event.operator is Operator.REPAIR else 0,
        template=parent.template if tuned and parent else event.id,
        alias_of=original,
    )
    state = replace(
        state,
        candidates=state.candidates.put(event.id, candidate),
        ledger=replace(state.ledger, candidates=state.ledger.candidates + 1),
        next_ask=max(state.next_ask, event.ask_no + 1),
    )
    if event.tunables:
        values = tuple(tunable.value for tunable in event.tunables)
        state = replace(state, settings=state.settings.put((candidate.template, values), event.id))
    state = _join_lane(state, candidate)
    if original is not None:
        state = fail(state, "Duplicate", f"{event.id} has the same source as {original}", event.at_ns)
        return finish(state, candidate, event.at_ns, ok=False)
    state = replace(state, sources=state.sources.put((event.target, event.source_ref), event.id))
    target = state.targets[event.target]
    return replace(state, targets={**state.targets, event.target: replace(target, queue=(*target.queue, event.id))})


def _join_lane(state: State, candidate: Candidate) -> State:
    """Count the ask where its call has not, and mark a failed parent as being repaired."""
    lane = state.lanes.get(candidate.lane, Lane(candidate.lane, candidate.target))
    counted = bool(candidate.proposal.call_id)
    if not counted or lane.id not in state.lanes:
        lane = replace(lane, asks=lane.asks + 1)
    lane = replace(lane, recent=(*lane.recent, candidate.id)[-LANE_RECENT:])
    target = state.targets[candidate.target]
    if not counted:
        target = replace(target, asks=target.asks + 1)
    failed = state.candidates.get(candidate.parent) if candidate.parent else None
    if failed is not None and candidate.operator is Operator.REPAIR:
        parent = replace(failed, repaired=True)
        state = replace(state, candidates=state.candidates.put(parent.id, parent))
        target = replace(target, repairable=tuple(id for id in target.repairable if id != parent.id))
    return replace(state, lanes=state.lanes.put(lane.id, lane), targets={**state.targets, candidate.target: target})


def judged(state: State, candidate: Candidate, result: Result, node: str, log_ref: str, at_ns: int) -> State:
    """The first verdict on a candidate. Infrastructure verdicts never come here."""
    target = state.targets[candidate.target]
    score = score_of(result, target.facts)
    binary = (candidate.target, result.binary_hash)
    clone = state.binaries.get(binary) if score and result.binary_hash else None
    candidate = replace(
        candidate,
        result=result,
        node=node,
        log_ref=log_ref,
        alias_of=clone,
        suspect=False,
        score=score.mean if score else None,
        se=score.se if score else 0.0,
        eligible=score is not None and clone is None and not slow_cases(result),
    )
    ledger = replace(state.ledger, evaluations=state.ledger.evaluations + 1)
    state = replace(state, candidates=state.candidates.put(candidate.id, candidate), ledger=ledger)
    if score is None:
        reason = "IncompleteResult" if result.verdict is Verdict.OK else failure_reason(result.verdict)
        state = fail(state, reason, result.summary or result.diagnostics, at_ns)
        if result.verdict in REPAIRABLE:
            kept = (*target.repairable, candidate.id)[-REPAIRABLE_KEPT:]
            state = replace(state, targets={**state.targets, target.name: replace(target, repairable=kept)})
    elif clone is None and result.binary_hash:
        state = replace(state, binaries=state.binaries.put(binary, candidate.id))
    state = finish(state, candidate, at_ns, ok=score is not None)
    return ranking.enter(state, state.candidates[candidate.id]) if score and clone is None else state


def finish(state: State, candidate: Candidate, at_ns: int, *, ok: bool) -> State:
    """Count a candidate as finished: judged, a clone, or given up. `ok` says whether it scored."""
    number = state.finished + 1
    done = replace(candidate, finished_no=number, finished_at_ns=at_ns)
    target = state.targets[candidate.target]
    target = replace(
        target,
        finished=target.finished + 1,
        ok=target.ok + ok,
        failed_candidates=target.failed_candidates + (not ok and candidate.alias_of is None),
    )
    return replace(
        state,
        candidates=state.candidates.put(candidate.id, done),
        targets={**state.targets, target.name: target},
        finished=number,
        consecutive_failures=0 if ok else state.consecutive_failures + 1,
    )
