"""From what went wrong to a verdict and a text: every way in which a candidate can fail becomes one `Rejection`.

What a runner claims about itself (its failure code, what it printed) only ever chooses among rejections.
Neighbours: processes.py (faults), compare.py (values), diagnose.py (texts), trial.py (where it happens).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from kernelharness import diagnose, hang
from kernelharness.channel import Failure
from kernelharness.compare import Comparison
from kernelharness.devices.base import OutputFault
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import CaseFact, Stage, Verdict

_BAD_POINTER = (signal.SIGSEGV, signal.SIGBUS)
_HEAP_WORDS = (
    "corrupted",
    "malloc assertion",
    "double free",
    "invalid pointer",
    "invalid size",
    "invalid next size",
    "stack smashing",
)
_MEMORY_WORDS = ("bad_alloc", "allocate memory", "MemoryError")


class Rejection(Exception):
    """The verdict is not OK. `text` is one line for a table, `diagnosis` what the model is told."""

    def __init__(
        self,
        verdict: Verdict,
        text: str,
        diagnosis: str | None = None,
        *,
        bad_pointer: bool = False,
        fact: CaseFact | None = None,
    ) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.bad_pointer = bad_pointer
        """The process died of touching memory that it may not touch."""
        self.fact = fact
        """The case in which its process failed, if it did."""
        self.text = text
        self.diagnosis = diagnose.of_verdict(verdict, detail=text) if diagnosis is None else diagnosis


def of_comparison(fact: CaseFact, found: Comparison, got: list[Tensor], want: list[Tensor], where: str) -> Rejection:
    """For outputs that differ from the reference's."""
    name = fact.outputs[found.output].name
    mine, reference = got[found.output], want[found.output]
    text = f"output {name!r} of case {fact.case!r} {where}: "
    text += found.detail or f"{found.bad} of {found.count} elements differ, at most by {found.max_abs:.3g}"
    return Rejection(found.verdict, text, diagnose.of_comparison(name, fact.case, found, mine, reference, where))


def of_repetition(wrong: Rejection) -> Rejection:
    """For outputs that were right at first, then wrong for the same inputs."""
    return Rejection(
        Verdict.NONDETERMINISTIC,
        f"right at first, then wrong for the same inputs: {wrong.text}",
        diagnose.only_later(diagnose.of_verdict(Verdict.NONDETERMINISTIC, detail=wrong.diagnosis.partition(" in ")[2])),
    )


@contextmanager
def rejecting(runner: Runner, stage: Stage, fact: CaseFact | None = None) -> Iterator[None]:
    """Turn what a candidate's runner does wrong into a Rejection; the faults of other runners pass through."""
    case = fact.case if fact else ""
    try:
        yield
    except OutputFault as fault:
        text = diagnose.of_verdict(fault.verdict, case, fault.text)
        raise Rejection(fault.verdict, fault.text, text) from fault
    except RunnerFault as fault:
        if fault.runner is not runner:
            raise
        doing = hang.describe(runner) if fault.kind is FaultKind.TIMEOUT else []
        runner.kill()
        verdict = _verdict_of(fault, runner.output)
        failed = fault.kind is FaultKind.FAILED
        printed = "" if failed else runner.output
        touched = fault.signal_number in _BAD_POINTER
        said = f"it tried {fault.text}" if fault.kind is FaultKind.FORBIDDEN else fault.text
        if verdict is Verdict.OOM:
            text = diagnose.of_out_of_memory(case, said, runner.memory_bytes, runner.peak_bytes)
        elif verdict is Verdict.TIMEOUT:
            text = diagnose.of_timeout(case, stage, doing, "" if doing else printed)
        else:
            text = diagnose.of_verdict(verdict, case, "" if failed else said, printed, said if failed else "")
        raise Rejection(
            verdict,
            f"{_last_line(said)}{f' in case {case!r}' if case else ''}",
            text,
            bad_pointer=touched,
            fact=fact,
        ) from fault


def _verdict_of(fault: RunnerFault, output: str) -> Verdict:
    match fault.kind:
        case FaultKind.TIMEOUT:
            return Verdict.TIMEOUT
        case FaultKind.FLOOD:
            return Verdict.RESOURCE_ABUSE
        case FaultKind.FORBIDDEN | FaultKind.PROTOCOL:
            return Verdict.TAMPERING
        case FaultKind.FAILED:
            if fault.status == Failure.OOM or any(word in fault.text for word in _MEMORY_WORDS):
                return Verdict.OOM
            if fault.status == Failure.MEMORY:
                return Verdict.MEMORY_FAULT
            return Verdict.LOAD_ERROR if fault.status == Failure.LOAD else Verdict.RUNTIME_ERROR
        case FaultKind.DIED:
            return _verdict_of_death(fault.signal_number, output)


def _verdict_of_death(number: int, output: str) -> Verdict:
    if number in _BAD_POINTER:
        return Verdict.MEMORY_FAULT
    if number == signal.SIGSYS:
        return Verdict.TAMPERING
    if number == signal.SIGKILL or any(word in output for word in _MEMORY_WORDS):
        return Verdict.OOM
    if number == signal.SIGABRT and any(word in output for word in _HEAP_WORDS):
        return Verdict.MEMORY_FAULT
    return Verdict.RUNTIME_ERROR


def _last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = text.strip().splitlines()
    return diagnose.clean(lines[-1], 200) if lines else ""
