"""Every CPU candidate of the adversarial suite gets a verdict that its file asks for, and no cheat gains anything.

All candidates of one problem and language are judged by one judge, through the real command line: what one of them
does to the judge, the others would feel. Neighbours: adversarial/suite.py, test_native_candidates.py and
test_python_candidates.py (small variants of one kernel, and what the model is told).
"""

from __future__ import annotations

from statistics import median

import pytest
from kernelharness.protocol import EXIT_DONE, Candidate, Verdict

from .adversarial import suite
from .judging import JudgeBatch, Judged

pytestmark = pytest.mark.timeout(1800)
"""One judge judges a hundred of them; on a busy machine that takes minutes."""

ENTRIES = suite.entries("cpu")
GROUPS = suite.groups(ENTRIES)
ON_A_CPU = {*range(1, 12), 13, 14, 15, 16, 17, 19, *range(20, 34), 37, 42, 43, 44}
"""The cheats of the design's list that need no GPU."""

DRIFT = 1.5
"""What one and the same kernel may differ by when it is judged twice, minutes apart, on a busy machine."""

JudgedGroup = dict[tuple[str, str], Judged]


@pytest.fixture(scope="module")
def judged(judge_batch: JudgeBatch) -> JudgedGroup:
    def run(problem: str, language: str) -> Judged:
        candidates = [entry.candidate() for entry in GROUPS[problem, language]]
        return judge_batch(suite.batch("cpu", problem, language, candidates, run_timeout_seconds=10))

    return {key: run(*key) for key in GROUPS}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_verdict_is_one_that_the_file_asks_for(judged: JudgedGroup, entry: suite.Entry) -> None:
    group = judged[entry.problem, entry.language]
    if group.problem.verdict is not Verdict.OK:
        assert group.problem.verdict.value in entry.expect, group.problem.reason
        return
    result = group.results[entry.name]
    assert result.verdict.value in entry.expect, f"{result.summary}\n{result.diagnostics}\n{group.stderr[-2000:]}"


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.no_gain_over], ids=lambda entry: entry.id)
def test_cheat_is_not_faster_than_the_honest_kernel(judged: JudgedGroup, entry: suite.Entry) -> None:
    results = judged[entry.problem, entry.language].results
    cheat, honest = results[entry.name], results[entry.no_gain_over]
    assert honest.high is not None
    assert cheat.low is None or cheat.low < DRIFT * honest.high, f"{cheat.summary}; honest: {honest.summary}"


def test_answering_ahead_is_no_gain(judge_batch: JudgeBatch) -> None:
    """Five of each in turns: one of each says more of the machine's seconds than of the kernels."""
    names = ("own_answers_ahead_and_compares", "small_linear_plain")
    entries = {entry.name: entry for entry in GROUPS["small_linear", "cpp"]}
    candidates = [_variant(entries[name], number) for number in range(5) for name in names]
    results = judge_batch(suite.batch("cpu", "small_linear", "cpp", candidates, run_timeout_seconds=10)).results
    ahead, honest = ([results[f"{name}-{number}"] for number in range(5)] for name in names)
    lows, highs = [result.low for result in ahead], [result.high for result in honest]
    assert None not in lows, [result.summary for result in ahead]
    assert None not in highs, [result.summary for result in honest]
    assert median(low for low in lows if low is not None) < median(high for high in highs if high is not None)


@pytest.mark.parametrize("key", GROUPS, ids="-".join)
def test_judge_ends_well_after_all_of_them(judged: JudgedGroup, key: tuple[str, str]) -> None:
    group = judged[key]
    assert group.exit_code == EXIT_DONE, group.stderr
    if group.problem.verdict is Verdict.OK:
        assert set(group.results) == {entry.name for entry in GROUPS[key]}


def test_more_than_ten_times_as_fast_by_algebra_is_believed(judged: JudgedGroup) -> None:
    assert (judged["odd_outputs", "pytorch"].results["odd_outputs"].speedup or 0) > 10


def test_memory_that_is_returned_again_is_copied_and_said(judged: JudgedGroup) -> None:
    results = judged["scaled_rows", "pytorch"].results
    assert "copy_out" in results["workspace_returned"].flags
    assert "copy_out" not in results["plain"].flags


def test_forbidden_system_call_is_named(judged: JudgedGroup) -> None:
    results = judged["scaled_rows", "cpp"].results
    assert "kill" in results["44_stops_the_judge"].diagnostics
    assert "/etc/kernel_was_here" in results["44_writes_a_file"].diagnostics


def test_text_of_a_candidate_is_quoted_without_control_characters(judged: JudgedGroup) -> None:
    told = judged["scaled_rows", "cpp"].results["own_error_text_is_a_log"].diagnostics
    assert "Ignore all previous instructions" in told
    assert "\x1b" not in told


def test_every_cheat_of_the_list_that_needs_no_gpu_is_there() -> None:
    assert _numbers("cpu", honest=False) == ON_A_CPU
    assert sum(entry.name.startswith("own_") for entry in ENTRIES) >= 10


def test_every_cheat_and_every_oddity_of_the_lists_is_there_for_a_gpu() -> None:
    assert _numbers("gpu", honest=False) == set(suite.CHEATS)
    assert _numbers("gpu", honest=True) == set(suite.HONEST)


@pytest.mark.parametrize("device", suite.TARGETS)
def test_names_say_one_thing_each(device: str) -> None:
    for group in suite.groups(suite.entries(device)).values():
        names = [entry.name for entry in group]
        assert len(names) == len(set(names)) <= 64
        assert {entry.no_gain_over for entry in group} - {""} <= set(names)


def _variant(entry: suite.Entry, number: int) -> Candidate:
    """Another binary that does the same."""
    candidate = entry.candidate()
    text = f'{candidate.files[0].content}\nextern "C" const int variant = {number};\n'
    file = candidate.files[0].model_copy(update={"content": text})
    return candidate.model_copy(update={"id": f"{entry.name}-{number}", "files": [file]})


def _numbers(device: str, *, honest: bool) -> set[int]:
    return {number for entry in suite.entries(device) if entry.is_honest == honest for number in entry.numbers}
