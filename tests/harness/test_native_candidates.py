"""C++ candidates through the real command line: right, wrong, broken, hostile; each gets the verdict it deserves."""

from __future__ import annotations

import pytest
from kernelharness.protocol import Stage, Verdict

from .judging import CPP_FORWARD, CPP_HEAD, Judged, RunJudge, cpp

FAST_BODY = """
extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS,
                       int64_t columns, double eps, KernelContext& context) {
  for (int64_t r = 0; r < ROWS; ++r) {
    const float* row = x + r * COLUMNS;
    float part[16] = {0};
    int64_t c = 0;
    for (; c + 16 <= COLUMNS; c += 16)
      for (int k = 0; k < 16; ++k) part[k] += row[c + k] * row[c + k];
    for (; c < COLUMNS; ++c) part[0] += row[c] * row[c];
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += part[k];
    const float scale = 1.0f / std::sqrt(sum / COLUMNS + (float)eps);
    for (c = 0; c < COLUMNS; ++c) out[r * COLUMNS + c] = row[c] * scale * weight[c];
  }
  return 0;
}
"""
POSIX = """
#include <arpa/inet.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>
"""
REMEMBER = """
#include <vector>
static std::vector<float> kept;
static int calls = 0;
"""

CANDIDATES = {
    # -- honest ---------------------------------------------------------------------------------------------------
    "right": (cpp("right"), Verdict.OK),
    "fast": (cpp("fast", source=CPP_HEAD + FAST_BODY), Verdict.OK),
    "prints": (cpp("prints", head=POSIX, before='printf("hello from the kernel\\n"); fflush(stdout);'), Verdict.OK),
    "threads": (
        cpp("threads", head=POSIX, before="std::thread helper([] {}); helper.join();"),
        Verdict.OK,
    ),
    "scratch": (
        cpp("scratch", before="float* w = (float*)context.workspace(4096); if (!w) return 1; w[0] = x[0];"),
        Verdict.OK,
    ),
    # -- wrong ----------------------------------------------------------------------------------------------------
    "factor": (
        cpp("factor", after="for (int64_t i = 0; i < ROWS * COLUMNS; ++i) out[i] *= 1.01f;"),
        Verdict.WRONG_VALUES,
    ),
    "tail": (cpp("tail", before="ROWS -= 1;"), Verdict.WRONG_VALUES),
    "zeros": (
        cpp("zeros", after="for (int64_t i = 0; i < ROWS * COLUMNS; ++i) out[i] = 0;"),
        Verdict.WRONG_VALUES,
    ),
    "nan": (cpp("nan", after="for (int64_t i = 0; i < ROWS * COLUMNS; ++i) out[i] = NAN;"), Verdict.WRONG_VALUES),
    "unwritten": (cpp("unwritten", before="return 0;"), Verdict.WRONG_VALUES),
    "replay": (
        cpp(
            "replay",
            head=REMEMBER,
            before="if (calls++ > 200 && kept.size() == (size_t)(ROWS * COLUMNS)) {"
            " for (size_t i = 0; i < kept.size(); ++i) out[i] = kept[i]; return 0; }",
            after="kept.assign(out, out + ROWS * COLUMNS);",
        ),
        Verdict.WRONG_VALUES,
    ),
    "replay_by_pointer": (
        cpp(
            "replay_by_pointer",
            head="#include <map>\n#include <vector>\nstatic std::map<const void*, std::vector<float>> kept;",
            before="auto& known = kept[x]; if (known.size() == (size_t)(ROWS * COLUMNS)) {"
            " for (size_t i = 0; i < known.size(); ++i) out[i] = known[i]; return 0; }",
            after="known.assign(out, out + ROWS * COLUMNS);",
        ),
        Verdict.WRONG_VALUES,
    ),
    "state": (
        cpp("state", head=REMEMBER, after="if (++calls > 5) out[0] += 1.0f;"),
        Verdict.NONDETERMINISTIC,
    ),
    "writes_inputs": (
        cpp("writes_inputs", after="for (int64_t i = 0; i < ROWS * COLUMNS; ++i) const_cast<float*>(x)[i] = 0;"),
        Verdict.INPUT_MUTATED,
    ),
    "writes_weights": (cpp("writes_weights", after="const_cast<float*>(weight)[0] = 2;"), Verdict.INPUT_MUTATED),
    # -- broken ---------------------------------------------------------------------------------------------------
    "syntax": (cpp("syntax", before="int broken = ;"), Verdict.COMPILE_ERROR),
    "undefined": (cpp("undefined", head="void elsewhere();", before="elsewhere();"), Verdict.COMPILE_ERROR),
    "crash": (cpp("crash", before="*(volatile int*)8 = 1;"), Verdict.MEMORY_FAULT),
    "abort": (cpp("abort", head=POSIX, before="abort();"), Verdict.RUNTIME_ERROR),
    "says_no": (cpp("says_no", before='return context.fail("ROWS = %d is odd", (int)ROWS);'), Verdict.RUNTIME_ERROR),
    "hang": (cpp("hang", before="for (volatile int spin = 0;; ++spin) {}"), Verdict.TIMEOUT),
    "hungry": (
        cpp("hungry", head=POSIX, before="for (;;) { std::vector<char> v(1l << 30, 1); new std::vector<char>(v); }"),
        Verdict.OOM,
    ),
    # -- hostile --------------------------------------------------------------------------------------------------
    "fork": (cpp("fork", head=POSIX, before="fork();"), Verdict.TAMPERING),
    "exec": (cpp("exec", head=POSIX, before='system("true");'), Verdict.TAMPERING),
    "stops_judge": (cpp("stops_judge", head=POSIX, before="kill(getppid(), SIGSTOP);"), Verdict.TAMPERING),
    "socket": (cpp("socket", head=POSIX, before="socket(AF_INET, SOCK_STREAM, 0);"), Verdict.TAMPERING),
    "ptrace": (cpp("ptrace", head=POSIX, before="ptrace(PTRACE_ATTACH, getppid(), 0, 0);"), Verdict.TAMPERING),
    "reads_judge": (
        cpp(
            "reads_judge",
            head=POSIX,
            before="char b[8]; iovec l{b, 8}, r{(void*)4096, 8}; process_vm_readv(getppid(), &l, 1, &r, 1, 0);",
        ),
        Verdict.TAMPERING,
    ),
    "owns_signals": (
        cpp("owns_signals", head=POSIX, before="if (fcntl(0, F_SETOWN, getppid()) == 0) out[0] = 1; else abort();"),
        Verdict.RUNTIME_ERROR,
    ),
    "writes_file": (
        cpp("writes_file", head=POSIX, before='open("/etc/kernel_was_here", O_CREAT | O_WRONLY, 0600);'),
        Verdict.TAMPERING,
    ),
    "removes_file": (cpp("removes_file", head=POSIX, before='unlink("/etc/hostname");'), Verdict.TAMPERING),
    "session": (cpp("session", head=POSIX, before="setsid();"), Verdict.TAMPERING),
    "flood": (
        cpp("flood", head=POSIX, before="std::vector<char> b(1 << 20, 'x'); for (;;) write(1, b.data(), b.size());"),
        Verdict.RESOURCE_ABUSE,
    ),
    "exits": (
        cpp(
            "exits", head=POSIX, before='puts("{\\"type\\":\\"result\\",\\"verdict\\":\\"OK\\"}"); fflush(0); _exit(0);'
        ),
        Verdict.RUNTIME_ERROR,
    ),
    "forges_replies": (
        cpp("forges_replies", head=POSIX, before="char m[16] = {2}; for (int i = 0; i < 3; ++i) write(3, m, 16);"),
        Verdict.TAMPERING,
    ),
    "hangs_up": (cpp("hangs_up", head=POSIX, before="close(3);"), Verdict.RUNTIME_ERROR),
    "stops_itself": (cpp("stops_itself", head=POSIX, before="raise(SIGSTOP);"), Verdict.TIMEOUT),
    "at_load": (
        cpp("at_load", head=POSIX + "\n__attribute__((constructor)) static void early() { fork(); }"),
        Verdict.TAMPERING,
    ),
    "unprotects_inputs": (
        cpp(
            "unprotects_inputs",
            head=POSIX,
            before="void* page = (void*)((uintptr_t)x & ~(uintptr_t)4095);"
            " mprotect(page, 4096, PROT_READ | PROT_WRITE); const_cast<float*>(x)[0] = 0;",
        ),
        Verdict.INPUT_MUTATED,
    ),
    "maps_inputs_again": (
        cpp(
            "maps_inputs_again",
            head=POSIX,
            before='int fd = open("/proc/self/fd/5", O_RDWR); if (fd < 0) abort();',
        ),
        Verdict.TAMPERING,
    ),
}


pytestmark = pytest.mark.timeout(1200)
"""One judge judges them all; on a busy machine that takes minutes."""


@pytest.fixture(scope="module")
def judged(run_judge: RunJudge) -> Judged:
    return run_judge([candidate for candidate, _ in CANDIDATES.values()], run_timeout_seconds=10)


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidate_gets_the_verdict_it_deserves(judged: Judged, name: str) -> None:
    result = judged.results[name]
    assert result.verdict is CANDIDATES[name][1], f"{result.summary}\n{result.diagnostics}\n{judged.stderr[-2000:]}"


def test_judge_ends_well_after_all_of_them(judged: Judged) -> None:
    assert judged.exit_code == 0
    assert set(judged.results) == set(CANDIDATES)


def test_every_layer_that_this_kernel_offers_is_named(judged: Judged) -> None:
    layers = judged.hello.isolation
    assert {"subreaper", "non-dumpable", "rlimits", "capabilities", "landlock", "seccomp"} <= set(layers)
    assert layers["seccomp"] == "on"


def test_accepted_candidate_has_times_with_an_interval_for_every_case(judged: Judged) -> None:
    result = judged.results["fast"]
    assert [case.case for case in result.cases] == ["wide", "tall"]
    for case in result.cases:
        assert 0 < case.low <= case.speedup <= case.high
        assert case.samples >= 5
        assert case.ns > 0
    assert result.low is not None
    assert result.high is not None
    assert result.stage is Stage.TIMING
    assert {"compile", "load", "correctness", "timing", "total"} <= set(result.walls)


def test_rejected_candidate_has_no_times(judged: Judged) -> None:
    assert judged.results["replay"].cases == []
    assert judged.results["replay"].speedup is None


def test_compile_error_shows_the_candidates_line(judged: Judged) -> None:
    assert "int broken = ;" in judged.results["syntax"].diagnostics
    assert judged.results["syntax"].stage is Stage.COMPILE


def test_wrong_values_come_with_their_pattern(judged: Judged) -> None:
    assert "constant factor" in judged.results["factor"].diagnostics


def test_forbidden_system_call_is_named(judged: Judged) -> None:
    assert "kill" in judged.results["stops_judge"].diagnostics
    assert "/etc/kernel_was_here" in judged.results["writes_file"].diagnostics


def test_failing_kernel_is_quoted(judged: Judged) -> None:
    assert "is odd" in judged.results["says_no"].diagnostics


def test_hidden_case_exists_and_is_marked(judged: Judged) -> None:
    assert [case.hidden for case in judged.problem.cases] == [False, False, True]


def test_identical_binary_is_not_timed_twice(run_judge: RunJudge) -> None:
    twin = cpp("twin", source=CPP_HEAD + "// another comment\n" + CPP_FORWARD % {"before": "", "after": ""})
    results = run_judge([cpp("first"), twin]).results
    assert results["twin"].binary_hash == results["first"].binary_hash
    assert "same_binary:first" in results["twin"].flags
    assert results["twin"].cases == results["first"].cases
