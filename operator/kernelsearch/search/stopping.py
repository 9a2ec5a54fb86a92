"""Whether the search should come to its end, and why.

An ending is not yet a stop: nothing new is proposed, what runs is awaited, and the provisional best is confirmed first.
If that changes the answer (the best of a plateau turns out to be a win), the search simply goes on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median

from kernelsearch.search import budget, lanes, models, tuning
from kernelsearch.search.fold_batches import DRIFT_WINDOW
from kernelsearch.search.journal import StopReason
from kernelsearch.search.records import TargetState
from kernelsearch.search.scoring import percent_of_bound
from kernelsearch.search.state import State

AT_BOUND_PERCENT = 95.0
FIRST_ALL_FAILED = 20
PLATEAU_CANDIDATES = 40
PLATEAU_SHARE = 0.35
LARGEST_DRIFT = 0.03
"""Of ln(ratio of the two baselines), between the first confirmations and the last."""
LARGEST_INFRASTRUCTURE_SHARE = 0.30
ENOUGH_BATCHES = 20


@dataclass(frozen=True)
class Ending:
    reason: StopReason
    message: str
    evaluate: bool = True
    """Candidates that wait are still evaluated."""
    confirm: bool = True


def ending(state: State, now_ns: int) -> Ending | None:
    """None while the search should go on."""
    alive = [target for target in state.targets.values() if not target.failed]
    if not alive:
        return Ending(StopReason.NO_TARGET_RAN, _why_none_ran(state), evaluate=False, confirm=False)
    if suspicion := _suspicion(alive):
        return Ending(StopReason.HARNESS_SUSPECT, suspicion, evaluate=False, confirm=False)
    ends = [end_of(state, target) for target in alive]
    if all(ends):
        return max((end for end in ends if end), key=lambda end: _precedence.index(end.reason))
    if state.limits.has_llm and (message := _llm_unavailable(state)):
        return Ending(StopReason.LLM_UNAVAILABLE, message)
    if over := budget.spent(state, now_ns):
        return Ending(StopReason.BUDGET_EXHAUSTED, over, evaluate=not budget.time_is_up(state, now_ns))
    if state.consecutive_failures >= state.limits.consecutive_failures:
        return _failing(state, f"{state.consecutive_failures} proposals in a row came to nothing")
    if message := _plateau(state, [target for target, end in zip(alive, ends, strict=True) if not end]):
        return Ending(StopReason.PLATEAU, message)
    if not state.limits.has_llm and _space_exhausted(state, alive):
        return Ending(StopReason.EXHAUSTED, "every setting of every tunable was tried, and there is no model to ask")
    return None


_precedence = (StopReason.NO_VIABLE, StopReason.AT_BOUND, StopReason.TARGET_REACHED)


def end_of(state: State, target: TargetState) -> Ending | None:
    """Why one target needs no more candidates; None while it does."""
    best = state.candidates[target.confirmed_best] if target.confirmed_best else None
    wanted = state.limits.stop_speedup
    if best and wanted is not None and (best.speedup or 0.0) >= wanted:
        message = f"{target.name}: {best.id} is verified at {best.speedup:.4g}x, {wanted:.4g}x was asked for"
        return Ending(StopReason.TARGET_REACHED, message, evaluate=False)
    if best and best.confirmations:
        share = percent_of_bound(best.confirmations[-1].result)
        if share is not None and share >= AT_BOUND_PERCENT:
            message = f"{target.name}: {best.id} is verified at {share:.4g} % of the speed of light"
            return Ending(StopReason.AT_BOUND, message, evaluate=False)
    if target.ok == 0 and target.failed_candidates >= FIRST_ALL_FAILED:
        message = f"{target.name}: the first {target.failed_candidates} candidates all failed; {_commonest(state)}"
        return Ending(StopReason.NO_VIABLE, message, evaluate=False)
    return None


def _why_none_ran(state: State) -> str:
    failures = [target.failed for target in state.targets.values() if target.failed]
    return "; ".join(f"{failed.target}: {failed.reason}, {failed.message}" for failed in failures) or "no targets"


def _suspicion(alive: list[TargetState]) -> str:
    for target in alive:
        faults = target.infrastructure
        if len(faults) >= ENOUGH_BATCHES and sum(faults) > LARGEST_INFRASTRUCTURE_SHARE * len(faults):
            return f"{target.name}: {sum(faults)} of the last {len(faults)} batches failed through no candidate's fault"
        if len(target.drift_last) == DRIFT_WINDOW:
            drift = median(target.drift_last) - median(target.drift_first)
            if abs(drift) > LARGEST_DRIFT:
                percent = f"{100 * drift:.3g} %"
                return f"{target.name}: the two baselines drifted apart by {percent} since the first confirmations"
    return ""


def _llm_unavailable(state: State) -> str:
    if models.all_refuse(state):
        answers = (f"{name}: {health.refused}, {health.message}" for name, health in state.models.items())
        return "no model can be asked: " + "; ".join(answers)
    if state.consecutive_call_errors >= state.limits.consecutive_failures:
        last = max(state.models.values(), key=lambda health: health.last_error_ns)
        return f"{state.consecutive_call_errors} calls failed in a row, the last one with: {last.message}"
    return ""


def _failing(state: State, message: str) -> Ending:
    if any(target.ok for target in state.targets.values()):
        return Ending(StopReason.PLATEAU, message)
    return Ending(StopReason.NO_VIABLE, f"{message}; {_commonest(state)}", evaluate=False)


def _commonest(state: State) -> str:
    if not state.failures:
        return "no reason is known"
    counts = Counter({reason: failure.count for reason, failure in state.failures.items()})
    reason, count = counts.most_common(1)[0]
    return f"most often ({count}) {reason}: {state.failures[reason].last_message}"


def _plateau(state: State, open_targets: list[TargetState]) -> str:
    """No win for long, and every lane had its chance. An explicit limit is taken as it is given."""
    won_at = max((target.mark.finished_no for target in state.targets.values() if target.mark), default=0)
    since = state.finished - won_at
    explicit = state.limits.without_improvement
    if explicit is not None:
        return f"{since} candidates without an improvement" if since >= explicit else ""
    if not state.limits.has_llm or since < max(PLATEAU_CANDIDATES, PLATEAU_SHARE * budget.expected_calls(state)):
        return ""
    if any(lanes.unproven(state, target.name) for target in open_targets):
        return ""
    return f"{since} candidates without an improvement, and every approach was tried {lanes.PROVEN_ASKS} times"


def _space_exhausted(state: State, alive: list[TargetState]) -> bool:
    return all(target.probed and tuning.next_setting(state, target.name) is None for target in alive)
