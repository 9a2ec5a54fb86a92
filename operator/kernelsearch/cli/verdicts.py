"""What the judge said, for a person: the reference at the top, then each kernel with its verdict as it comes.

Of a rejected kernel the text is the very one that a model would read, of a right one so are the findings below its
times: both come from search/prompts. Pure, one list of lines for each thing that is said. Neighbour: evaluate.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kernelharness.protocol import CaseFact, CaseResult, Hello, Result, TensorFact, Verdict

from kernelsearch.search.prompts.measurements import findings, told
from kernelsearch.search.prompts.text import duration, four, readable_header, times


def device_lines(hello: Hello) -> Iterator[str]:
    """Where it runs, and what keeps a candidate in its place there."""
    yield f"device: {hello.device}" + (f" ({hello.driver})" if hello.driver else "")
    if hello.isolation:
        yield f"isolation: {', '.join(f'{layer} {state}' for layer, state in sorted(hello.isolation.items()))}"


def problem_lines(facts: Sequence[CaseFact]) -> Iterator[str]:
    """What is computed in each case, and how fast it can be at all."""
    for fact in facts:
        taken, made = _tensors([*fact.inputs, *fact.parameters]), _tensors(fact.outputs)
        bound = f"; takes at least {duration(fact.t_min_ns)} ({fact.bound} bound)" if fact.t_min_ns else ""
        yield f"case {fact.case}: {taken} -> {made}" + ("; checked, not timed" if fact.hidden else bound)


def headline(name: str, result: Result) -> str:
    """One line: what it is worth."""
    if result.verdict is Verdict.COMPILED:
        return f"{name}: {result.summary}"
    if result.verdict is not Verdict.OK or result.speedup is None:
        return f"{name}: {result.verdict.value}, found in {result.stage.value}"
    return f"{name}: OK, {times(result.speedup)}{_interval(result.low, result.high)}, {_standing(result)}"


def result_lines(result: Result, facts: Sequence[CaseFact]) -> Iterator[str]:
    """What stands below the headline."""
    if result.verdict not in (Verdict.OK, Verdict.COMPILED):
        yield from told(result).strip().split("\n")
    for case in result.cases:
        yield _case_line(case)
    yield from (f"- {finding}" for finding in findings(facts, result, result.cases))
    parts = [f"{stage} {seconds:.2f} s" for stage, seconds in result.walls.items() if stage != "total"]
    if "total" in result.walls:
        yield f"judged in {result.walls['total']:.2f} s" + (f": {', '.join(parts)}" if parts else "")


def header_lines(header: str) -> Iterator[str]:
    """The part of problem.h that is to be read."""
    yield from readable_header(header).split("\n")


def _tensors(tensors: Sequence[TensorFact]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype}{tensor.shape}" for tensor in tensors)


def _standing(result: Result) -> str:
    """In words, so that nobody takes 'OK' for 'faster'."""
    if "faster" in result.flags:
        return "right and faster than the reference"
    if result.high is not None and result.high < 1:
        return "right, but slower than the reference"
    return "right, but not measurably faster than the reference"


def _case_line(case: CaseResult) -> str:
    """The headline baseline has the interval; the other arm was measured in the same blocks."""
    arms = {"eager": case.speedup_eager, "compile": case.speedup_compile}
    others = [f", {times(ratio)} over {arm}" for arm, ratio in arms.items() if ratio and arm != case.baseline]
    share = f", {four(case.percent_of_bound)} % of the bound" if case.percent_of_bound is not None else ""
    return (
        f"case {case.case}: {duration(case.ns)}, {times(case.speedup)}{_interval(case.low, case.high)} over "
        f"{case.baseline} ({duration(case.baseline_ns)}){''.join(others)}{share}"
    )


def _interval(low: float | None, high: float | None) -> str:
    return f" [{four(low)}, {four(high)}]" if low is not None and high is not None else ""
