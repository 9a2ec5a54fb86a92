"""One candidate from its first call to its times: correctness on secret sets, then blocks of timed rounds.

Neighbours: judge.py (the batch around it), bench.py (rounds), compare.py (values), verdicts.py (what failing means).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kernelharness.bench import AGAIN, CANDIDATE, Bench, CaseBench, Samples, blocks
from kernelharness.channel import RunFlag
from kernelharness.compare import Comparer
from kernelharness.processes import Runner
from kernelharness.protocol import CaseResult, Stage, Verdict
from kernelharness.timing import Rule, estimate, noise_of
from kernelharness.verdicts import Rejection, of_comparison, of_repetition, rejecting

_EXACT_EVERY = 4
"""One timed round in so many is compared with float64 too."""
_PLANS, _SLOW_START = 3, 4
"""How often blocks are planned, at most, and how many times faster than expected calls may be."""


@dataclass
class Trial:
    """What is known of one candidate so far."""

    bench: Bench
    runner: Runner
    comparers: dict[int, Comparer]
    stage: Stage = Stage.LOAD
    copy_out: bool = False
    noisy: bool = False
    """Others took CPU time away during most blocks."""
    correctness: dict[str, float] = field(default_factory=dict)

    @property
    def flags(self) -> int:
        return RunFlag.COPY_OUT if self.copy_out else RunFlag.NONE

    def isolate(self) -> None:
        """Wait until the runner gave up its rights; only then it sees a line of the candidate. Raise Rejection."""
        with rejecting(self.runner, self.stage):
            self.runner.adopt_notifier(self.bench.deadline())
            self.runner.stop()

    def load(self, case: CaseBench) -> None:
        """Bind the candidate to a case. Raise Rejection."""
        self.stage = Stage.LOAD
        with rejecting(self.runner, self.stage, case.fact):
            self.bench.load(self.runner, case)

    def check(self, case: CaseBench) -> None:
        """Every correctness set twice, every output whole. Raise Rejection."""
        self.stage = Stage.CORRECTNESS
        count = len(case.gallery)
        with rejecting(self.runner, self.stage, case.fact):
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
                except Rejection as wrong:
                    raise of_repetition(wrong) from wrong

    def call_all(self, case: CaseBench) -> None:
        """Call it on every correctness set without looking at the results. Raise Rejection when it fails."""
        with rejecting(self.runner, self.stage, case.fact):
            self.bench.show_gallery(self.runner, case, 0, len(case.gallery))
            self.bench.run(self.runner, self.flags)

    def call_once(self, case: CaseBench) -> None:
        """Call it on inputs that nobody uses again. Raise Rejection when it fails."""
        with rejecting(self.runner, self.stage, case.fact):
            self.bench.fill_arena(case, 1)
            self.bench.show_arena(self.runner, case, 1)
            self.bench.run(self.runner, self.flags)

    def time(self, case: CaseBench, baselines: dict[str, Runner], rule: Rule) -> CaseResult:
        """Blocks of interleaved rounds until the rule has enough. Raise Rejection, also for one wrong slot.

        How long a block is follows from what the candidate's first calls took; when they were much slower than those
        that are timed, blocks were too short to tell time in, and it begins again.
        """
        self.stage = Stage.TIMING
        arms = {**baselines, CANDIDATE: self.runner}
        lead = min(case.baseline_ns, key=lambda name: case.baseline_ns[name])
        with rejecting(self.runner, self.stage, case.fact):
            expected = self.bench.call_ns(case, self.runner, self.flags)
            for _ in range(_PLANS):
                slowest = max(case.baseline_ns["eager"], expected)
                samples = self._samples(case, arms, lead, slowest, rule)
                expected = samples.call_ns(CANDIDATE)
                if slowest < _SLOW_START * max(case.baseline_ns["eager"], expected):
                    break
            else:
                text = f"calls took {slowest:.0f} ns until they were timed, and {expected:.0f} ns then"
                raise Rejection(Verdict.TIMING_MISMATCH, text)
        if samples.is_noisy:
            self.noisy = True
        if AGAIN in arms:
            # Two equal arms in the very blocks that the candidate ran in say best what these blocks can tell apart.
            case.noise = noise_of(samples.ratios("eager", AGAIN))
        return _case_result(case, samples, lead)

    def _samples(self, case: CaseBench, arms: dict[str, Runner], lead: str, slowest_ns: float, rule: Rule) -> Samples:
        calls, rounds = self.bench.plan(case, slowest_ns, rule)
        for runner in arms.values():
            self.bench.show_arena(runner, case, calls)
        self.bench.warm_up(case, arms, calls, self.flags)
        self._compare_round(case, calls, exactly=True)

        def check() -> None:
            self._compare_round(case, calls, exactly=self.bench.secret.draw() % _EXACT_EVERY == 0)

        samples = Samples(list(arms), calls * rounds)
        begin = time.perf_counter_ns()
        for block in blocks(self.bench, case, arms, calls, rounds, check, self.flags):
            samples.add(block)
            spent = time.perf_counter_ns() - begin
            if rule.is_enough(samples.clean_ratios(lead, CANDIDATE), spent) or spent > rule.patience_ns:
                break
        self._compare_round(case, calls, exactly=True)
        return samples

    def _run_gallery(self, case: CaseBench, count: int) -> list[list[Tensor]]:
        """By correctness set: the outputs."""
        self.bench.run(self.runner, self.flags)
        stacks = self.bench.device.read_outputs(self.runner, count, case.fact.outputs)
        return [[stack[position] for stack in stacks] for position in range(count)]

    def _compare(self, case: CaseBench, got: list[Tensor], position: int) -> None:
        exact = case.exact if position == 0 else None
        distribution = case.distributions[position]
        where = f"for input set {position + 1} of {len(case.gallery)} ({_SAID[distribution]})"
        given = case.given_rms if distribution != "given" else None
        self._judge(case, got, case.expected[position], where, exact, given)

    def _compare_round(self, case: CaseBench, calls: int, *, exactly: bool = False) -> None:
        """All outputs of all slots of the round that just ended; everything stands still.

        `exactly`: one slot against float64 too: the precision of correctness sets must be that of timed calls. Which
        slot, and of which rounds, the candidate cannot foresee.
        """
        got = self.bench.device.read_outputs(self.runner, calls, case.fact.outputs)
        want = self.bench.collect(case, calls)
        comparer = self.comparers[case.index]
        # All slots in one pass; a share of allowed mismatches is a share of each slot's, never pooled.
        if comparer.allows_mismatches or not comparer.compare(got, want).ok:
            for slot in range(calls):
                self._compare_slot(case, slot, got, want)
        if exactly and case.exact is not None:
            slot = self.bench.secret.draw() % calls
            kept = [stack.clone() for stack in want]
            self._compare_slot(case, slot, got, kept, self.bench.exact(case, slot * case.inputs.stride))

    def _compare_slot(
        self,
        case: CaseBench,
        slot: int,
        got: Sequence[Tensor],
        want: Sequence[Tensor],
        exact: Sequence[Tensor] | None = None,
    ) -> None:
        mine, reference = ([stack[slot] for stack in stacks] for stacks in (got, want))
        self._judge(case, mine, reference, f"in call {slot + 1} of a timed round, with fresh inputs", exact)

    def _judge(
        self,
        case: CaseBench,
        got: list[Tensor],
        want: list[Tensor],
        where: str,
        exact: Sequence[Tensor] | None = None,
        given_rms: Sequence[float] | None = None,
    ) -> None:
        found = self.comparers[case.index].compare(got, want, exact, given_rms)
        self.correctness["max_abs_error"] = max(self.correctness.get("max_abs_error", 0.0), found.max_abs)
        if exact is not None:
            self.correctness["rms_error"] = max(self.correctness.get("rms_error", 0.0), found.rms_error)
        if not found.ok:
            raise of_comparison(case.fact, found, got, want, where)


_SAID = {"given": "as the problem makes them", "mixed": "signs mixed, rescaled", "outliers": "some large values"}


def _case_result(case: CaseBench, samples: Samples, lead: str) -> CaseResult:
    found = {name: estimate(samples.ratios(name, CANDIDATE)) for name in case.baseline_ns}
    baseline_ns = samples.call_ns(lead)
    if case.compile_ratio is not None:
        found["compile"] = found["eager"].shifted(math.log(case.compile_ratio))
        if case.compile_ratio < 1:
            lead, baseline_ns = "compile", baseline_ns * case.compile_ratio
    best = found[lead]
    ns = samples.call_ns(CANDIDATE)
    return CaseResult(
        case=case.fact.case,
        ns=round(ns),
        low=math.exp(best.low),
        high=math.exp(best.high),
        speedup=math.exp(best.mean),
        baseline=lead,
        baseline_ns=round(baseline_ns),
        speedup_eager=math.exp(found["eager"].mean),
        speedup_compile=math.exp(found["compile"].mean) if "compile" in found else None,
        samples=best.samples,
        mean_log_ratio=best.mean,
        standard_error=best.standard_error,
        percent_of_bound=round(case.bound.percent(ns), 2) if case.bound else None,
    )
