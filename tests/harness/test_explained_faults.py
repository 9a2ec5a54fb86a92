"""What is found out about a candidate that faulted or hung: by real judges, and from reports that tools printed.

Neighbours: test_diagnostic_texts.py (the text of every verdict), judging.py.
"""

from __future__ import annotations

from typing import cast

import pytest
from kernelharness import diagnose
from kernelharness.closer_look import BATCH_SECONDS, CloserLook
from kernelharness.hang import frames_of, plain_name, symbols_of
from kernelharness.languages import checkers
from kernelharness.languages.base import get_language
from kernelharness.languages.checkers import read_address_sanitizer, read_compute_sanitizer
from kernelharness.protocol import Candidate, CaseFact, File, TensorFact, Toolchain
from kernelharness.zygote import Zygote

from .judging import CPP_HEAD, Judged, RunJudge, cpp, python

SPINS = "static __attribute__((noinline)) void spin(volatile int* at) { for (;; ++*at) {} }"
NATIVE = {
    "null": cpp("null", before="*(volatile int*)8 = 1;"),
    "busy": cpp("busy", head=SPINS, before="volatile int turns = 0; spin(&turns);"),
    "locked": cpp("locked", head="#include <mutex>\nstatic std::mutex one;", before="one.lock(); one.lock();"),
    "unsigned": cpp("unsigned", source=CPP_HEAD + "int forwards() { return 0; }"),
}
HANGS = (
    "TIMEOUT in case 'wide': It does not return in time: look for an endless loop, a deadlock, or far too much work.\n"
)
HANGS += "It gave no answer in time in its calls on the correctness sets.\nWhen its time was up:\n"
TOLD = {
    "null": (
        "MEMORY_FAULT in case 'wide': It touches memory that is not its own: check indices and tails; "
        "sizes may be odd.\n"
        "the candidate ended with signal 11 (SIGSEGV)\n"
        "AddressSanitizer watched one call with made-up inputs:\n"
        "| SEGV: write at 0x8: a null pointer, or an index into one\n"
        "| in forward(), line 7: *(volatile int*)8 = 1;"
    ),
    "busy": HANGS + "| 1 thread: busy in spin()",
    "locked": HANGS + "| 1 thread: waits in futex, called by forward()",
    "unsigned": (
        "COMPILE_ERROR: The source does not compile.\n"
        "error 1 of 1: 'forward' is not defined: define it exactly as problem.h declares it\n"
        "problem.h declares:\n"
        '  extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS,\n'
        "                         int64_t columns, double eps, KernelContext& context);\n"
        "\n"
        "  #ifdef KERNEL_STATE\n"
        '  extern "C" int64_t state_size(const float* weight, int64_t COLUMNS);\n'
        '  extern "C" int init(const float* weight, int64_t COLUMNS, void* state, KernelContext& context);\n'
        "  #endif"
    ),
}


@pytest.fixture(scope="module")
def judged(run_judge: RunJudge) -> Judged:
    return run_judge(list(NATIVE.values()), run_timeout_seconds=3)


@pytest.mark.parametrize("name", NATIVE)
def test_native_candidate_is_explained(judged: Judged, name: str) -> None:
    assert judged.results[name].diagnostics == TOLD[name]


def test_python_candidate_that_hangs_is_shown_its_line(run_judge: RunJudge) -> None:
    hangs = python("hangs", before="while True:\n    pass")
    told = run_judge([hangs], language="pytorch", run_timeout_seconds=3).results["hangs"].diagnostics
    # Either line of the loop may be the one at which it is asked.
    assert told in (
        HANGS + "| kernel.py, line 13 in forward: while True:",
        HANGS + "| kernel.py, line 14 in forward: pass",
    )


ASAN = """tensor out 0x609000000040 40
tensor x 0x609000000100 40
==1==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x609000000068 at pc 0x55 bp 0x7f sp 0x7e
WRITE of size 4 at 0x609000000068 thread T0
    #0 0x557323d2ced7 in forward /tmp/look-x/kernel.cpp:3
    #1 0x557323d2d003 in main /tmp/look-x/check.cpp:4

0x609000000068 is located 0 bytes to the right of 40-byte region [0x609000000040,0x609000000068)
"""
MEMCHECK = """tensor out 0x7f0000000000 131072
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at normalise(float *, const float *, int)+0x5b0 in /tmp/look-x/kernel.cu:3
=========     by thread (31,0,0) in block (7,0,0)
=========     Access to 0x7f0000020004 is out of bounds
"""
TENSORS = {"asan": [("out", 0x609000000040, 40), ("x", 0x609000000100, 40)], "cuda": [("out", 0x7F0000000000, 131072)]}
SOURCE = "void forward() {\n  for (;;)\n    out[i] = 1;\n}\n"


def test_address_sanitizers_report_becomes_a_text() -> None:
    found = read_address_sanitizer(ASAN, "kernel.cpp")
    assert diagnose.of_look("AddressSanitizer", found, TENSORS["asan"], SOURCE) == (
        "AddressSanitizer watched one call with made-up inputs:\n"
        "| heap-buffer-overflow: write of 4 bytes at 0x609000000068: 0 bytes behind the end of out (40 bytes)\n"
        "| in forward(), line 3: out[i] = 1;"
    )


def test_compute_sanitizers_report_becomes_a_text() -> None:
    found = read_compute_sanitizer(MEMCHECK, "kernel.cu")
    assert diagnose.of_look("compute-sanitizer", found, TENSORS["cuda"], SOURCE) == (
        "compute-sanitizer watched one call with made-up inputs:\n"
        "| invalid global access: write of 4 bytes at 0x7f0000020004: 4 bytes behind the end of out (131072 bytes)\n"
        "| in normalise(), line 3: out[i] = 1;\n"
        "| thread (31,0,0) of block (7,0,0)"
    )


def test_nothing_is_compiled_for_a_tool_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "_CUDA_TOOLS", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    out = TensorFact(name="out", shape=[8], dtype="float32")
    fact = CaseFact(case="default", inputs=[out], parameters=[], outputs=[out])
    candidate = Candidate(id="one", files=[File(path="kernel.cu", content="")])
    # Without a zygote anything that ran would raise.
    look = CloserLook(cast(Zygote, None), get_language("cuda"), Toolchain(language="cuda", arch="sm_90"))
    assert look.explain(candidate, [fact], 0, set()) == "compute-sanitizer could not be asked: it is not installed"
    assert look.seconds == BATCH_SECONDS


def test_look_that_finds_or_does_nothing_says_so() -> None:
    assert diagnose.of_look("AddressSanitizer", None, [], "") == (
        "AddressSanitizer watched one call with made-up inputs and found no fault: it needs other inputs, "
        "or many calls."
    )
    assert diagnose.of_no_look("compute-sanitizer", "it did not start") == (
        "compute-sanitizer could not be asked: it did not start"
    )


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("forward", "forward()"),
        ("_ZL4spinPVi", "spin()"),
        ("_ZN5outer5innerEv", "inner()"),
        ("forward._omp_fn.0", "forward(), in a parallel region"),
    ],
)
def test_mangled_names_become_plain(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name


@pytest.mark.parametrize("library", [b"", b"\x7fELF" + b"\xff" * 200])
def test_bytes_that_are_no_library_have_no_symbols(library: bytes) -> None:
    assert symbols_of(library).at(0) == ""


def test_stack_without_frames_is_no_text() -> None:
    assert frames_of("nothing here", "") == []
