"""One candidate from its first call to its times: correctness on secret sets, then blocks of timed rounds.

Neighbours: judge.py (the batch around it), bench.py (rounds), audit.py (calls one by one), compare.py (values),
verdicts.py (what failing means).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from kernelharness.audit import Audit
from kernelharness.bench import AGAIN, CANDIDATE, Bench, CaseBench
from kernelharness.channel import Order, OrderKind, Reply, RunFlag
from kernelharness.compare import Comparer
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.profiling import Seen, read
from kernelharness.protocol import CaseResult, Stage, Verdict
from kernelharness.samples import PLANS, SLOW_START, Samples, sample
from kernelharness.timing import MIN_BLOCKS, Estimate, Rule, estimate, noise_of
from kernelharness.verdicts import Rejection, of_comparison, of_repetition, rejecting

_EXACT_EVERY = 4
"""One timed round in so many is compared with float64 too."""
PROFILE_SECONDS = 5.0
_PROFILED, _PROFILED_NS = 3, 1e9
"""So many calls are profiled; one, where they would take longer than this."""


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
    one_by_one: list[str] = field(default_factory=list)
    """Cases whose speedup is that of calls whose inputs come one by one."""
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
        with rejecting(self.runner, self.stage, case.fact):
            for first, count in case.sets:
                self._check_sets(case, first, count)

    def _check_sets(self, case: CaseBench, first: int, count: int) -> None:
        expected = self.bench.show_sets(self.runner, case, first, count)
        self.bench.run(self.runner, self.flags)
        if not self.copy_out and self.bench.device.share_memory(self.runner, count, case.fact.outputs):
            self.copy_out = True
            self.bench.run(self.runner, self.flags)
        self._compare_sets(case, expected, first)
        self.bench.run(self.runner, self.flags)
        try:
            self._compare_sets(case, expected, first)
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
            for _ in range(PLANS):
                slowest = max(case.baseline_ns["eager"], expected)
                samples, singly = self._samples(case, arms, lead, slowest, rule)
                expected = samples.call_ns(CANDIDATE)
                if slowest < SLOW_START * max(case.baseline_ns["eager"], expected):
                    break
            else:
                text = f"calls took {slowest:.0f} ns until they were timed, and {expected:.0f} ns then"
                raise Rejection(Verdict.TIMING_MISMATCH, text)
            self.bench.device.expect_clean()
        if samples.is_noisy:
            self.noisy = True
        if AGAIN in arms:
            # Two equal arms in the very blocks that the candidate ran in say best what these blocks can tell apart.
            case.noise = noise_of(samples.ratios("eager", AGAIN))
        found = _estimates(case, samples, self.bench.device.spread(samples.run_ns(CANDIDATE)))
        if singly is not None and singly.count >= MIN_BLOCKS:
            shortest = min(singly.call_ns(lead), singly.call_ns(CANDIDATE))
            alone = _estimates(case, singly, self.bench.device.singly_spread(shortest))
            if alone[lead].high < found[lead].mean:
                self.one_by_one.append(case.fact.case)
                return _case_result(case, singly, alone, lead)
        return _case_result(case, samples, found, lead)

    def profile(self, case: CaseBench, result: CaseResult) -> Seen | None:
        """What the candidate's own process says of its kernels in a case that it was timed in; it is over then.

        Only when its verdict is known: nothing that it does now can matter any more. A call that is refused may be the
        profiler's, and ends nothing; the table is read when the process is dead. None: it did not say in time.
        """
        calls = _PROFILED if _PROFILED * result.ns < _PROFILED_NS else 1
        flags, offset = (RunFlag.GALLERY, case.gallery[0]) if case.gallery else (RunFlag.NONE, 0)
        order = Order(OrderKind.PROFILE, case.index, offset, calls, flags=flags)
        reply: Reply | None = None
        with contextlib.suppress(RunnerFault, OSError):
            end = time.monotonic() + PROFILE_SECONDS
            self.runner.resume()
            self.runner.tell(order)
            while reply is None:
                try:
                    reply = self.runner.wait(end)
                except RunnerFault as fault:
                    if fault.kind is not FaultKind.FORBIDDEN or time.monotonic() > end:
                        raise
        self.runner.kill()
        if reply is None:
            return None
        on_device = self.bench.device.torch_device != "cpu"
        return read(self.runner.board.read_bytes(reply.a), case.fact.case, calls, on_device=on_device)

    def _samples(
        self, case: CaseBench, arms: dict[str, Runner], lead: str, slowest_ns: float, rule: Rule
    ) -> tuple[Samples, Samples | None]:
        """Of calls in a row, and, where the device can tell, of calls whose inputs come one by one."""
        calls, rounds = self.bench.plan(case, slowest_ns, rule, len(arms))
        for runner in arms.values():
            self.bench.show_arena(runner, case, calls)
        self.bench.warm_up(case, arms, calls, self.flags)
        self._compare_round(case, calls, exactly=True)

        def check() -> None:
            self._compare_round(case, calls, exactly=self.bench.secret.draw() % _EXACT_EVERY == 0)

        def enough(samples: Samples, spent_ns: int) -> bool:
            spread = self.bench.device.spread(samples.run_ns(CANDIDATE))
            return rule.is_enough(samples.clean_ratios(lead, CANDIDATE), spent_ns, spread)

        plan = (calls, rounds)
        samples = sample(self.bench, case, arms, plan, rule, enough=enough, check=check, flags=self.flags)
        self._compare_round(case, calls, exactly=True)
        if calls == 1:
            return samples, None
        compare = partial(self._compare_round, case)
        return samples, Audit(self.bench, case, arms, calls, samples, lead, self.flags, compare).run()

    def _compare_sets(self, case: CaseBench, expected: Sequence[list[Tensor]], first: int) -> None:
        """The results of the run that just ended, of sets from the `first` on. Raise Rejection."""
        for call, want in enumerate(expected):
            got = self.bench.device.read_outputs(self.runner, 1, case.fact.outputs, first=call)
            self._compare(case, [stack[0] for stack in got], want, first + call)

    def _compare(self, case: CaseBench, got: list[Tensor], want: list[Tensor], position: int) -> None:
        exact = case.exact if position == 0 else None
        distribution = case.distributions[position]
        where = f"for input set {position + 1} of {len(case.distributions)} ({_SAID[distribution]})"
        given = case.given_rms if distribution != "given" else None
        self._judge(case, got, want, where, exact, given)

    def _compare_round(self, case: CaseBench, calls: int, *, exactly: bool = False) -> None:
        """All outputs of all slots of the round that just ended; everything stands still.

        `exactly`: one slot against float64 too: the precision of correctness sets must be that of timed calls. Which
        slot, and of which rounds, the candidate cannot foresee.
        """
        chosen = self.bench.secret.draw() % calls if exactly and case.exact is not None else None
        for first, count in self.bench.portions(case, calls):
            want = self.bench.collect(case, count, first)
            self._compare_slots(case, want, first)
            if chosen is not None and first <= chosen < first + count:
                self._compare_exactly(case, [stack[chosen - first] for stack in want], chosen)

    def _compare_slots(self, case: CaseBench, want: list[Tensor], first: int) -> None:
        device, facts, comparer = self.bench.device, case.fact.outputs, self.comparers[case.index]
        count = len(want[0])
        errors = device.errors(self.runner, facts, want, first)
        if errors is not None and comparer.holds(errors, want):
            return
        got = device.read_outputs(self.runner, count, facts, first)
        # All slots in one pass; a share of allowed mismatches is a share of each slot's, never pooled.
        if comparer.allows_mismatches or not comparer.compare(got, want).ok:
            for slot in range(count):
                mine, right = [stack[slot] for stack in got], [stack[slot] for stack in want]
                self._judge(case, mine, right, _which(first + slot))

    def _compare_exactly(self, case: CaseBench, want: list[Tensor], slot: int) -> None:
        got = self.bench.device.read_outputs(self.runner, 1, case.fact.outputs, first=slot)
        kept = [tensor.clone() for tensor in want]  # exact() writes where they lie
        exact = self.bench.exact(case, slot * case.inputs.stride)
        self._judge(case, [stack[0] for stack in got], kept, _which(slot), exact)

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


def _which(slot: int) -> str:
    return f"in call {slot + 1} of a timed round, with fresh inputs"


def _estimates(case: CaseBench, samples: Samples, spread: float) -> dict[str, Estimate]:
    """Of the candidate against each baseline that was timed with it."""
    return {name: estimate(samples.ratios(name, CANDIDATE)).widened(spread) for name in case.baseline_ns}


def _case_result(case: CaseBench, samples: Samples, found: dict[str, Estimate], lead: str) -> CaseResult:
    baseline_ns = samples.call_ns(lead)
    if case.compile_ratio is not None:
        found = {**found, "compile": found["eager"].shifted(math.log(case.compile_ratio))}
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
