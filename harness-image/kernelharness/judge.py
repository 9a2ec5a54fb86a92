"""T, the judge: the order of things for one batch, from hello to bye.

Facts and baselines first, then each candidate: compiled by K, loaded by a fresh U, checked on secrets, timed against the
references, written down. Nothing a candidate does reaches the next one: its runner dies with it, survivors included.
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

import torch

from kernelharness import __version__, isolation, processes
from kernelharness.bench import Bench, CaseBench, Secret
from kernelharness.channel import Order, OrderKind
from kernelharness.compare import Comparer, reduction_length_of
from kernelharness.compiler import Compiled, compile_candidate
from kernelharness.devices.base import Device
from kernelharness.languages.base import Language
from kernelharness.languages.signature import UnsupportedArgument
from kernelharness.log import Log
from kernelharness.processes import Runner, RunnerFault
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
from kernelharness.reference import Known, describe_cases, fill_gallery, time_baselines
from kernelharness.timing import CONFIRMING, SCREENING
from kernelharness.trial import Rejection, Trial
from kernelharness.zygote import Zygote

REFERENCE_SECONDS = 300.0
COMPILED_BASELINE_SECONDS = 120.0
_CONFIRM_SETS = 2
"""A confirmation uses this many times the correctness sets."""
_CANDIDATE_MEMORY_SHARE = 0.5


@dataclass
class Zygotes:
    light: Zygote
    torch: Zygote


@dataclass
class Judge:
    """One batch. `run` is called once."""

    batch: Batch
    language: Language
    device: Device
    zygotes: Zygotes
    log: Log
    layers: dict[str, str]
    cache: Path | None
    scratch: Path
    known: list[Known] = field(default_factory=list)
    cases: list[CaseBench] = field(default_factory=list)
    runners: dict[str, Runner] = field(default_factory=dict)
    seen: dict[str, Result] = field(default_factory=dict)
    """Results by the hash of what was timed."""
    begin: float = field(default_factory=time.monotonic)

    def run(self) -> int:
        """Judge the batch; the process's exit code."""
        try:
            self._hello()
            if self._prepare():
                for candidate in self.batch.candidates:
                    self.log.write(self._result(candidate))
        except RunnerFault as fault:
            print(f"kernelharness: a reference runner failed: {fault.kind}: {fault.text}", file=sys.stderr)
            return EXIT_DEVICE_FAULT
        finally:
            for runner in self.runners.values():
                runner.kill()
        self.log.close(time.monotonic() - self.begin)
        return EXIT_DONE

    # -- the problem --------------------------------------------------------------------------------------------------

    def _hello(self) -> None:
        self.log.write(
            Hello(
                harness=__version__,
                device=self.device.name,
                driver=self.device.driver,
                node=os.environ.get("KERNELHARNESS_NODE", platform.node()),
                isolation=self.layers,
                versions={"torch": torch.__version__, "python": platform.python_version()},
            )
        )

    def _prepare(self) -> bool:
        """Facts, secret sets and baselines. False when no candidate of this problem can be judged."""
        eager = self.runners["eager"] = self._reference("eager", "reference")
        self.bench = Bench(self.device, eager, Secret(os.getrandom(32)), REFERENCE_SECONDS)
        try:
            self.known, self.cases = describe_cases(self.bench, self._given_cases())
            headers = self.language.headers([case.fact for case in self.cases])
        except RunnerFault as fault:
            if fault.kind is not processes.FaultKind.FAILED:
                raise
            self.log.write(ProblemFact(verdict=Verdict.UNSUPPORTED_PROBLEM, reason=fault.text))
            return False
        except UnsupportedArgument as error:
            self.log.write(ProblemFact(verdict=Verdict.UNSUPPORTED_PROBLEM, reason=str(error)))
            return False
        sets = self.batch.problem.tolerance.seeds
        fill_gallery(self.bench, self.cases, sets * (_CONFIRM_SETS if self.batch.purpose is Purpose.CONFIRM else 1))
        self.log.write(ProblemFact(cases=[case.fact for case in self.cases]))
        for name, text in headers.items():
            for piece in to_artifacts("", name, text.encode()):
                self.log.write(piece)
        self._baselines()
        return True

    def _given_cases(self) -> list[Case]:
        return list(self.batch.problem.cases) or [Case(name="default")]

    def _baselines(self) -> None:
        again = self._reference("again", "reference")
        arms = {"eager": self.runners["eager"], "again": again}
        note = self._start_compiled()
        if "compile" in self.runners:
            arms["compile"] = self.runners["compile"]
        rule = CONFIRMING if self.batch.purpose is Purpose.CONFIRM else SCREENING
        for case in self.timed_cases:
            for baseline in time_baselines(self.bench, case, arms, rule):
                self.log.write(baseline)
            if "compile" not in arms:
                self.log.write(Baseline(case=case.fact.case, arm="compile", note=note))
        again.kill()

    @property
    def timed_cases(self) -> list[CaseBench]:
        return [case for case in self.cases if not case.fact.hidden]

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
            return f"torch.compile cannot run this reference: {fault.text[-300:]}"
        self.runners["compile"] = runner
        return ""

    def _reference(self, name: str, arm: str) -> Runner:
        config = {
            "arm": arm,
            "problem": self.batch.problem.model_dump(mode="json"),
            "cases": [case.model_dump(mode="json") for case in self._given_cases()],
            "known": [known.document for known in self.known],
            "model_seed": 42,
            "threads": self.device.threads,
            "writable": ["desk"],
            "cache": str(self.cache) if self.cache else None,
            "scratch": str(self.scratch),
        }
        return Runner(name, self.zygotes.torch, config, self.device.runner_memory(trusted=True))

    # -- a candidate --------------------------------------------------------------------------------------------------

    def _result(self, candidate: Candidate) -> Result:
        begin = time.monotonic()
        walls: dict[str, float] = {}
        source_hash = hashlib.sha256("\0".join(file.content for file in candidate.files).encode()).hexdigest()
        compiled = compile_candidate(
            self.zygotes.light,
            self.language,
            self.batch.toolchain,
            candidate,
            [case.fact for case in self.cases],
            self._children(),
        )
        walls["compile"] = compiled.seconds
        result = self._judge(candidate, compiled, walls)
        walls["total"] = time.monotonic() - begin
        rounded = {name: round(seconds, 3) for name, seconds in walls.items()}
        return result.model_copy(update={"source_hash": source_hash, "walls": rounded})

    def _judge(self, candidate: Candidate, compiled: Compiled, walls: dict[str, float]) -> Result:
        if not compiled.ok:
            verdict = Verdict.TAMPERING if compiled.survivors else Verdict.COMPILE_ERROR
            text = "the compiler ran out of time" if compiled.timed_out else compiled.text
            return _rejected(candidate, Rejection(verdict, text), Stage.COMPILE)
        try:
            if (earlier := self.seen.get(compiled.digest)) is not None:
                return earlier.model_copy(
                    update={"candidate": candidate.id, "flags": [*earlier.flags, f"same_binary:{earlier.candidate}"]}
                )
            result = self._try(candidate, compiled, walls)
            if not result.verdict.is_infrastructure:
                self.seen[compiled.digest] = result
            return result
        finally:
            if compiled.fd >= 0:
                os.close(compiled.fd)

    def _try(self, candidate: Candidate, compiled: Compiled, walls: dict[str, float]) -> Result:
        runner = self._candidate_runner(candidate, compiled)
        limit = float(self.batch.toolchain.run_timeout_seconds)
        bench = Bench(self.device, self.bench.reference, self.bench.secret, limit)
        comparers = {
            case.index: Comparer(self.batch.problem.tolerance, reduction_length_of(case.fact)) for case in self.cases
        }
        trial = Trial(bench, runner, comparers)
        results: list[CaseResult] = []
        try:
            with _measured(walls, "load"):
                trial.isolate()
            with _measured(walls, "correctness"):
                for case in self.cases:
                    trial.load(case)
                    trial.check(case)
            with _measured(walls, "timing"):
                rule = CONFIRMING if self.batch.purpose is Purpose.CONFIRM else SCREENING
                for case in self.timed_cases:
                    baselines = {n: r for n, r in self.runners.items() if n in case.baseline_ns}
                    for arm in (*baselines.values(), runner):
                        bench.load(arm, case)
                    results.append(trial.time(case, baselines, rule))
            runner.stop()
        except Rejection as rejection:
            result = _rejected(candidate, rejection, trial.stage)
        else:
            result = _accepted(candidate, results, self.timed_cases)
        finally:
            runner.kill()
            survivors = processes.kill_survivors(self._children())
        if survivors:
            offence = Rejection(Verdict.TAMPERING, f"{len(survivors)} processes outlived the candidate")
            result = _rejected(candidate, offence, trial.stage)
        flags = [*result.flags, *(["copy_out"] if trial.copy_out else [])]
        if result.verdict is Verdict.OK and self.batch.purpose is Purpose.CONFIRM and compiled.fd >= 0:
            for piece in to_artifacts(candidate.id, self.language.output_name(), compiled.content):
                self.log.write(piece)
        return result.model_copy(
            update={"binary_hash": compiled.digest, "correctness": trial.correctness, "flags": flags}
        )

    def _candidate_runner(self, candidate: Candidate, compiled: Compiled) -> Runner:
        memory = self.device.runner_memory(trusted=False)
        config: dict[str, object] = {
            "isolate": True,
            "memory_bytes": int(self.device.memory_bytes * _CANDIDATE_MEMORY_SHARE),
            "threads": self.device.threads,
            "model_seed": 42,
        }
        if self.language.is_native:
            config |= {"arm": "native", "facts": [case.fact.model_dump(mode="json") for case in self.cases]}
            return Runner("candidate", self.zygotes.light, config, memory | {"binary": compiled.fd})
        config |= {
            "arm": "python",
            "problem": self.batch.problem.model_dump(mode="json"),
            "cases": [known.case.model_dump(mode="json") for known in self.known],
            "known": [known.document for known in self.known],
            "source": candidate.files[0].content,
            "filename": self.language.source_name(self.batch.toolchain),
        }
        return Runner("candidate", self.zygotes.torch, config, memory)

    def _children(self) -> set[int]:
        """Processes that may be ours when a candidate is over."""
        return {self.zygotes.light.pid, self.zygotes.torch.pid, *(runner.pid for runner in self.runners.values())}


@contextlib.contextmanager
def _measured(walls: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    try:
        yield
    finally:
        walls[name] = walls.get(name, 0.0) + time.monotonic() - begin


def _rejected(candidate: Candidate, rejection: Rejection, stage: Stage) -> Result:
    summary = rejection.text.strip().splitlines()[0][:200] if rejection.text.strip() else ""
    return Result(
        candidate=candidate.id,
        verdict=rejection.verdict,
        stage=stage,
        summary=summary,
        diagnostics=rejection.text[:2000],
    )


def _accepted(candidate: Candidate, results: list[CaseResult], cases: list[CaseBench]) -> Result:
    weights = [max(0, case.fact.weight) for case in cases]
    if not any(weights):
        weights = [1] * len(cases)
    total = sum(weights)

    def mean(values: list[float]) -> float:
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / total

    center = mean([result.mean_log_ratio for result in results])
    # Cases are measured independently: their errors add as squares.
    spread = math.sqrt(
        sum(
            (weight / total * (math.log(result.high) - math.log(result.low)) / 2) ** 2
            for weight, result in zip(weights, results, strict=True)
        )
    )
    speedup, low, high = math.exp(center), math.exp(center - spread), math.exp(center + spread)
    noise = mean([case.noise for case in cases])
    faster = center - spread > noise
    flags = ["faster"] if faster else []
    summary = f"{speedup:.2f}x ({low:.2f}-{high:.2f}) over the faster baseline"
    return Result(
        candidate=candidate.id,
        verdict=Verdict.OK,
        stage=Stage.TIMING,
        summary=summary,
        cases=results,
        speedup=speedup,
        low=low,
        high=high,
        flags=flags,
    )
