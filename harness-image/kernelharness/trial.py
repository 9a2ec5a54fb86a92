"""One candidate from its first call to its times: correctness on secret sets, then blocks of timed rounds.

Every offence, fault and wrong value becomes one `Rejection`; what a runner claims about itself only ever chooses among
rejections. Neighbours: judge.py (the batch around it), bench.py (rounds), compare.py (values), diagnose.py (texts).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from kernelharness.bench import Bench, CaseBench, blocks
from kernelharness.channel import Failure, RunFlag
from kernelharness.compare import Comparer, Comparison
from kernelharness.devices.base import OutputFault
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import CaseResult, Stage, Tolerance, Verdict
from kernelharness.timing import Rule, calls_per_round, estimate

_MAX_VOID_SHARE = 0.5
_ARENA_BYTES = 128 << 20
"""Slots and results of one round at most."""
_BAD_POINTER = (signal.SIGSEGV, signal.SIGBUS)


class Rejection(Exception):
    """The candidate's verdict is not OK."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


@dataclass(frozen=True)
class Wrong:
    """Values that were wrong, for the diagnosis: kept whole."""

    case: CaseBench
    comparison: Comparison
    got: Tensor
    want: Tensor
    where: str


class WrongOutput(Rejection):
    """Values that differ, with what is needed to say how."""

    def __init__(self, wrong: Wrong) -> None:
        name = wrong.case.fact.outputs[wrong.comparison.output].name
        text = f"output {name!r} of case {wrong.case.fact.case!r} is wrong {wrong.where}"
        super().__init__(wrong.comparison.verdict, text)
        self.wrong = wrong


@dataclass
class Trial:
    """What is known of one candidate so far."""

    bench: Bench
    runner: Runner
    comparers: dict[int, Comparer]
    stage: Stage = Stage.LOAD
    copy_out: bool = False
    correctness: dict[str, float] = field(default_factory=dict)

    @property
    def flags(self) -> int:
        return RunFlag.COPY_OUT if self.copy_out else RunFlag.NONE

    def isolate(self) -> None:
        """Wait until the runner gave up its rights; only then it sees a line of the candidate. Raise Rejection."""
        with verdicts(self.runner):
            self.runner.adopt_notifier(self.bench.deadline())
            self.runner.stop()

    def load(self, case: CaseBench) -> None:
        """Bind the candidate to a case. Raise Rejection."""
        self.stage = Stage.LOAD
        with verdicts(self.runner):
            self.bench.load(self.runner, case)

    def check(self, case: CaseBench) -> None:
        """Every correctness set twice, every output whole. Raise Rejection."""
        self.stage = Stage.CORRECTNESS
        count = len(case.gallery)
        with verdicts(self.runner):
            self.bench.show_gallery(self.runner, case, 0, count)
            first = self._run_gallery(case, count)
            if not self.copy_out and self.bench.device.share_memory(self.runner, count, case.fact.outputs):
                self.copy_out = True
                first = self._run_gallery(case, count)
            for position, outputs in enumerate(first):
                self._compare(case, outputs, position)
            for position, outputs in enumerate(self._run_gallery(case, count)):
                try:
                    self._compare(case, outputs, position)
                except WrongOutput as wrong:
                    again = "right at first, wrong when called again with the same inputs"
                    raise Rejection(Verdict.NONDETERMINISTIC, f"{wrong.text}: {again}") from wrong

    def time(self, case: CaseBench, baselines: dict[str, Runner], rule: Rule) -> CaseResult:
        """Blocks of interleaved rounds until the rule has enough. Raise Rejection, also for one wrong slot."""
        self.stage = Stage.TIMING
        arms = {**baselines, "candidate": self.runner}
        lead = min(baselines, key=lambda name: case.baseline_ns[name])
        ratios: dict[str, list[float]] = {name: [] for name in baselines}
        times: dict[str, list[float]] = {name: [] for name in arms}
        void = 0
        with verdicts(self.runner):
            calls, rounds = self._plan(case, rule)
            for runner in arms.values():
                self.bench.show_arena(runner, case, calls)
            self.bench.round(case, arms, list(arms), calls, self.flags)  # first touch of every result's memory
            self._compare_round(case, calls)
            begin = time.perf_counter_ns()
            for block in blocks(
                self.bench, case, arms, calls, rounds, lambda: self._compare_round(case, calls), self.flags
            ):
                if not block:
                    void += 1
                    if void > rule.max_blocks * _MAX_VOID_SHARE:
                        raise Rejection(Verdict.NOISY_NODE, "the CPU was throttled during most blocks")
                    continue
                for name, total in block.items():
                    times[name].append(total / (calls * rounds))
                for name in baselines:
                    ratios[name].append(math.log(block[name] / block["candidate"]))
                if rule.is_enough(ratios[lead], time.perf_counter_ns() - begin):
                    break
        return _case_result(case, ratios, times, lead)

    def _plan(self, case: CaseBench, rule: Rule) -> tuple[int, int]:
        """(calls of a round, rounds of a block), by the slower of reference and candidate."""
        slowest = max(case.baseline_ns["eager"], self.bench.call_ns(case, self.runner, self.flags))
        slot = case.inputs.stride + 2 * case.outputs.stride
        return calls_per_round(slowest, rule.block_ns, slot, _ARENA_BYTES, self.bench.most_calls(case))

    def _run_gallery(self, case: CaseBench, count: int) -> list[list[Tensor]]:
        self.bench.run(self.runner, self.flags)
        return [self.bench.device.read_outputs(self.runner, call, case.fact.outputs) for call in range(count)]

    def _compare(self, case: CaseBench, got: Sequence[Tensor], position: int) -> None:
        exact = case.exact if position == 0 else None
        where = f"for inputs {position + 1} of {len(case.gallery)} ({case.distributions[position]})"
        given = case.given_rms if case.distributions[position] != "given" else None
        self._judge(case, got, case.expected[position], where, exact, given)

    def _compare_round(self, case: CaseBench, calls: int) -> None:
        """All outputs of all slots of the round that just ended; everything stands still."""
        for slot, want in enumerate(self.bench.collect(case, calls)):
            got = self.bench.device.read_outputs(self.runner, slot, case.fact.outputs)
            self._judge(case, got, want, f"in a timed call, number {slot + 1} of its round")

    def _judge(
        self,
        case: CaseBench,
        got: Sequence[Tensor],
        want: Sequence[Tensor],
        where: str,
        exact: Sequence[Tensor] | None = None,
        given_rms: Sequence[float] | None = None,
    ) -> None:
        found = self.comparers[case.index].compare(got, want, exact, given_rms)
        self.correctness["max_abs_error"] = max(self.correctness.get("max_abs_error", 0.0), found.max_abs)
        if exact is not None:
            self.correctness["rms_error"] = max(self.correctness.get("rms_error", 0.0), found.rms_error)
        if not found.ok:
            raise WrongOutput(Wrong(case, found, got[found.output], want[found.output].clone(), where))


@contextmanager
def verdicts(runner: Runner) -> Iterator[None]:
    """Turn what a candidate's runner does wrong into a Rejection; the faults of other runners pass through."""
    try:
        yield
    except OutputFault as fault:
        raise Rejection(fault.verdict, fault.text) from fault
    except RunnerFault as fault:
        if fault.runner is not runner:
            raise
        runner.kill()
        raise Rejection(_verdict_of(fault, runner.output), _text_of(fault, runner.output)) from fault


def _verdict_of(fault: RunnerFault, output: str) -> Verdict:
    match fault.kind:
        case FaultKind.TIMEOUT:
            return Verdict.TIMEOUT
        case FaultKind.FLOOD:
            return Verdict.RESOURCE_ABUSE
        case FaultKind.FORBIDDEN | FaultKind.PROTOCOL:
            return Verdict.TAMPERING
        case FaultKind.FAILED:
            by_failure = {Failure.OOM: Verdict.OOM, Failure.LOAD: Verdict.LOAD_ERROR}
            return by_failure.get(Failure(fault.status), Verdict.RUNTIME_ERROR)
        case FaultKind.DIED:
            return _verdict_of_death(fault.signal_number, output)


def _verdict_of_death(number: int, output: str) -> Verdict:
    if number in _BAD_POINTER:
        return Verdict.MEMORY_FAULT
    if number == signal.SIGSYS:
        return Verdict.TAMPERING
    if number == signal.SIGKILL or "bad_alloc" in output:
        return Verdict.OOM
    heap = ("corrupted", "double free", "invalid pointer", "invalid size", "stack smashing", "invalid next size")
    if number == signal.SIGABRT and any(word in output for word in heap):
        return Verdict.MEMORY_FAULT
    return Verdict.RUNTIME_ERROR


def _text_of(fault: RunnerFault, output: str) -> str:
    tail = output.strip()[-1000:]
    return f"{fault.text}\nit printed: {tail}" if tail else fault.text


def _case_result(
    case: CaseBench, ratios: dict[str, list[float]], times: dict[str, list[float]], lead: str
) -> CaseResult:
    found = {name: estimate(values) for name, values in ratios.items()}
    best = found[lead]
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    return CaseResult(
        case=case.fact.case,
        ns=round(median["candidate"]),
        low=math.exp(best.low),
        high=math.exp(best.high),
        speedup=math.exp(best.mean),
        baseline=lead,
        baseline_ns=round(median[lead]),
        speedup_eager=math.exp(found["eager"].mean),
        speedup_compile=math.exp(found["compile"].mean) if "compile" in found else None,
        samples=best.samples,
        mean_log_ratio=best.mean,
        standard_error=best.standard_error,
    )
