"""T, the judge: the order of things for one batch, from hello to bye.

Facts and baselines first, then each candidate: compiled by K, loaded by a fresh U, checked on secrets, timed against
the references, written down. Nothing a candidate does reaches the next one: its runner dies with it.
Neighbours: __main__.py (starts this), setting.py (the problem), trial.py (one candidate), log.py (the only output).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from kernelharness import __version__, diagnose, machine, processes
from kernelharness.bench import Bench, CaseBench
from kernelharness.closer_look import CloserLook
from kernelharness.compare import Comparer, reduction_lengths_of
from kernelharness.compiler import Compiled, compile_candidates
from kernelharness.devices.base import Device
from kernelharness.languages.base import Language
from kernelharness.log import Log
from kernelharness.policy import flags_of
from kernelharness.processes import Runner, RunnerFault
from kernelharness.protocol import (
    EXIT_DEVICE_FAULT,
    EXIT_DONE,
    Batch,
    Candidate,
    CaseResult,
    Hello,
    ProblemFact,
    Purpose,
    Result,
    Stage,
    Verdict,
    to_artifacts,
)
from kernelharness.results import accepted, compile_rejection, rejected
from kernelharness.setting import MODEL_SEED, ProblemRefused, Setting, Zygotes
from kernelharness.trial import Trial
from kernelharness.verdicts import Rejection
from kernelharness.warmup import WarmFolder, WarmUp, warm

HOPELESS_NOISE = math.log(1.5)
_CANDIDATE_MEMORY_BYTES = 2 << 30
_CANDIDATE_MEMORY_FACTOR = 8
"""A candidate may use this much, and so many times what one call reads and writes."""


@dataclass
class Judge:
    """One batch. `run` is called once."""

    setting: Setting
    layers: dict[str, str]
    """Of isolation, in force or why not."""
    seen: dict[str, Result] = field(default_factory=dict)
    """Results by the hash of what was timed."""
    following: tuple[Candidate, Compiled] | None = None
    """What is judged next, when it is compiled already."""
    waiting: WarmUp | None = None
    """Its warm-up runner, which gets ready while the one before it compiles."""
    begin: float = field(default_factory=time.monotonic)
    batch: Batch = field(init=False)
    language: Language = field(init=False)
    device: Device = field(init=False)
    zygotes: Zygotes = field(init=False)
    log: Log = field(init=False)
    look: CloserLook = field(init=False)
    stands_in: ClassVar[bool] = False
    """Whether a language's stand-in takes the device's place in warm-ups."""

    def __post_init__(self) -> None:
        setting = self.setting
        self.batch, self.language, self.device = setting.batch, setting.language, setting.device
        self.zygotes, self.log = setting.zygotes, setting.log
        self.look = CloserLook(self.zygotes.light, self.language, self.batch.toolchain)

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
                    made = list(zip(group, self._compile(group), strict=True))
                    for (candidate, compiled), self.following in zip(made, [*made[1:], None], strict=True):
                        self.log.write(self._result(candidate, compiled))
        except RunnerFault as fault:
            said = f"{fault.text}\n{fault.runner.output}".rstrip()
            print(f"kernelharness: {fault.runner.name}, a reference runner, failed: {said}", file=sys.stderr)
            return EXIT_DEVICE_FAULT
        finally:
            self._end_waiting()
            for runner in self.setting.runners.values():
                runner.kill()
        self.log.close(time.monotonic() - self.begin)
        return EXIT_DONE

    @property
    def device_name(self) -> str:
        """What a reader is told of where candidates run."""
        return self.device.name

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
        """Raise ProblemRefused when no candidate of this problem can be judged."""
        self.setting.prepare()

    # -- a candidate --------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[list[Candidate]]:
        """Candidates that are compiled together, before any of them is timed: as many as half of the CPUs, or two."""
        together = max(self.device.threads // 2, min(2, self.device.threads))
        candidates = list(self.batch.candidates)
        for first in range(0, len(candidates), together):
            yield candidates[first : first + together]

    def _compile(self, group: list[Candidate]) -> list[Compiled]:
        return compile_candidates(
            self.zygotes.light, self.language, self.batch.toolchain, group, self.setting.facts, self._children()
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
            return compile_rejection(candidate, compiled, self.language, self.batch.toolchain, self.setting.facts)
        if (earlier := self.seen.get(compiled.digest)) is not None:
            flags = [*earlier.flags, f"same_binary:{earlier.candidate}"]
            return earlier.model_copy(update={"candidate": candidate.id, "flags": flags})
        result = self._try(candidate, compiled, walls)
        if not result.verdict.is_infrastructure:
            self.seen[compiled.digest] = result
        return result

    def _try(self, candidate: Candidate, compiled: Compiled, walls: dict[str, float]) -> Result:
        folder: WarmFolder | None = None
        runner: Runner | None = None
        trial: Trial | None = None
        try:
            if not self.language.needs_warmup:
                runner = self._candidate_runner(candidate, compiled)
            else:
                with measured(walls, "warmup"):
                    warmup = self._take_warmup(candidate, compiled)
                    folder = warmup.folder
                    # Both get ready while this one compiles, and see no line of a candidate before it is loaded.
                    runner = self._candidate_runner(candidate, compiled, folder=folder)
                    self._prepare_following(compiled)
                    self._warm(warmup, {runner.pid})
            trial = self._trial(runner)
            result = self._timed(candidate, trial, walls)
            if folder is not None:
                folder.expect_frozen()
        except Rejection as rejection:
            if rejection.bad_pointer and trial is not None and self.device.inputs_are_read_only:
                rejection = self._writes_inputs(candidate, compiled, trial) or rejection
            self._explain(candidate, rejection, walls)
            result = rejected(candidate, rejection, trial.stage if trial is not None else Stage.COMPILE)
        finally:
            if runner is not None:
                runner.kill()
            if folder is not None:
                folder.remove()
        if result.verdict is Verdict.OK and self.batch.purpose is Purpose.CONFIRM and compiled.fd >= 0:
            self._publish(candidate, compiled)
        flags = [*result.flags]
        if trial is not None:
            flags += self.device.flags
            flags += [name for name, is_so in (("copy_out", trial.copy_out), ("noisy", trial.noisy)) if is_so]
            flags += [f"one_by_one:{case}" for case in trial.one_by_one]
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
        known = self.setting.bench
        bench = Bench(self.device, known.reference, known.secret, float(self.batch.toolchain.run_timeout_seconds))
        tolerance = self.batch.problem.tolerance
        return Trial(
            bench,
            runner,
            {
                case.index: Comparer(tolerance, reduction_lengths_of(case.fact), self.device.passes)
                for case in self.setting.cases
            },
        )

    def _timed(self, candidate: Candidate, trial: Trial, walls: dict[str, float]) -> Result:
        """All stages of one runner, which is dead afterwards. Raise Rejection."""
        self.device.admit(trial.runner)
        try:
            results = self._stages(trial, walls)
            self._refuse_noise(trial)
            timed, ceilings = self.setting.timed_cases, self.setting.ceilings
            result = accepted(candidate, results, timed, ceilings, self.device.cache_bytes)
            if not self.language.is_native:
                result = self._profiled(candidate, trial, result, walls)
        finally:
            self._bury(trial.runner)
        return result

    def _profiled(self, candidate: Candidate, trial: Trial, result: Result, walls: dict[str, float]) -> Result:
        """The same result, with what the candidate's process says of its first timed case, and with policy flags."""
        case, seen = self.setting.timed_cases[0], None
        if case.gallery or len(result.cases) == 1:  # else other cases' inputs lie where it would read its own
            with measured(walls, "profile"):
                seen = trial.profile(case, result.cases[0])
        flags = [*result.flags, *flags_of(self.language, candidate.files[0].content, seen)]
        return result.model_copy(update={"profile": seen.profile if seen else None, "flags": flags})

    def _begin_warmup(self, candidate: Candidate, compiled: Compiled) -> WarmUp:
        """A runner with more rights, and no secrets, that will compile what calls need."""
        folder = WarmFolder(self.language.prepared_folder())
        runner = self._candidate_runner(candidate, compiled, folder=folder, warmup=True)
        return WarmUp(candidate, self._trial(runner), folder)

    def _take_warmup(self, candidate: Candidate, compiled: Compiled) -> WarmUp:
        """The one that waits for this candidate, or a new one."""
        if (waiting := self.waiting) is None:
            return self._begin_warmup(candidate, compiled)
        assert waiting.candidate is candidate
        self.waiting = None
        return waiting

    def _prepare_following(self, compiled: Compiled) -> None:
        """Start the next candidate's warm-up runner, unless its result is known when its turn comes."""
        if self.following is None:
            return
        candidate, following = self.following
        if following.ok and following.digest not in {compiled.digest, *self.seen}:
            self.waiting = self._begin_warmup(candidate, following)

    def _end_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.trial.runner.kill()
            self.waiting.folder.remove()

    def _warm(self, warmup: WarmUp, others: Set[int] = frozenset()) -> None:
        """Let it compile, and end it. `others`: processes that may outlive it. Raise Rejection."""
        trial = warmup.trial
        try:
            trial.isolate()
            warm(trial, self.setting.cases, self.language, warmup.candidate.files[0].content)
        finally:
            self._bury(trial.runner, others)
        warmup.folder.freeze()

    def _children(self) -> set[int]:
        """Processes that are no candidate's."""
        return self.setting.children() | ({self.waiting.trial.runner.pid} if self.waiting else set())

    def _bury(self, runner: Runner, others: Set[int] = frozenset()) -> None:
        """End a candidate's runner. Raise Rejection when something outlives it, `others` apart."""
        runner.kill()
        self.device.forget(runner)
        if survivors := processes.kill_survivors(self._children() | others):
            raise Rejection(Verdict.TAMPERING, f"{len(survivors)} processes outlived the candidate")

    def _stages(self, trial: Trial, walls: dict[str, float]) -> list[CaseResult]:
        with measured(walls, "load"):
            trial.isolate()
        with measured(walls, "correctness"):
            for case in self.setting.cases:
                trial.load(case)
                trial.check(case)
        results: list[CaseResult] = []
        with measured(walls, "timing"):
            for case in self.setting.timed_cases:
                for arm in self.setting.runners.values():
                    trial.bench.load(arm, case)
                trial.load(case)
                results.append(trial.time(case, self.setting.runners, self.setting.rule))
        return results

    def _refuse_noise(self, trial: Trial) -> None:
        """A confirmation that could not tell two equal arms apart confirms nothing. Raise Rejection."""
        noise = max(case.noise for case in self.setting.timed_cases)
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
            for case in self.setting.cases:
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
                rejection.diagnosis, self.language.declarations(self.setting.facts)
            )
        elif rejection.verdict is Verdict.MEMORY_FAULT and rejection.fact in self.setting.facts:
            case = self.setting.facts.index(rejection.fact)
            with measured(walls, "closer_look"):
                more = self.look.explain(candidate, self.setting.facts, case, self._children())
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
        call_bytes = max(case.call_bytes for case in self.setting.cases)
        memory_bytes = _CANDIDATE_MEMORY_BYTES + _CANDIDATE_MEMORY_FACTOR * call_bytes
        config: dict[str, object] = {
            "isolate": True,
            "memory_bytes": min(self.device.memory_bytes // 2, memory_bytes),
            "threads": self.device.threads,
            "touch_bytes": self.device.touch_bytes,
            "model_seed": MODEL_SEED,
            "private": {"gallery": self.setting.cases[-1].gallery_end} if private_inputs else {},
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
            config |= {"arm": "native", "facts": [case.fact.model_dump(mode="json") for case in self.setting.cases]}
            config["touch_bytes"] = min(self.device.touch_bytes, max(map(self._result_bytes, self.setting.cases)))
            return Runner(
                "the candidate", self.zygotes.light, config, memory | {"binary": compiled.fd}, compiled.content
            )
        config |= {
            "arm": "python",
            "problem": self.batch.problem.model_dump(mode="json"),
            "cases": [known.case.model_dump(mode="json") for known in self.setting.known],
            "known": [known.document for known in self.setting.known],
            "source": candidate.files[0].content,
            "filename": self.language.source_name(self.batch.toolchain),
        }
        return Runner("the candidate", self.zygotes.torch, config, memory, compiled.content)

    def _result_bytes(self, case: CaseBench) -> int:
        """The most that results of one run take: a native candidate meets no other new pages unless it wants them."""
        calls = len(case.gallery)
        if not case.fact.hidden:
            calls = max(calls, self.setting.bench.plan(case, case.baseline_ns["eager"], self.setting.rule, 1)[0])
        return calls * case.outputs.stride


@contextlib.contextmanager
def measured(walls: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    try:
        yield
    finally:
        walls[name] = walls.get(name, 0.0) + time.monotonic() - begin
