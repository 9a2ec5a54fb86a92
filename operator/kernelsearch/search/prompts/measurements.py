"""What was measured, in lines for a prompt: the cases, a kernel's times, and the few facts that follow from them.

The facts are derived by rules from this kernel's own result, at most twelve, the most telling first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kernelharness.protocol import CaseFact, CaseResult, KernelTime, Profile, Result, TensorFact

from kernelsearch.search.prompts.text import duration, four, oneline, times
from kernelsearch.search.records import Candidate, TargetState

MOST_FACTS = 12
MOST_CASES = 16
FAR_FROM_BOUND = 50.0
NEAR_BOUND = 85.0
UNEVEN = 1.25
LEAST_IDLE = 0.05
FLAG_BYTES = 1024

_FLAGS = {
    "EXTRAORDINARY": "EXTRAORDINARY: faster than the bound that its necessary traffic and arithmetic set",
    "noisy": "noisy: others took CPU time away while it was timed",
    "copy_out": "copy_out: it returns the same memory in every call, so each result was copied, and the copy was timed",
    "one_by_one": "one_by_one: case {} counts with inputs that come one at a time: in a row it gains more",
    "same_binary": "same_binary: it compiles to the very binary of {}",
    "library_fallback": "library_fallback: {} of the device time is in kernels that this source does not define",
    "torch_compile_inside": "torch_compile_inside: the source uses torch.compile, torch._dynamo or torch.jit",
    "decoy_kernel": "decoy_kernel: the source defines {}, which did not run when it was profiled",
}
"""What a flag says, by what stands before its colon."""
_NOT_SHOWN = ("faster", "host_copy", "cpu_reference")
"""The interval says the first; the others are the machine's."""


@dataclass(frozen=True)
class CaseLine:
    name: str
    weight: int
    inputs: str
    parameters: str
    outputs: str
    scalars: str
    baseline: str
    bound: str


@dataclass(frozen=True)
class KernelLines:
    id: str
    plan: str
    source: str
    speedup: str
    cases: list[str]
    facts: list[str]
    verdict: str
    stage: str
    diagnostics: str


def case_lines(target: TargetState) -> list[CaseLine]:
    """The cases that the model may know of: hidden ones are left out."""
    return [
        CaseLine(
            name=fact.case,
            weight=fact.weight,
            inputs=_tensors(fact.inputs),
            parameters=_tensors(fact.parameters),
            outputs=_tensors(fact.outputs),
            scalars=", ".join(f"{name} = {value}" for name, value in fact.scalars.items()),
            baseline=_baseline(target, fact),
            bound=_bound(fact),
        )
        for fact in _visible(target)
    ]


def describe(target: TargetState, candidate: Candidate, source: str) -> KernelLines:
    """One candidate for the prompt; the measurements are those of its latest confirmation, if it has one."""
    result = candidate.results[-1] if candidate.results else None
    shown = {fact.case for fact in _visible(target)}
    cases = [case for case in result.cases if not shown or case.case in shown] if result else []
    return KernelLines(
        id=candidate.id,
        plan=candidate.plan,
        source=source,
        speedup=times(candidate.speedup) if candidate.speedup is not None else "",
        cases=[_case_line(case) for case in cases[:MOST_CASES]],
        facts=findings(target.facts, result, cases) if result else [],
        verdict=result.verdict.value if result else "",
        stage=result.stage.value if result else "",
        diagnostics=told(result) if result else "",
    )


def told(result: Result) -> str:
    """What a model reads of a kernel that was rejected."""
    return result.diagnostics or result.summary


def findings(facts: Sequence[CaseFact], result: Result, cases: Sequence[CaseResult]) -> list[str]:
    """What follows from a result, the most telling first. `cases`: those of the result that may be spoken of."""
    found = [*_resource_facts(result), *_profile_facts(result.profile), *_flag_facts(result)]
    return [*found, *_bound_facts(facts, cases), *_balance_facts(cases)][:MOST_FACTS]


def speedup_at_bound(target: TargetState) -> float | None:
    """The headline speedup of a kernel at the speed of light in every case; None when a case has no bound."""
    total, weights = 0.0, 0
    for fact in _visible(target):
        baseline = _baseline_ns(target, fact.case)
        if not fact.t_min_ns or not baseline:
            return None
        total += fact.weight * math.log(baseline / fact.t_min_ns)
        weights += fact.weight
    return math.exp(total / weights) if weights else None


def _visible(target: TargetState) -> list[CaseFact]:
    return [fact for fact in target.facts if not fact.hidden][:MOST_CASES]


def _tensors(tensors: list[TensorFact]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype}{tensor.shape}" for tensor in tensors)


def _baseline_ns(target: TargetState, case: str) -> int | None:
    arms = target.probed.baselines if target.probed else ()
    return min((arm.ns for arm in arms if arm.case == case and arm.ns), default=None)


def _baseline(target: TargetState, fact: CaseFact) -> str:
    arms = [arm for arm in (target.probed.baselines if target.probed else ()) if arm.case == fact.case and arm.ns]
    return ", ".join(f"{arm.arm} {duration(arm.ns or 0)}" for arm in arms) or "not measured"


def _bound(fact: CaseFact) -> str:
    if not fact.t_min_ns:
        return ""
    by = f" ({fact.bound} bound)" if fact.bound and fact.bound != "unknown" else ""
    return f"at least {duration(fact.t_min_ns)}{by}"


def _case_line(case: CaseResult) -> str:
    share = f", {four(case.percent_of_bound)} % of the bound" if case.percent_of_bound is not None else ""
    return (
        f"{case.case}: {duration(case.ns)} against {duration(case.baseline_ns)} ({case.baseline}), "
        f"{times(case.speedup)} [{four(case.low)}, {four(case.high)}]{share}"
    )


def _resource_facts(result: Result) -> list[str]:
    """Spills first: they explain most; then the other resources as they are."""
    found = []
    resources = dict(result.resources)
    if spilled := resources.pop("spill_bytes", 0.0):
        found.append(
            f"registers spill {four(spilled)} bytes to memory: less unrolling or smaller tiles would keep them"
        )
    named = [f"{oneline(name, 40).replace('_', ' ')} {four(value)}" for name, value in sorted(resources.items())]
    if named:
        found.append("resources: " + ", ".join(named[:12]))
    return found


def _bound_facts(facts: Sequence[CaseFact], cases: Sequence[CaseResult]) -> list[str]:
    by_case = {fact.case: fact for fact in facts}
    found = []
    for case in cases:
        fact = by_case.get(case.case)
        if fact is None or case.ns <= 0:
            continue
        rates = [f"{four(fact.bytes_min / case.ns)} GB/s of necessary traffic"] if fact.bytes_min else []
        rates += [f"{four(fact.flops / case.ns)} GFLOP/s"] if fact.flops else []
        share = case.percent_of_bound or (100 * fact.t_min_ns / case.ns if fact.t_min_ns else None)
        remark = ""
        if share is not None and share < FAR_FROM_BOUND:
            remark = ": far from the bound, so look for extra passes, strided access, serial parts or idle cores"
        elif share is not None and share > NEAR_BOUND:
            remark = ": close to the bound, little is left here"
        if rates or remark:
            found.append(f"{case.case} reaches {', '.join(rates) or four(share or 0) + ' % of the bound'}{remark}")
    return found[:4]


def _balance_facts(cases: Sequence[CaseResult]) -> list[str]:
    found = []
    if len(cases) > 1:
        worst, best = min(cases, key=lambda c: c.speedup), max(cases, key=lambda c: c.speedup)
        if best.speedup > UNEVEN * worst.speedup:
            found.append(
                f"{worst.case} gains least ({times(worst.speedup)}), {best.case} most ({times(best.speedup)}): "
                "what suits the one does not suit the other"
            )
    slow = [case.case for case in cases if case.speedup < 0.95]
    if slow:
        found.append(f"slower than the reference in {', '.join(slow)}: such a kernel is never published")
    return found


def _profile_facts(profile: Profile | None) -> list[str]:
    """Where the time goes, as the kernel's own process says."""
    if profile is None:
        return []
    rows = [
        f"{oneline(kernel.name, 80)} {_percent(kernel.share)} ({', '.join(_launch_facts(kernel))})"
        for kernel in profile.kernels
    ]
    if profile.others:
        rows.append(f"{profile.others} more {_percent(1 - sum(kernel.share for kernel in profile.kernels))}")
    what = "kernels" if profile.on_device else "operators on the CPU"
    found = [f"{what} in {profile.case}, by share of their time as its own process reports it: {', '.join(rows)}"]
    if profile.idle is not None and profile.idle >= LEAST_IDLE:
        found.append(f"between them the device is idle {_percent(profile.idle)} of the time")
    if profile.copies:
        found.append(f"{profile.copies:g} copies between host and device per call: none is necessary")
    return found


def _launch_facts(kernel: KernelTime) -> Iterator[str]:
    yield f"{kernel.calls:g} per call"
    if kernel.registers is not None:
        yield f"{kernel.registers} registers"
    if kernel.occupancy is not None:
        yield f"occupancy {_percent(kernel.occupancy)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"


def _flag_facts(result: Result) -> list[str]:
    """Every flag that says something about the kernel, cut where they are too many."""
    found: list[str] = []
    for flag in result.flags:
        kind, _, detail = flag.partition(":")
        if kind not in _NOT_SHOWN:
            found.append(oneline(_FLAGS.get(kind, flag).replace("{}", detail), 200))
    return [f"flags: {oneline('; '.join(found), FLAG_BYTES)}"] if found else []
