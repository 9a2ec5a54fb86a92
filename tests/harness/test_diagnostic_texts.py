"""The whole text that a model reads, for every verdict: through the functions that make it of what went wrong.

What a device or a machine would have to do for it is fed in as the exception or the numbers that it leads to. Shorter
pieces (each fitted pattern, caps, control characters) are in test_diagnose.py; real judges in test_explained_faults.py.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import cast

import pytest
import torch
from kernelharness import diagnose
from kernelharness.bench import CaseBench
from kernelharness.channel import Failure, OutputReport
from kernelharness.compare import Comparer
from kernelharness.compiler import Compiled
from kernelharness.devices.base import Ceilings, OutputFault, check_form
from kernelharness.languages.base import get_language
from kernelharness.processes import FaultKind, Runner, RunnerFault
from kernelharness.protocol import (
    Candidate,
    CaseFact,
    CaseResult,
    File,
    Stage,
    TensorFact,
    Tolerance,
    Toolchain,
    Verdict,
)
from kernelharness.results import accepted, compile_rejection
from kernelharness.verdicts import Rejection, of_comparison, of_repetition, rejecting
from torch import Tensor

CPP = get_language("cpp")
TOOLCHAIN = Toolchain(language="cpp", arch="x86-64-v3")
CEILINGS = Ceilings(bytes_per_second=20e9, flops_per_second={"float32": 500e9})
FACT = CaseFact(
    case="small",
    inputs=[TensorFact(name="x", shape=[64, 8], dtype="float32")],
    outputs=[TensorFact(name="out", shape=[64, 8], dtype="float32")],
    dims={"ROWS": 64},
    bytes_min=4096,
    flops=65_536,
)


class Gone:
    """A runner that is dead, and what is known of it."""

    is_python = True
    code = b"import torch\n\n\nclass ModelNew:\n    def forward(self, x):\n        while True:\n            pass\n"
    memory_bytes = 2 << 30
    peak_bytes = 1536 << 20

    def __init__(self, output: str = "", stack: str = "") -> None:
        self.output = output
        self.stack = stack

    def ask_for_stack(self) -> str:
        return self.stack

    def kill(self) -> None:
        pass


def fault(
    kind: FaultKind,
    text: str,
    stage: Stage = Stage.CORRECTNESS,
    *,
    gone: Gone | None = None,
    status: int = 0,
    by: int = 0,
) -> str:
    """What is told when the candidate's runner does this."""
    runner = cast(Runner, gone or Gone())
    return told(RunnerFault(runner, kind, text, status=status, signal_number=by), runner, stage)


def told(error: Exception, runner: Runner | None = None, stage: Stage = Stage.CORRECTNESS) -> str:
    with pytest.raises(Rejection) as caught, rejecting(runner or cast(Runner, Gone()), stage, FACT):
        raise error
    return caught.value.diagnosis


def formed(report: OutputReport) -> str:
    with pytest.raises(OutputFault) as caught:
        check_form(report, FACT.outputs[0])
    return told(caught.value)


def compared(got: Tensor, want: Tensor, exact: Tensor | None = None, tolerance: Tolerance | None = None) -> Rejection:
    found = Comparer(tolerance or Tolerance()).compare([got], [want], None if exact is None else [exact])
    return of_comparison(FACT, found, [got], [want], "for input set 2 of 5 (signs mixed, rescaled)")


def wrong() -> Rejection:
    want = torch.arange(1.0, 513.0).view(64, 8)
    return compared(want * 1.5, want)


def imprecise() -> str:
    want = torch.full((64, 8), 2.0)
    want[0] = 1.0
    loose = Tolerance(rtol=0.1, atol=0.1)
    return compared(want + 0.03125, want, want.double(), loose).diagnosis


def timed(ns: int) -> str:
    ratio = 8000 / ns
    result = CaseResult(
        case="small", ns=ns, low=ratio * 0.98, high=ratio * 1.02, speedup=ratio, baseline="compile", baseline_ns=8000,
        speedup_eager=2 * ratio, speedup_compile=ratio, mean_log_ratio=math.log(ratio), samples=20,
    )  # fmt: skip
    case = CaseBench.of(0, FACT)
    try:
        return accepted(
            Candidate(id="c", files=[File(path="k.cpp", content="")]), [result], [case], CEILINGS, 0
        ).diagnostics
    except Rejection as rejection:
        return rejection.diagnosis


def compiled(printed: str, source: str, *, timed_out: bool = False, survivors: int = 0) -> str:
    candidate = Candidate(id="c", files=[File(path="k.cpp", content=source)])
    outcome = Compiled(False, printed, 1.0, timed_out, survivors)
    return compile_rejection(candidate, outcome, CPP, TOOLCHAIN, [FACT]).diagnostics


STACK = """Thread 0x00007f0000001000 (most recent call first):
  <no Python frame>

Current thread 0x00007f0000000740 (most recent call first):
  File "kernel.py", line 6 in forward
  File "/usr/lib/python3/torch/nn/modules/module.py", line 1787 in _call_impl
  File "/usr/lib/python3/kernelharness/runner.py", line 150 in run
"""
BROKEN = '#include "problem.h"\nextern "C" int forward(float* out) {\n  return 0;\n}\n'

TEXTS: dict[Verdict, tuple[Callable[[], str], str]] = {
    Verdict.OK: (
        lambda: timed(4000),
        "OK: Correct in every case.\n"
        "case 'small' (ROWS=64): 4 us per call, 4.00x eager and 2.00x torch.compile (interval 1.96 to "
        "2.04 over compile).\n"
        "  1.02 GB/s (5 % of the measured 20), 16.4 GFLOP/s (3 % of the measured 500); the memory bound "
        "is 205 ns: 5 % of it reached.",
    ),
    Verdict.COMPILE_ERROR: (
        lambda: compiled(
            "kernel.cpp:2:16: error: conflicting declaration of C function 'int forward(float*)'\n"
            "include/problem.h:40:16: note: previous declaration\n",
            BROKEN,
        ),
        "COMPILE_ERROR: The source does not compile.\n"
        "error 1 of 1, line 2: conflicting declaration of C function 'int forward(float*)'\n"
        '    1 | #include "problem.h"\n'
        '>   2 | extern "C" int forward(float* out) {\n'
        "    3 |   return 0;\n"
        "    4 | }\n"
        "problem.h declares:\n"
        '  extern "C" int forward(float* out, const float* x, int64_t ROWS, KernelContext& context);',
    ),
    Verdict.LOAD_ERROR: (
        lambda: diagnose.with_declarations(
            fault(FaultKind.FAILED, "the library does not export __tvm_ffi_forward", Stage.LOAD, status=Failure.LOAD),
            CPP.declarations([FACT]),
        ),
        "LOAD_ERROR in case 'small': It compiles, but cannot be loaded.\n"
        "It said:\n"
        "| the library does not export __tvm_ffi_forward\n"
        "problem.h declares:\n"
        '  extern "C" int forward(float* out, const float* x, int64_t ROWS, KernelContext& context);',
    ),
    Verdict.WRONG_SHAPE: (
        lambda: formed(OutputReport(64, "float32", (8, 64), (64, 1))),
        "WRONG_SHAPE in case 'small': An output has the wrong shape.\noutput 'out' has shape [8, 64], not [64, 8]",
    ),
    Verdict.WRONG_DTYPE: (
        lambda: formed(OutputReport(64, "float16", (64, 8), (8, 1))),
        "WRONG_DTYPE in case 'small': An output has the wrong dtype.\noutput 'out' has dtype float16, not float32",
    ),
    Verdict.WRONG_VALUES: (
        lambda: wrong().diagnosis,
        "WRONG_VALUES in case 'small': output 'out' for input set 2 of 5 (signs mixed, rescaled): 512 "
        "of 512 elements are wrong (100 %).\n"
        "max abs error 256, max rel error 0.5; allowed |got - want| <= 0.000141 + 0.0001 |want|.\n"
        "  out[0, 0]: got 1.5, want 1\n"
        "  out[0, 1]: got 3, want 2\n"
        "  out[0, 2]: got 4.5, want 3\n"
        "  out[0, 3]: got 6, want 4\n"
        "  out[0, 4]: got 7.5, want 5\n"
        "pattern: constant factor: got = 1.5 x want everywhere.",
    ),
    Verdict.PRECISION: (
        imprecise,
        "PRECISION in case 'small': Within the tolerance, but with too little precision: compute in the "
        "problem's dtype and accumulate in float32 or better.\n"
        "output 'out': rms error against float64 is 0.0312, allowed 9.48e-07 (32961.7 times as much).",
    ),
    Verdict.NONDETERMINISTIC: (
        lambda: of_repetition(wrong()).diagnosis,
        "NONDETERMINISTIC: The same inputs give different outputs: look for a race, uninitialised "
        "memory, or state that is kept between calls.\n"
        "case 'small': output 'out' for input set 2 of 5 (signs mixed, rescaled): 512 of 512 elements are wrong (100 "
        "%).\n"
        "max abs error 256, max rel error 0.5; allowed |got - want| <= 0.000141 + 0.0001 |want|.\n"
        "  out[0, 0]: got 1.5, want 1\n"
        "  out[0, 1]: got 3, want 2\n"
        "  out[0, 2]: got 4.5, want 3\n"
        "  out[0, 3]: got 6, want 4\n"
        "  out[0, 4]: got 7.5, want 5\n"
        "pattern: constant factor: got = 1.5 x want everywhere.\n"
        "pattern: only later calls are wrong, the first one was right: something is kept between calls.",
    ),
    Verdict.INPUT_MUTATED: (
        lambda: told(OutputFault(Verdict.INPUT_MUTATED, "it writes to its inputs or parameters, which are read-only")),
        "INPUT_MUTATED in case 'small': It writes to its inputs or parameters: they are read-only, work "
        "on a copy.\n"
        "it writes to its inputs or parameters, which are read-only",
    ),
    Verdict.RUNTIME_ERROR: (
        lambda: fault(FaultKind.FAILED, "K = 7 is too large\x1b[2J", status=Failure.ERROR),
        "RUNTIME_ERROR in case 'small': It fails when called.\nIt said:\n| K = 7 is too large",
    ),
    Verdict.MEMORY_FAULT: (
        lambda: fault(
            FaultKind.DIED, "the candidate ended with signal 11 (SIGSEGV)", gone=Gone("row 3\n"), by=signal.SIGSEGV
        ),
        "MEMORY_FAULT in case 'small': It touches memory that is not its own: check indices and tails; "
        "sizes may be odd.\n"
        "the candidate ended with signal 11 (SIGSEGV)\n"
        "It printed:\n"
        "| row 3",
    ),
    Verdict.TIMEOUT: (
        lambda: fault(FaultKind.TIMEOUT, "the candidate gave no answer in time", gone=Gone("row 3\n", STACK)),
        "TIMEOUT in case 'small': It does not return in time: look for an endless loop, a deadlock, or "
        "far too much work.\n"
        "It gave no answer in time in its calls on the correctness sets.\n"
        "When its time was up:\n"
        "| kernel.py, line 6 in forward: while True:",
    ),
    Verdict.OOM: (
        lambda: fault(
            FaultKind.FAILED,
            "Traceback (most recent call last):\nMemoryError: cannot allocate 4294967296 bytes for an output",
            status=Failure.OOM,
        ),
        "OOM in case 'small': It runs out of memory: allocate less, use context.workspace() for scratch "
        "memory.\n"
        "asked for 4096 MiB, limit 2048 MiB, peak 1536 MiB.\n"
        "It said:\n"
        "| MemoryError: cannot allocate 4294967296 bytes for an output",
    ),
    Verdict.LATE_OUTPUT: (
        lambda: told(
            OutputFault(Verdict.LATE_OUTPUT, "outputs were still being written when the call had returned"),
            stage=Stage.TIMING,
        ),
        "LATE_OUTPUT in case 'small': Outputs still change after the call returned: finish all work "
        "before returning.\n"
        "outputs were still being written when the call had returned",
    ),
    Verdict.BACKGROUND_WORK: (
        lambda: told(
            OutputFault(
                Verdict.BACKGROUND_WORK,
                "the device was at work after a call had returned: 2450 us for what takes 90 us at most",
            ),
            stage=Stage.TIMING,
        ),
        "BACKGROUND_WORK in case 'small': Work goes on after the call returned: finish all work before "
        "returning.\n"
        "the device was at work after a call had returned: 2450 us for what takes 90 us at most",
    ),
    Verdict.TIMING_MISMATCH: (
        lambda: (
            Rejection(Verdict.TIMING_MISMATCH, "calls took 900000 ns until they were timed, and 1000 ns then").diagnosis
        ),
        "TIMING_MISMATCH: Its calls take another time when they are timed: do the same work in every "
        "call, and leave clocks and timers alone.\n"
        "calls took 900000 ns until they were timed, and 1000 ns then",
    ),
    Verdict.IMPOSSIBLE_SPEED: (
        lambda: timed(50),
        "IMPOSSIBLE_SPEED: Faster than writing the outputs can be: the work is not done in the call.\n"
        "case 'small': 50 ns is less than writing the outputs takes",
    ),
    Verdict.TAMPERING: (
        lambda: fault(
            FaultKind.FORBIDDEN, "the system call openat, which would write to the file system ('/etc/passwd')"
        ),
        "TAMPERING in case 'small': It reaches beyond its task (other processes, files, network, the "
        "judge): only compute.\n"
        "it tried the system call openat, which would write to the file system ('/etc/passwd')",
    ),
    Verdict.RESOURCE_ABUSE: (
        lambda: fault(FaultKind.FLOOD, "the candidate printed more than 1 MiB", gone=Gone("la la\nla\n")),
        "RESOURCE_ABUSE in case 'small': It uses resources that no kernel needs: do not print, do not "
        "start processes or threads without end.\n"
        "the candidate printed more than 1 MiB\n"
        "It printed:\n"
        "| la la\n"
        "| la",
    ),
    Verdict.DEGENERATE_PROBLEM: (
        lambda: diagnose.of_verdict(Verdict.DEGENERATE_PROBLEM, "small", "output 'out' is the same for other inputs"),
        "DEGENERATE_PROBLEM in case 'small': The problem itself says nothing about speed; no candidate "
        "can be judged.\n"
        "output 'out' is the same for other inputs",
    ),
    Verdict.UNSUPPORTED_PROBLEM: (
        lambda: diagnose.of_verdict(
            Verdict.UNSUPPORTED_PROBLEM, detail="argument 'fn' is <lambda>; a native kernel takes numbers and tensors"
        ),
        "UNSUPPORTED_PROBLEM: The problem cannot be judged in this language.\n"
        "argument 'fn' is <lambda>; a native kernel takes numbers and tensors",
    ),
    Verdict.NOISY_NODE: (
        lambda: (
            Rejection(
                Verdict.NOISY_NODE,
                "others took CPU time away: two copies of the reference differed by up to 80 %",
            ).diagnosis
        ),
        "NOISY_NODE: The machine was too noisy to measure; it will be tried again. The kernel is not to "
        "blame.\n"
        "others took CPU time away: two copies of the reference differed by up to 80 %",
    ),
    Verdict.COMPILED: (
        lambda: diagnose.of_verdict(Verdict.COMPILED, detail="compiled, not run: this machine has no AMD device"),
        "COMPILED: It compiles; whether it is right, and how fast, is not known.\n"
        "compiled, not run: this machine has no AMD device",
    ),
    Verdict.HARNESS_ERROR: (
        lambda: diagnose.of_verdict(Verdict.HARNESS_ERROR),
        "HARNESS_ERROR: The harness failed; it will be tried again. The kernel is not to blame.",
    ),
}


def test_every_verdict_is_here() -> None:
    assert set(TEXTS) == set(Verdict)


@pytest.mark.parametrize("verdict", TEXTS)
def test_verdict_is_told_in_exactly_these_words(verdict: Verdict) -> None:
    make, expected = TEXTS[verdict]
    assert make() == expected
