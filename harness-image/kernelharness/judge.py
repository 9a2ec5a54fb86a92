"""T, the judge: the order of things for one batch, from hello to bye.

Facts and baselines first, then each candidate: compiled by K, loaded by a fresh U, checked on secrets, timed against
the references, written down. Nothing a candidate does reaches the next one: its runner dies with it.
Neighbours: __main__.py (starts this), reference.py (the problem), trial.py (one candidate), log.py (the only output).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from kernelharness import __version__, diagnose, machine, processes
from kernelharness.bench import AGAIN, Bench, CaseBench, Secret
from kernelharness.channel import Failure, Order, OrderKind
from kernelharness.closer_look import CloserLook
from kernelharness.compare import Comparer, reduction_lengths_of
from kernelharness.compiler import Compiled, compile_candidates
from kernelharness.devices.base import Ceilings, Device, TooLarge
from kernelharness.languages.base import Language
from kernelharness.languages.signature import UnsupportedArgument
from kernelharness.log import Log
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import (
    EXIT_DEVICE_FAULT,
    EXIT_DONE,
    Baseline,
    Batch,
    Candidate,
    Case,
    CaseFact,
    CaseResult,
    Hello,
    ProblemFact,
    Purpose,
    Result,
    Stage,
    Verdict,
    to_artifacts,
)
from kernelharness.reference import (
    Known,
    degenerate_reason_of,
    describe_cases,
    fill_gallery,
    need_of,
    time_baselines,
)
from kernelharness.results import accepted, compile_rejection, rejected
from kernelharness.roofline import bound_of, with_bound
from kernelharness.timing import CONFIRMING, Rule
from kernelharness.trial import Trial
from kernelharness.verdicts import Rejection
from kernelharness.warmup import WarmFolder, warm
from kernelharness.zygote import Zygote

REFERENCE_SECONDS = 300.0
COMPILED_BASELINE_SECONDS = 120.0
MODEL_SEED = 42
"""Weights are part of the problem, not a secret: the candidate is handed them."""
HOPELESS_NOISE = math.log(1.5)
_CONFIRM_SETS = 2
"""A confirmation uses this many times the correctness sets."""
_CANDIDATE_MEMORY_BYTES = 2 << 30
_CANDIDATE_MEMORY_FACTOR = 8
"""A candidate may use this much, and so many times what one call reads and writes."""


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
class Judge:
    """One batch. `run` is called once."""

    batch: Batch
    language: Language
    device: Device
    zygotes: Zygotes
    log: Log
    layers: dict[str, str]
    torch_compile: bool
    """False: there is no such baseline in any batch."""
    scratch: Path
    code: Path
    """Where torch.compile keeps what it compiled; no candidate can write there."""
    known: list[Known] = field(default_factory=list)
    cases: list[CaseBench] = field(default_factory=list)
    runners: dict[str, Runner] = field(default_factory=dict)
    """The references that live as long as the batch: eager, and compile where it could be had."""
    seen: dict[str, Result] = field(default_factory=dict)
    """Results by the hash of what was timed."""
    begin: float = field(default_factory=time.monotonic)
    stands_in: ClassVar[bool] = False
    """Whether a language's stand-in takes the device's place in warm-ups."""

    def run(self) -> int:
        """Judge the batch; the process's exit code."""
        try:
            self._hello()
            try:
                self._prepare()
            except ProblemRefused as refusal:
                self.log.write(ProblemFact(verdict=refusal.verdict, reason=refusal.reason))
            else:
                for group in self._groups():
                    for candidate, compiled in zip(group, self._compile(group), strict=True):
                        self.log.write(self._result(candidate, compiled))
        except RunnerFault as fault:
            said = f"{fault.text}\n{fault.runner.output}".rstrip()
            print(f"kernelharness: {fault.runner.name}, a reference runner, failed: {said}", file=sys.stderr)
            return EXIT_DEVICE_FAULT
        finally:
            for runner in self.runners.values():
                runner.kill()
        self.log.close(time.monotonic() - self.begin)
        return EXIT_DONE

    @property
    def device_name(self) -> str:
        """What a reader is told of where candidates run."""
        return self.device.name

    @property
    def timed_cases(self) -> list[CaseBench]:
        return [case for case in self.cases if not case.fact.hidden]

    @property
    def _facts(self) -> list[CaseFact]:
        return [case.fact for case in self.cases]

    @property
    def rule(self) -> Rule:
        return CONFIRMING if self.batch.purpose is Purpose.CONFIRM else self.device.screening

    # -- the problem --------------------------------------------------------------------------------------------------

    def _hello(self) -> None:
        self.log.write(
            Hello(
                harness=__version__,
                device=self.device_name,
                driver=self.device.driver,
                node=os.environ.get("KERNELHARNESS_NODE", platform.node()),
                isolation=self.layers
                | processes.probe_isolation(self.zygotes.light, self.device.runner_config(trusted=False)),
                versions={
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                    "openmp": f"{self.device.threads} threads, {machine.OMP_SPINS} spins",
                },
            )
        )

    def _prepare(self) -> None:
        """Facts, secret sets and baselines. Raise ProblemRefused when no candidate of this problem can be judged."""
        secret = Secret(os.getrandom(32))
        headers = self._describe(secret)
        self.look = CloserLook(self.zygotes.light, self.language, self.batch.toolchain)
        self.ceilings: Ceilings = self.device.measure_ceilings()
        for case in self.cases:
            case.fact = with_bound(case.fact, self.ceilings)
            case.bound = bound_of(case.fact, self.ceilings)
        sets = self.batch.problem.tolerance.seeds * (_CONFIRM_SETS if self.batch.purpose is Purpose.CONFIRM else 1)
        try:
            self.device.reserve(need_of(self.cases, sets))
        except TooLarge as error:
            raise ProblemRefused(Verdict.UNSUPPORTED_PROBLEM, str(error)) from error
        self._start_reference(secret)
        with _refusing_memory():
            fill_gallery(self.bench, self.cases, sets)
        for case in self.cases:
            if reason := degenerate_reason_of(case, self.batch.problem.tolerance):
                raise ProblemRefused(Verdict.DEGENERATE_PROBLEM, f"case {case.fact.case!r}: {reason}")
        self._tell_problem(headers)
        with _refusing_memory():
            self._baselines()

    def _tell_problem(self, headers: dict[str, str], not_run: str = "") -> None:
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

    def _describe(self, secret: Secret) -> dict[str, str]:
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

    def _start_reference(self, secret: Secret) -> None:
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
        arms = {**self.runners, "again": again}
        # A probe's times and ratio stand for the whole search; everywhere else they are measured again with candidates.
        rule = CONFIRMING if self.batch.purpose is Purpose.PROBE else self.device.screening
        try:
            for case in self.timed_cases:
                for baseline in time_baselines(self.bench, case, arms, rule):
                    self.log.write(baseline)
                if known and case.fact.case in known:
                    case.compile_ratio = known[case.fact.case]
                    estimated = round(case.baseline_ns["eager"] * case.compile_ratio)
                    earlier = "not timed in this batch: eager's time, by the ratio that the probe measured"
                    self.log.write(Baseline(case=case.fact.case, arm="compile", ns=estimated, note=earlier))
                elif "compile" not in arms:
                    self.log.write(Baseline(case=case.fact.case, arm="compile", note=note))
        finally:
            if self.batch.purpose is not Purpose.CONFIRM:
                again.kill()
                self.device.forget(again)
        if self.batch.purpose is Purpose.CONFIRM:
            self.runners[AGAIN] = again  # two equal arms, in the very blocks of the candidate

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
            processes.kill_survivors(self._children())  # its compilers, which are no candidate's fault
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

    # -- a candidate --------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[list[Candidate]]:
        """Candidates that are compiled together, before any of them is timed: as many as half of the CPUs."""
        together = max(1, self.device.threads // 2) if self.language.is_native else 1
        candidates = list(self.batch.candidates)
        for first in range(0, len(candidates), together):
            yield candidates[first : first + together]

    def _compile(self, group: list[Candidate]) -> list[Compiled]:
        return compile_candidates(
            self.zygotes.light, self.language, self.batch.toolchain, group, self._facts, self._children()
        )

    def _result(self, candidate: Candidate, compiled: Compiled) -> Result:
        walls = {"compile": compiled.seconds}
        source_hash = hashlib.sha256("\0".join(file.content for file in candidate.files).encode()).hexdigest()
        with measured(walls, "judging"):
            try:
                result = self._judge(candidate, compiled, walls)
            finally:
                if compiled.fd >= 0:
                    os.close(compiled.fd)
        walls["total"] = walls["compile"] + walls.pop("judging")
        rounded = {name: round(seconds, 3) for name, seconds in walls.items()}
        return result.model_copy(update={"source_hash": source_hash, "walls": rounded})

    def _judge(self, candidate: Candidate, compiled: Compiled, walls: dict[str, float]) -> Result:
        if not compiled.ok:
            return compile_rejection(candidate, compiled, self.language, self.batch.toolchain, self._facts)
        if (earlier := self.seen.get(compiled.digest)) is not None:
            flags = [*earlier.flags, f"same_binary:{earlier.candidate}"]
            return earlier.model_copy(update={"candidate": candidate.id, "flags": flags})
        result = self._try(candidate, compiled, walls)
        if not result.verdict.is_infrastructure:
            self.seen[compiled.digest] = result
        return result

    def _try(self, candidate: Candidate, compiled: Compiled, walls: dict[str, float]) -> Result:
        folder: WarmFolder | None = None
        trial: Trial | None = None
        try:
            if self.language.needs_warmup:
                folder = WarmFolder()
                with measured(walls, "warmup"):
                    self._warm(candidate, compiled, folder)
            trial = self._trial(self._candidate_runner(candidate, compiled, folder=folder))
            result = self._timed(candidate, trial, walls)
            if folder is not None:
                folder.expect_frozen()
        except Rejection as rejection:
            if rejection.bad_pointer and trial is not None and self.device.inputs_are_read_only:
                rejection = self._writes_inputs(candidate, compiled, trial) or rejection
            self._explain(candidate, rejection, walls)
            result = rejected(candidate, rejection, trial.stage if trial is not None else Stage.COMPILE)
        finally:
            if folder is not None:
                folder.remove()
        if result.verdict is Verdict.OK and self.batch.purpose is Purpose.CONFIRM and compiled.fd >= 0:
            self._publish(candidate, compiled)
        flags = [*result.flags]
        if trial is not None:
            flags += self.device.flags
            flags += [name for name, is_so in (("copy_out", trial.copy_out), ("noisy", trial.noisy)) if is_so]
        made = compiled.digest if folder is None else folder.digest_with(compiled.digest)
        return result.model_copy(
            update={
                "binary_hash": made,
                "correctness": trial.correctness if trial is not None else {},
                "flags": flags,
                "resources": self.language.resources(compiled.text) | (self.device.resources() if trial else {}),
            }
        )

    def _trial(self, runner: Runner) -> Trial:
        bench = Bench(
            self.device, self.bench.reference, self.bench.secret, float(self.batch.toolchain.run_timeout_seconds)
        )
        tolerance = self.batch.problem.tolerance
        return Trial(
            bench,
            runner,
            {
                case.index: Comparer(tolerance, reduction_lengths_of(case.fact), self.device.passes)
                for case in self.cases
            },
        )

    def _timed(self, candidate: Candidate, trial: Trial, walls: dict[str, float]) -> Result:
        """All stages of one runner, which is dead afterwards. Raise Rejection."""
        self.device.admit(trial.runner)
        try:
            results = self._stages(trial, walls)
            self._refuse_noise(trial)
            result = accepted(candidate, results, self.timed_cases, self.ceilings, self.device.cache_bytes)
        finally:
            self._bury(trial.runner)
        return result

    def _warm(self, candidate: Candidate, compiled: Compiled, folder: WarmFolder) -> None:
        """Let a runner with more rights, and no secrets, compile what calls need. Raise Rejection."""
        runner = self._candidate_runner(candidate, compiled, folder=folder, warmup=True)
        try:
            warm(self._trial(runner), self.cases, self.language, candidate.files[0].content)
        finally:
            self._bury(runner)
        folder.freeze()

    def _bury(self, runner: Runner) -> None:
        """End a candidate's runner. Raise Rejection when something outlives it."""
        runner.kill()
        self.device.forget(runner)
        if survivors := processes.kill_survivors(self._children()):
            raise Rejection(Verdict.TAMPERING, f"{len(survivors)} processes outlived the candidate")

    def _stages(self, trial: Trial, walls: dict[str, float]) -> list[CaseResult]:
        with measured(walls, "load"):
            trial.isolate()
        with measured(walls, "correctness"):
            for case in self.cases:
                trial.load(case)
                trial.check(case)
        results: list[CaseResult] = []
        with measured(walls, "timing"):
            for case in self.timed_cases:
                for arm in self.runners.values():
                    trial.bench.load(arm, case)
                trial.load(case)
                results.append(trial.time(case, self.runners, self.rule))
        return results

    def _refuse_noise(self, trial: Trial) -> None:
        """A confirmation that could not tell two equal arms apart confirms nothing. Raise Rejection."""
        noise = max(case.noise for case in self.timed_cases)
        if self.batch.purpose is Purpose.CONFIRM and trial.noisy and noise > HOPELESS_NOISE:
            percent = 100 * math.expm1(min(noise, 10.0))
            text = f"others took CPU time away: two copies of the reference differed by up to {percent:.0f} %"
            raise Rejection(Verdict.NOISY_NODE, text)

    def _writes_inputs(self, candidate: Candidate, compiled: Compiled, failed: Trial) -> Rejection | None:
        """Run it again with inputs that may be written: a fault that is gone then was a write to them."""
        runner = self._candidate_runner(candidate, compiled, private_inputs=True)
        trial = Trial(failed.bench, runner, failed.comparers)
        try:
            trial.isolate()
            for case in self.cases:
                trial.load(case)
                trial.call_all(case)
        except Rejection:
            return None
        finally:
            runner.kill()
        return Rejection(Verdict.INPUT_MUTATED, "it writes to its inputs or parameters, which are read-only")

    def _explain(self, candidate: Candidate, rejection: Rejection, walls: dict[str, float]) -> None:
        """Tell more, where looking again, or looking it up, tells more; the verdict stays as it is."""
        more = ""
        if rejection.verdict is Verdict.LOAD_ERROR:
            rejection.diagnosis = diagnose.with_declarations(
                rejection.diagnosis, self.language.declarations(self._facts)
            )
        elif rejection.verdict is Verdict.MEMORY_FAULT and rejection.fact in self._facts:
            case = self._facts.index(rejection.fact)
            with measured(walls, "closer_look"):
                more = self.look.explain(candidate, self._facts, case, self._children())
        rejection.diagnosis = diagnose.with_more(rejection.diagnosis, more)

    def _publish(self, candidate: Candidate, compiled: Compiled) -> None:
        with contextlib.suppress(ValueError):  # too large to be sent: the bundle goes without it
            for piece in to_artifacts(candidate.id, self.language.output_name(), compiled.content):
                self.log.write(piece)

    def _candidate_runner(
        self,
        candidate: Candidate,
        compiled: Compiled,
        *,
        private_inputs: bool = False,
        folder: WarmFolder | None = None,
        warmup: bool = False,
    ) -> Runner:
        memory = self.device.runner_memory(trusted=False)
        config: dict[str, object] = {
            "isolate": True,
            "memory_bytes": min(
                self.device.memory_bytes // 2,
                _CANDIDATE_MEMORY_BYTES + _CANDIDATE_MEMORY_FACTOR * max(case.call_bytes for case in self.cases),
            ),
            "threads": self.device.threads,
            "touch_bytes": self.device.touch_bytes,
            "model_seed": MODEL_SEED,
            "private": {"gallery": self.cases[-1].gallery_end} if private_inputs else {},
            **self.device.runner_config(trusted=False),
        }
        if folder is not None:
            path = str(folder.path)
            if warmup and self.stands_in:
                config |= {"stand_in": {"language": self.language.name, "arch": self.batch.toolchain.arch}}
            config |= {
                "warmup": warmup,
                "folder": path,
                "env": self.language.warmup_environment(path, self.batch.toolchain.arch),
            }
        if self.language.is_native:
            config |= {"arm": "native", "facts": [case.fact.model_dump(mode="json") for case in self.cases]}
            config["touch_bytes"] = min(self.device.touch_bytes, max(map(self._result_bytes, self.cases)))
            return Runner(
                "the candidate", self.zygotes.light, config, memory | {"binary": compiled.fd}, compiled.content
            )
        config |= {
            "arm": "python",
            "problem": self.batch.problem.model_dump(mode="json"),
            "cases": [known.case.model_dump(mode="json") for known in self.known],
            "known": [known.document for known in self.known],
            "source": candidate.files[0].content,
            "filename": self.language.source_name(self.batch.toolchain),
        }
        return Runner("the candidate", self.zygotes.torch, config, memory, compiled.content)

    def _result_bytes(self, case: CaseBench) -> int:
        """The most that results of one run take: a native candidate meets no other new pages unless it wants them."""
        calls = len(case.gallery)
        if not case.fact.hidden:
            calls = max(calls, self.bench.plan(case, case.baseline_ns["eager"], self.rule)[0])
        return calls * case.outputs.stride

    def _children(self) -> set[int]:
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


@contextlib.contextmanager
def measured(walls: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    try:
        yield
    finally:
        walls[name] = walls.get(name, 0.0) + time.monotonic() - begin
