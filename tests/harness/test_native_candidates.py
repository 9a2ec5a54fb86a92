"""C++ candidates through the real command line: right, wrong and broken ones, and what the model is told of them.

Hostile and odd ones are files: adversarial/ and test_adversarial.py.
"""

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
CLOCK = """
#include <time.h>
static double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e6 * time.tv_sec + 1e-3 * time.tv_nsec;
}
static double ended;
"""
CANDIDATES = {
    "right": (cpp("right"), Verdict.OK),
    "fast": (cpp("fast", source=CPP_HEAD + FAST_BODY), Verdict.OK),
    "drowsy": (  # 200 us later when the call before is not just over
        cpp(
            "drowsy",
            head=CLOCK,
            before="const double begin = now(); while (begin - ended > 30 && now() - begin < 200) {}",
            after="ended = now();",
        ),
        Verdict.OK,
    ),
    "factor": (
        cpp("factor", after="for (int64_t i = 0; i < ROWS * COLUMNS; ++i) out[i] *= 1.01f;"),
        Verdict.WRONG_VALUES,
    ),
    "state": (
        cpp("state", head="static int calls = 0;", after="if (++calls > 5) out[0] += 1.0f;"),
        Verdict.NONDETERMINISTIC,
    ),
    "syntax": (cpp("syntax", before="int broken = ;"), Verdict.COMPILE_ERROR),
    "undefined": (cpp("undefined", head="void elsewhere();", before="elsewhere();"), Verdict.COMPILE_ERROR),
    "crash": (cpp("crash", before="*(volatile int*)8 = 1;"), Verdict.MEMORY_FAULT),
    "abort": (cpp("abort", head="#include <cstdlib>", before="abort();"), Verdict.RUNTIME_ERROR),
    "says_no": (cpp("says_no", before='return context.fail("ROWS = %d is odd", (int)ROWS);'), Verdict.RUNTIME_ERROR),
    "hang": (cpp("hang", before="for (volatile int spin = 0;; ++spin) {}"), Verdict.TIMEOUT),
    "hungry": (
        cpp("hungry", head="#include <vector>", before="for (;;) new std::vector<char>(1l << 30, 1);"),
        Verdict.OOM,
    ),
}
"""Small variants of one kernel, whose few lines say more than a file would."""

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


def test_speedup_is_that_of_calls_whose_inputs_come_one_by_one_where_it_is_less(judged: Judged) -> None:
    drowsy, right = judged.results["drowsy"], judged.results["right"]
    assert [flag for flag in drowsy.flags if flag.startswith("one_by_one")] == ["one_by_one:wide", "one_by_one:tall"]
    for case, awake in zip(drowsy.cases, right.cases, strict=True):
        assert case.speedup < awake.speedup
        assert case.speedup == pytest.approx(case.baseline_ns / case.ns, rel=0.3)


def test_rejected_candidate_has_no_times(judged: Judged) -> None:
    assert judged.results["factor"].cases == []
    assert judged.results["factor"].speedup is None


def test_compile_error_shows_the_candidates_line(judged: Judged) -> None:
    assert "int broken = ;" in judged.results["syntax"].diagnostics
    assert judged.results["syntax"].stage is Stage.COMPILE


def test_wrong_values_come_with_their_pattern(judged: Judged) -> None:
    assert "constant factor" in judged.results["factor"].diagnostics


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
