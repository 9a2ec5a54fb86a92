"""The status of a search as a pure view of its journal: what people see in `kubectl get` and `kubectl describe`.

Everything is bounded, so that no search can outgrow 64 KiB: `fitting` drops what is least needed, first the
leaderboards, then the failures. Times are the journal's; nothing here reads a clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kernelharness.protocol import Baseline, CaseFact, Purpose

from kernelsearch.api.search_status import (
    CandidateStatus,
    Condition,
    FailureStatus,
    KernelSearchStatus,
    OutputStatus,
    TargetStatus,
    Usage,
)
from kernelsearch.api.search_status import Progress as ProgressStatus
from kernelsearch.api.translate import from_micros
from kernelsearch.controller.conditions import Situation, facts, phase, stamp
from kernelsearch.evaluate.base import Progress
from kernelsearch.search.journal import Published
from kernelsearch.search.records import Candidate, TargetState
from kernelsearch.search.state import State

MAX_BYTES = 64 * 1024
MAX_FAILURES = 20
MAX_LEADERS = 10


@dataclass(frozen=True)
class Origin:
    """What the status says of its writer and of the spec that it was derived from."""

    generation: int
    problem_digest: str = ""
    epoch: int = 0
    previous: tuple[Condition, ...] = ()


def status_of(
    state: State, progress: Mapping[str, Progress], situation: Situation, origin: Origin, now_ns: int
) -> KernelSearchStatus:
    """The whole status. `progress`: batch id -> where that batch stands."""
    targets = tuple(_target(state, target, progress) for target in state.targets.values())
    now = timestamp(now_ns)
    conditions = stamp(facts(situation), origin.previous, origin.generation, now)
    verified = [speedup for name in state.targets if (speedup := _verified_speedup(state, name)) is not None]
    improved = [target.mark.at_ns for target in state.targets.values() if target.mark]
    return KernelSearchStatus(
        observed_generation=origin.generation,
        problem_digest=origin.problem_digest or None,
        controller_epoch=origin.epoch,
        phase=phase(situation, [target.state or "" for target in targets]),
        start_time=timestamp(state.started_at_ns),
        completion_time=_completion(conditions),
        last_improvement_time=timestamp(max(improved)) if improved else None,
        best_speedup=decimal(max(verified)) if verified else None,
        conditions=conditions,
        progress=_progress(state),
        usage=_usage(state, now_ns),
        targets=targets,
        failures=_failures(state),
        outputs=_outputs(state.published),
    )


def reductions(status: KernelSearchStatus) -> tuple[tuple[KernelSearchStatus, str], ...]:
    """The status and ever smaller ones, each with what was dropped for it ('' for nothing)."""
    targets = tuple(target.model_copy(update={"leaderboard": ()}) for target in status.targets)
    shorter = status.model_copy(update={"targets": targets})
    shortest = shorter.model_copy(update={"failures": ()})
    return (status, ""), (shorter, "leaderboards"), (shortest, "leaderboards and failures")


def fitting(status: KernelSearchStatus, limit: int = MAX_BYTES) -> tuple[tuple[KernelSearchStatus, str], ...]:
    """The reductions of at most `limit` bytes, largest first; the smallest one always."""
    *larger, smallest = reductions(status)
    return (*(each for each in larger if size(each[0]) <= limit), smallest)


def size(status: KernelSearchStatus) -> int:
    """Bytes of the status as JSON."""
    return len(json.dumps(manifest(status), ensure_ascii=False).encode())


def manifest(status: KernelSearchStatus) -> dict[str, object]:
    """As the API server takes it; what is None is left out, what is an empty list stays, so that it is cleared."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def timestamp(at_ns: int) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes it."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decimal(value: float) -> str:
    """Three places: 1.003 and 1.008 must not look alike."""
    return f"{value:.3f}"


def geometric_mean_ns(times: Sequence[tuple[float, int]]) -> int | None:
    """Weighted geometric mean of (nanoseconds, weight), the mean that speedups are taken over; None without weight."""
    weight = sum(each for _, each in times)
    if weight <= 0 or any(ns <= 0 for ns, _ in times):
        return None
    return round(math.exp(sum(math.log(ns) * each for ns, each in times) / weight))


def _target(state: State, target: TargetState, progress: Mapping[str, Progress]) -> TargetStatus:
    word, message = _where(state, target, progress)
    probed = target.probed
    best = state.candidates[target.best] if target.best else None
    return TargetStatus(
        name=target.name,
        state=word,
        message=message[:1024],
        device=_device(target)[:256] or None,
        baseline_nanoseconds=_baseline_ns(probed.baselines, probed.cases) if probed else None,
        evaluated=target.finished,
        correct=target.ok,
        best=_candidate(best, target) if best else None,
        leaderboard=tuple(_candidate(each, target) for each in state.leaderboard(target.name, MAX_LEADERS)),
    )


def _where(state: State, target: TargetState, progress: Mapping[str, Progress]) -> tuple[str, str]:
    """A target's state and, when nothing of it runs, why."""
    if target.failed:
        return "Failed", f"{target.failed.reason}: {target.failed.message}"
    if state.stopped:
        return "Done", ""
    mine = [batch for batch in state.batches_in_flight.values() if batch.target == target.name]
    reports = [progress[batch.id] for batch in mine if batch.id in progress]
    held_up = [report for report in reports if report.reason]
    if held_up and not any(report.state == "Running" for report in reports):
        return held_up[-1].state, held_up[-1].message
    if target.probed is None:
        return "Pending", reports[-1].message if reports else "waits for its first pod"
    if mine and all(batch.purpose is Purpose.CONFIRM for batch in mine):
        return "Verifying", ""
    return "Searching", ""


def _device(target: TargetState) -> str:
    if target.probed is None:
        return ""
    return f"{target.probed.device}, driver {target.probed.driver}" if target.probed.driver else target.probed.device


def _baseline_ns(baselines: Sequence[Baseline], cases: Sequence[CaseFact]) -> int | None:
    """The faster arm of every case that counts, averaged as speedups are."""
    weights = {case.case: case.weight for case in cases if not case.hidden}
    fastest: dict[str, int] = {}
    for each in baselines:
        if each.ns is not None and weights.get(each.case):
            fastest[each.case] = min(each.ns, fastest.get(each.case, each.ns))
    return geometric_mean_ns([(ns, weights[case]) for case, ns in fastest.items()])


def _candidate(candidate: Candidate, target: TargetState) -> CandidateStatus:
    weights = {case.case: case.weight for case in target.facts}
    times = [(each.ns, weights.get(each.case, 1)) for each in candidate.result.cases] if candidate.result else []
    return CandidateStatus(
        id=candidate.id,
        digest=candidate.source_ref,
        nanoseconds=geometric_mean_ns(times),
        speedup=None if candidate.speedup is None else decimal(candidate.speedup),
        verified=candidate.verified,
        model=candidate.proposal.model[:64] or None,
        found_at=timestamp(candidate.finished_at_ns) if candidate.finished_at_ns else None,
    )


def _verified_speedup(state: State, target: str) -> float | None:
    best = state.targets[target].confirmed_best
    return state.candidates[best].speedup if best else None


def _progress(state: State) -> ProgressStatus:
    counts = state.progress
    return ProgressStatus(
        proposed=counts.proposed,
        evaluated=counts.evaluated,
        correct=counts.correct,
        failed=counts.failed,
        running=counts.running,
        pending=counts.pending,
        generation=state.next_ask - 1,
    )


def _usage(state: State, now_ns: int) -> Usage:
    ledger = state.ledger
    return Usage(
        input_tokens=ledger.input_tokens,
        output_tokens=ledger.output_tokens,
        total_tokens=ledger.tokens,
        requests=ledger.calls,
        cost=from_micros(ledger.cost_micros),
        accelerator_seconds=round(ledger.device_seconds),
        active_seconds=round(ledger.active_seconds(now_ns)),
    )


def _failures(state: State) -> tuple[FailureStatus, ...]:
    worst = sorted(state.failures.items(), key=lambda each: (-each[1].count, each[0]))[:MAX_FAILURES]
    return tuple(
        FailureStatus(
            reason=reason[:64],
            count=failure.count,
            last_message=failure.last_message[:512],
            last_time=timestamp(failure.last_at_ns),
        )
        for reason, failure in worst
    )


def _outputs(published: Published | None) -> OutputStatus | None:
    if published is None:
        return None
    kind, _, rest = published.reference.partition("/")
    name = rest.rpartition("/")[2] if kind == "configmap" else None
    return OutputStatus(
        reference=f"configmap/{name}" if name else published.reference,
        config_map_name=name,
        published_time=timestamp(published.at_ns),
    )


def _completion(conditions: Sequence[Condition]) -> str | None:
    ended = [each for each in conditions if each.type in ("Complete", "Failed") and each.status == "True"]
    return ended[0].last_transition_time if ended else None
