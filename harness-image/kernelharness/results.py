"""How a candidate's outcome is written down: one `Result` for every way it can end.

Pure: from rejections, compile outcomes and case results to what travels. Neighbours: judge.py, diagnose.py (texts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kernelharness import diagnose
from kernelharness.bench import CaseBench
from kernelharness.compiler import Compiled
from kernelharness.devices.base import Ceilings
from kernelharness.languages.base import Language
from kernelharness.protocol import Candidate, CaseFact, CaseResult, Result, Stage, Toolchain, Verdict
from kernelharness.roofline import bound_of, is_extraordinary, is_impossible
from kernelharness.verdicts import Rejection

FASTER = "faster"
"""Flag: the interval lies beyond what two copies of the reference differ by on this machine."""
EXTRAORDINARY = "EXTRAORDINARY"


def rejected(candidate: Candidate, rejection: Rejection, stage: Stage) -> Result:
    return Result(
        candidate=candidate.id,
        verdict=rejection.verdict,
        stage=stage,
        summary=diagnose.clean(rejection.text, 240).replace("\n", " "),
        diagnostics=rejection.diagnosis,
    )


def compile_rejection(
    candidate: Candidate, compiled: Compiled, language: Language, toolchain: Toolchain, facts: Sequence[CaseFact]
) -> Result:
    """The source did not become something that can be loaded."""
    if compiled.survivors:
        offence = Rejection(Verdict.TAMPERING, f"{compiled.survivors} processes outlived the compiler")
        return rejected(candidate, offence, Stage.COMPILE)
    if compiled.timed_out:
        text = f"the compiler did not finish in {toolchain.compile_timeout_seconds} s"
        return rejected(candidate, Rejection(Verdict.COMPILE_ERROR, text), Stage.COMPILE)
    errors = language.compile_errors(compiled.text, language.source_name(toolchain))
    told = diagnose.of_compile(errors, candidate.files[0].content, compiled.text, lambda: language.declarations(facts))
    first = errors[0].message if errors else (compiled.text.strip().splitlines() or ["no output was made"])[-1]
    return rejected(candidate, Rejection(Verdict.COMPILE_ERROR, first, told), Stage.COMPILE)


def accepted(
    candidate: Candidate,
    results: Sequence[CaseResult],
    cases: Sequence[CaseBench],
    ceilings: Ceilings,
    cache_bytes: int,
) -> Result:
    """Right in every case. Raise Rejection when a time cannot be one of this function."""
    flags: list[str] = []
    for case, result in zip(cases, results, strict=True):
        if is_impossible(case.fact, result.ns, ceilings, cache_bytes):
            text = f"case {result.case!r}: {result.ns} ns is less than writing the outputs takes"
            raise Rejection(Verdict.IMPOSSIBLE_SPEED, text)
        if EXTRAORDINARY not in flags and is_extraordinary(case.fact, result.ns, ceilings):
            flags.append(EXTRAORDINARY)
    weights = _weights(cases)
    mean = sum(weight * result.mean_log_ratio for weight, result in zip(weights, results, strict=True))
    # Cases are measured one after the other, so their errors are independent and add as squares.
    below = math.hypot(*(w * (r.mean_log_ratio - math.log(r.low)) for w, r in zip(weights, results, strict=True)))
    above = math.hypot(*(w * (math.log(r.high) - r.mean_log_ratio) for w, r in zip(weights, results, strict=True)))
    noise = math.hypot(*(w * case.noise for w, case in zip(weights, cases, strict=True)))
    if mean - below > noise:
        flags.append(FASTER)
    speedup, low, high = math.exp(mean), math.exp(mean - below), math.exp(mean + above)
    facts = [case.fact for case in cases]
    return Result(
        candidate=candidate.id,
        verdict=Verdict.OK,
        stage=Stage.TIMING,
        summary=f"{speedup:.2f}x ({low:.2f} to {high:.2f}) over the faster baseline",
        cases=list(results),
        speedup=speedup,
        low=low,
        high=high,
        flags=flags,
        diagnostics=diagnose.of_speed(results, facts, [bound_of(fact, ceilings) for fact in facts]),
    )


def _weights(cases: Sequence[CaseBench]) -> list[float]:
    """Shares that add up to 1; all equal when every weight is 0."""
    total = sum(case.fact.weight for case in cases)
    return [case.fact.weight / total if total else 1 / len(cases) for case in cases]
