"""How submitting and ending a batch changes the state: what ran, what must run again, what was confirmed.

A candidate that its batch says nothing of (or blames the machine for) goes back to the head of the queue, at most
MAX_ATTEMPTS times; the one that was being judged when the pod died runs alone then. Results for candidates that were
not in the batch are ignored, and so is a second result for the same one.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

from kernelharness.protocol import Purpose, Result, Verdict

from kernelsearch.search import fold_candidates, ranking
from kernelsearch.search.evolve import replace
from kernelsearch.search.journal import BatchDone, BatchSubmitted, TargetFailed
from kernelsearch.search.records import MAX_ATTEMPTS, BatchRecord, Candidate, Confirmation, TargetState
from kernelsearch.search.scoring import Score, combine, score_of, slow_cases

if TYPE_CHECKING:
    from kernelsearch.search.state import State

RECENT_BATCHES = 20
DRIFT_WINDOW = 10


def submitted(state: State, event: BatchSubmitted) -> State:
    target = state.targets.get(event.target)
    if event.id in state.batches or target is None:
        return state
    queue = tuple(id for id in target.queue if id not in event.candidates)
    candidates = state.candidates
    for id in event.candidates:
        if id in candidates:
            candidates = candidates.put(id, replace(candidates[id], batch=event.id))
    return replace(
        state,
        candidates=candidates,
        batches=state.batches.put(event.id, BatchRecord(event)),
        batches_in_flight={**state.batches_in_flight, event.id: event},
        targets={**state.targets, event.target: replace(target, queue=queue)},
        next_batch=state.next_batch + 1,
    )


def done(state: State, event: BatchDone) -> State:
    batch = state.batches_in_flight.get(event.id)
    if batch is None:
        return state
    in_flight = {id: open_batch for id, open_batch in state.batches_in_flight.items() if id != event.id}
    record = BatchRecord(batch, done=True, node=event.node, infrastructure=event.infrastructure)
    ledger = replace(state.ledger, device_seconds=state.ledger.device_seconds + event.device_seconds)
    state = replace(state, batches=state.batches.put(batch.id, record), batches_in_flight=in_flight, ledger=ledger)
    state = _note_batch(state, batch, event)
    if event.infrastructure:
        state = fold_candidates.fail(state, event.infrastructure, event.message, event.at_ns)
    results: dict[str, Result] = {}
    for result in event.results:
        results.setdefault(result.candidate, result)
    if batch.purpose is Purpose.PROBE:
        return _probe_done(state, batch, event)
    first_silent = True
    requeued: list[str] = []
    for id in batch.candidates:
        if id not in state.candidates:
            continue
        candidate = replace(state.candidates[id], batch=None)
        state = replace(state, candidates=state.candidates.put(id, candidate))
        answer = results.get(id)
        spoilt = answer is None or answer.verdict.is_infrastructure
        if batch.purpose is Purpose.CONFIRM:
            state = _spoilt(state, candidate, event) if spoilt else _confirmed(state, candidate, answer, event)
        elif candidate.finished:
            continue
        elif answer is None or spoilt:
            suspect = answer is None and first_silent and bool(event.infrastructure)
            first_silent = first_silent and answer is not None
            state, again = _put_back(state, candidate, answer, event, suspect)
            requeued += [id] if again else []
        else:
            state = fold_candidates.judged(state, candidate, answer, event.node, event.log_ref, event.at_ns)
    return _queue_first(state, batch.target, requeued)


def _note_batch(state: State, batch: BatchSubmitted, event: BatchDone) -> State:
    """What the last batches took and whether their pods can be trusted."""
    target = state.targets[batch.target]
    answered = [r for r in event.results if not r.verdict.is_infrastructure]
    alone = any(id in state.candidates and state.candidates[id].suspect for id in batch.candidates)
    target = replace(
        target,
        confirmed_last=batch.purpose is Purpose.CONFIRM,
        batch_ns=(*target.batch_ns, max(0, event.at_ns - batch.at_ns))[-RECENT_BATCHES:],
        batch_device_seconds=(*target.batch_device_seconds, event.device_seconds)[-RECENT_BATCHES:],
    )
    if not alone:
        fault = bool(event.infrastructure) or (bool(batch.candidates) and not answered)
        target = replace(target, infrastructure=(*target.infrastructure, fault)[-RECENT_BATCHES:])
    if batch.purpose is Purpose.CONFIRM:
        target = _note_drift(target, event)
    return replace(state, targets={**state.targets, target.name: target})


def _note_drift(target: TargetState, event: BatchDone) -> TargetState:
    """ln(speedup over eager / speedup over compile) is the ratio of the two baselines, whatever the candidate: on a
    sound machine the same in every confirmation, however the machine's own speed wanders."""
    ratios = [
        math.log(case.speedup_eager / case.speedup_compile)
        for result in event.results
        for case in result.cases
        if case.speedup_eager and case.speedup_compile and case.speedup_eager > 0 and case.speedup_compile > 0
    ]
    if not ratios:
        return target
    middle = median(ratios)
    if len(target.drift_first) < DRIFT_WINDOW:
        return replace(target, drift_first=(*target.drift_first, middle))
    return replace(target, drift_last=(*target.drift_last, middle)[-DRIFT_WINDOW:])


def _probe_done(state: State, batch: BatchSubmitted, event: BatchDone) -> State:
    target = state.targets[batch.target]
    nodes = (*target.bad_nodes, event.node) if event.infrastructure and event.node else target.bad_nodes
    target = replace(target, probe_attempts=target.probe_attempts + 1, bad_nodes=nodes)
    if not target.probed and not target.failed and target.probe_attempts > MAX_ATTEMPTS:
        reason = event.infrastructure or "ProbeFailed"
        message = event.message or "the reference gave no baseline"
        failed = TargetFailed(at_ns=event.at_ns, target=target.name, reason=reason, message=message)
        target = replace(target, failed=failed)
    return replace(state, targets={**state.targets, target.name: target})


def _put_back(
    state: State, candidate: Candidate, answer: Result | None, event: BatchDone, suspect: bool
) -> tuple[State, bool]:
    """Back to the queue, or given up after the last attempt."""
    reason = answer.summary if answer else event.infrastructure or "the batch ended without a result"
    nodes = tuple(dict.fromkeys((*candidate.bad_nodes, event.node))) if event.node else candidate.bad_nodes
    candidate = replace(candidate, attempts=candidate.attempts + 1, bad_nodes=nodes, suspect=suspect)
    if candidate.attempts <= MAX_ATTEMPTS:
        return replace(state, candidates=state.candidates.put(candidate.id, candidate)), True
    candidate = replace(candidate, given_up=reason or Verdict.HARNESS_ERROR.value)
    return fold_candidates.finish(state, candidate, event.at_ns, ok=False), False


def _queue_first(state: State, name: str, requeued: list[str]) -> State:
    if not requeued:
        return state
    target = state.targets[name]
    return replace(state, targets={**state.targets, name: replace(target, queue=(*requeued, *target.queue))})


def _spoilt(state: State, candidate: Candidate, event: BatchDone) -> State:
    """A confirmation that the machine spoilt says nothing, but not for ever."""
    faults = candidate.confirm_faults + 1
    candidate = replace(candidate, confirm_faults=faults)
    if faults > MAX_ATTEMPTS:
        return _refuse(state, candidate, f"could not be confirmed: {event.infrastructure or 'no result'}")
    return replace(state, candidates=state.candidates.put(candidate.id, candidate))


def _confirmed(state: State, candidate: Candidate, answer: Result | None, event: BatchDone) -> State:
    assert answer is not None
    if candidate.refused or candidate.verified:
        return state
    score = score_of(answer, state.targets[candidate.target].facts)
    known = Confirmation(event.id, event.node, answer, score, event.artifact_refs.get(candidate.id, ""))
    candidate = replace(candidate, confirmations=(*candidate.confirmations, known), confirm_faults=0)
    state = replace(state, ledger=replace(state.ledger, confirmations=state.ledger.confirmations + 1))
    if score is None:
        reason = f"{answer.verdict.value} in a fresh pod: {answer.summary}"
        state = fold_candidates.fail(state, "ConfirmationFailed", f"{candidate.id}: {reason}", event.at_ns)
        return _refuse(state, candidate, reason)
    if slow := slow_cases(answer):
        return _refuse(state, candidate, f"below 0.95x in a fresh pod: {', '.join(slow)}")
    return _weigh(state, candidate, event)


def _weigh(state: State, candidate: Candidate, event: BatchDone) -> State:
    """Verified when `confirm_repeats` pods agree; refused when twice as many could not."""
    repeats, spread = state.limits.confirm_repeats, state.limits.confirm_max_spread_percent
    scores = [confirmation.score for confirmation in candidate.confirmations if confirmation.score]
    agreed = agreeing(scores, repeats, spread)
    estimate = combine(agreed or scores)
    candidate = replace(candidate, score=estimate.mean, se=estimate.se, verified=bool(agreed))
    if not agreed and len(scores) >= 2 * repeats:
        speedups = ", ".join(f"{score.speedup:.4g}" for score in scores)
        reason = f"no {repeats} of {len(scores)} fresh pods agree within {spread} %: {speedups}"
        state = fold_candidates.fail(state, "Unstable", f"{candidate.id}: {reason}", event.at_ns)
        return _refuse(state, candidate, reason)
    state = replace(state, candidates=state.candidates.put(candidate.id, candidate))
    return ranking.rank_again(state, candidate)


def agreeing(scores: list[Score], repeats: int, spread_percent: int) -> tuple[Score, ...]:
    """The slowest `repeats` measurements whose speedups differ by at most `spread_percent`; empty when none do."""
    ranked = sorted(scores, key=lambda score: score.mean)
    for first in range(len(ranked) - repeats + 1):
        window = ranked[first : first + repeats]
        if window[-1].speedup <= window[0].speedup * (1 + spread_percent / 100):
            return tuple(window)
    return ()


def _refuse(state: State, candidate: Candidate, reason: str) -> State:
    candidate = replace(candidate, refused=reason, verified=False, eligible=False)
    state = replace(state, candidates=state.candidates.put(candidate.id, candidate))
    return ranking.rank_again(state, candidate)
