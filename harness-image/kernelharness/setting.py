"""What the candidates of one batch are judged against: facts of the problem, secret sets, baselines, reference runners.

Prepared once, before the first candidate; a problem that says nothing about speed, or that cannot be judged here, is
refused. No candidate is known here. Neighbours: judge.py (uses it), reference.py (what is asked of E), bench.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kernelharness import processes
from kernelharness.bench import AGAIN, Bench, CaseBench
from kernelharness.channel import Failure, Order, OrderKind
from kernelharness.devices.base import Ceilings, Device, TooLarge
from kernelharness.languages.base import Language
from kernelharness.languages.signature import UnsupportedArgument
from kernelharness.log import Log
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import Baseline, Batch, Case, CaseFact, ProblemFact, Purpose, Verdict, to_artifacts
from kernelharness.reference import (
    Known,
    again_is_better,
    baselines_of,
    degenerate_reason_of,
    describe_cases,
    fill_gallery,
    need_of,
    time_baselines,
)
from kernelharness.roofline import bound_of, with_bound
from kernelharness.secret import Secret
from kernelharness.timing import CONFIRMING, Rule
from kernelharness.zygote import Zygote

REFERENCE_SECONDS = 300.0
COMPILED_BASELINE_SECONDS = 120.0
MODEL_SEED = 42
"""Weights are part of the problem, not a secret: the candidate is handed them."""
_CONFIRM_SETS = 2
"""A confirmation uses this many times the correctness sets."""


@dataclass
class Zygotes:
    light: Zygote
    torch: Zygote


class ProblemRefused(Exception):
    """No candidate of this problem can be judged."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@dataclass
class Setting:
    """Of one batch. `prepare` is called once."""

    batch: Batch
    language: Language
    device: Device
    zygotes: Zygotes
    log: Log
    torch_compile: bool
    """False: there is no such baseline in any batch."""
    scratch: Path
    code: Path
    """Where torch.compile keeps what it compiled; no candidate can write there."""
    known: list[Known] = field(default_factory=list)
    cases: list[CaseBench] = field(default_factory=list)
    runners: dict[str, Runner] = field(default_factory=dict)
    """The references that live as long as the batch: eager, and compile where it could be had."""

    @property
    def timed_cases(self) -> list[CaseBench]:
        return [case for case in self.cases if not case.fact.hidden]

    @property
    def facts(self) -> list[CaseFact]:
        return [case.fact for case in self.cases]

    @property
    def rule(self) -> Rule:
        return CONFIRMING if self.batch.purpose is Purpose.CONFIRM else self.device.screening

    def prepare(self) -> None:
        """Facts, secret sets and baselines. Raise ProblemRefused when no candidate of this problem can be judged."""
        secret = Secret(os.getrandom(32))
        headers = self.describe(secret)
        self.ceilings: Ceilings = self.device.measure_ceilings()
        for case in self.cases:
            case.fact = with_bound(case.fact, self.ceilings)
            case.bound = bound_of(case.fact, self.ceilings)
        sets = self.batch.problem.tolerance.seeds * (_CONFIRM_SETS if self.batch.purpose is Purpose.CONFIRM else 1)
        try:
            self.device.reserve(need_of(self.cases, sets))
        except TooLarge as error:
            raise ProblemRefused(Verdict.UNSUPPORTED_PROBLEM, str(error)) from error
        self.start_reference(secret)
        with _refusing_memory():
            fill_gallery(self.bench, self.cases, sets)
        for case in self.cases:
            if reason := degenerate_reason_of(self.bench, case, self.batch.problem.tolerance):
                raise ProblemRefused(Verdict.DEGENERATE_PROBLEM, f"case {case.fact.case!r}: {reason}")
        self.tell_problem(headers)
        with _refusing_memory():
            self._baselines()

    def tell_problem(self, headers: dict[str, str], not_run: str = "") -> None:
        """Raise ProblemRefused when there is too much to tell."""
        try:
            self.log.write(ProblemFact(cases=[case.fact for case in self.cases], not_run=not_run))
        except ValueError as error:
            names = sum(len(case.fact.parameters) for case in self.cases)
            reason = (
                f"too many tensors: {names} parameters over {len(self.cases)} cases; take a part of it, or fewer cases"
            )
            raise ProblemRefused(Verdict.UNSUPPORTED_PROBLEM, reason) from error
        for name, text in headers.items():
            for piece in to_artifacts("", name, text.encode()):
                self.log.write(piece)

    def describe(self, secret: Secret) -> dict[str, str]:
        """Ask what each case is; the language's headers. Raise ProblemRefused.

        It is asked of a runner of its own: describing takes memory that timed calls must not find.
        """
        if lacks := self.language.missing(self.batch.toolchain):
            raise ProblemRefused(Verdict.HARNESS_ERROR, lacks)
        runner = self._reference("describing", "reference")
        bench = Bench(self.device, runner, secret, REFERENCE_SECONDS)
        try:
            self.known, self.cases = describe_cases(bench, self._given_cases())
            return self.language.headers([case.fact for case in self.cases])
        except (RunnerFault, UnsupportedArgument) as error:
            if isinstance(error, RunnerFault) and error.kind is not FaultKind.FAILED:
                raise
            raise ProblemRefused(Verdict.UNSUPPORTED_PROBLEM, str(error)) from error
        finally:
            runner.kill()
            self.device.forget(runner)

    def start_reference(self, secret: Secret) -> None:
        eager = self.runners["eager"] = self._reference("eager", "reference")
        self.bench = Bench(self.device, eager, secret, REFERENCE_SECONDS)

    def _given_cases(self) -> list[Case]:
        return list(self.batch.problem.cases) or [Case(name="default")]

    def _all_cases(self) -> list[Case]:
        """With the one that nobody is shown, once it is known."""
        return [known.case for known in self.known] or self._given_cases()

    def _baselines(self) -> None:
        known = self.batch.compile_ratios
        if not self.torch_compile:
            note = "not asked for"
        elif known is not None:
            note = "the probe found none"
        else:
            note = self._start_compiled()
        again = self._reference("again", "reference")
        arms = {**self.runners, AGAIN: again}
        # A probe's times and ratio stand for the whole search; everywhere else they are measured again with candidates.
        rule = CONFIRMING if self.batch.purpose is Purpose.PROBE else self.device.screening
        try:
            for case in self.timed_cases:
                time_baselines(self.bench, case, arms, rule)
            if again_is_better(self.timed_cases, self.device.process_spread):
                again = self._change_places(again)
        finally:
            if self.batch.purpose is not Purpose.CONFIRM:
                again.kill()
                self.device.forget(again)
        if self.batch.purpose is Purpose.CONFIRM:
            self.runners[AGAIN] = again  # two equal arms, in the very blocks of the candidate
        for case in self.timed_cases:
            del case.baseline_ns[AGAIN]
            for baseline in baselines_of(case):
                self.log.write(baseline)
            if known and case.fact.case in known:
                case.compile_ratio = known[case.fact.case]
                estimated = round(case.baseline_ns["eager"] * case.compile_ratio)
                earlier = "not timed in this batch: eager's time, by the ratio that the probe measured"
                self.log.write(Baseline(case=case.fact.case, arm="compile", ns=estimated, note=earlier))
            elif "compile" not in arms:
                self.log.write(Baseline(case=case.fact.case, arm="compile", note=note))

    def _change_places(self, again: Runner) -> Runner:
        """The second eager arm becomes the first one; the other, which is none any more."""
        first, self.runners["eager"], self.bench.reference = self.runners["eager"], again, again
        for case in self.timed_cases:
            case.baseline_ns["eager"] = case.baseline_ns[AGAIN]
        return first

    def _start_compiled(self) -> str:
        """Start C and let it compile every case; why not, when it cannot."""
        runner = self._reference("compile", "compiled")
        end = time.monotonic() + COMPILED_BASELINE_SECONDS
        try:
            for case in self.timed_cases:
                runner.ask(Order(OrderKind.LOAD, case.index, case.state_offset), end)
                runner.stop()
        except RunnerFault as fault:
            runner.kill()
            processes.kill_survivors(self.children())  # its compilers, which are no candidate's fault
            return f"torch.compile cannot run this reference: {fault.text[-300:]}"
        self.runners["compile"] = runner
        return ""

    def _reference(self, name: str, arm: str) -> Runner:
        config = {
            "arm": arm,
            "problem": self.batch.problem.model_dump(mode="json"),
            "cases": [case.model_dump(mode="json") for case in self._all_cases()],
            "known": [known.document for known in self.known],
            "model_seed": MODEL_SEED,
            "threads": self.device.threads,
            "touch_bytes": self.device.touch_bytes,
            "writable": ["desk"],
            "code": str(self.code),
            "scratch": str(self.scratch),
            **self.device.runner_config(trusted=True),
        }
        return Runner(name, self.zygotes.torch, config, self.device.runner_memory(trusted=True))

    def children(self) -> set[int]:
        """Processes that may be there when a candidate is over."""
        return {self.zygotes.light.pid, self.zygotes.torch.pid, *(runner.pid for runner in self.runners.values())}


@contextlib.contextmanager
def _refusing_memory() -> Iterator[None]:
    """A reference that needs more memory than there is makes a problem that cannot be judged here."""
    try:
        yield
    except RunnerFault as fault:
        if fault.kind is not FaultKind.FAILED or fault.status != Failure.OOM:
            raise
        text = "the reference runs out of memory beside the judge and the other arms; take a smaller case"
        raise ProblemRefused(Verdict.UNSUPPORTED_PROBLEM, f"{text} ({fault.text.strip()[-200:]})") from fault
