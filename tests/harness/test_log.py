"""What the judge writes is a log that proves itself whole, within its caps, whatever a candidate said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kernelharness.log import Log
from kernelharness.protocol import (
    MAX_CANDIDATE_BYTES,
    MAX_LINE_BYTES,
    MAX_LOG_BYTES,
    MOST_KERNELS,
    MOST_NAME,
    Bye,
    CaseResult,
    Hello,
    KernelTime,
    Profile,
    Result,
    Stage,
    Verdict,
    parse_log,
    to_artifacts,
)


def result(name: str, diagnostics: str = "") -> Result:
    return Result(
        candidate=name,
        verdict=Verdict.RUNTIME_ERROR,
        stage=Stage.CORRECTNESS,
        summary="it fails",
        diagnostics=diagnostics,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def open_log(path: Path, termination: Path | None = None) -> Log:
    return Log(os.open(path, os.O_CREAT | os.O_WRONLY), termination)


def test_log_is_whole_and_the_termination_message_agrees(path: Path, tmp_path: Path) -> None:
    termination = tmp_path / "termination"
    log = open_log(path, termination)
    log.write(Hello(harness="1", device="cpu"))
    log.write(result("one"))
    log.close(1.25)
    messages = parse_log(path.read_text())
    bye = messages[-1]
    assert isinstance(bye, Bye)
    assert json.loads(termination.read_text()) == {"count": 2, "sha256": bye.sha256}
    assert bye.device_seconds == 1.25


@pytest.mark.parametrize("text", ["x" * 50_000, "\u2028" * 9000, '"\\' * 20_000, "é" * 20_000])
def test_long_diagnostics_are_cut_to_a_line(path: Path, text: str) -> None:
    log = open_log(path)
    log.write(result("one", text))
    log.close(0)
    parse_log(path.read_text())
    assert max(len(line) for line in path.read_bytes().split(b"\n")) < MAX_LINE_BYTES


def test_a_profile_gives_way_before_times_do(path: Path) -> None:
    """With 32 cases a line is nearly full without it."""
    cases = [CaseResult(case=f"case-{n}", ns=1, low=1, high=1, speedup=1, baseline_ns=1) for n in range(32)]
    kernels = [KernelTime(name=str(n) * MOST_NAME, calls=1, share=0.1) for n in range(MOST_KERNELS)]
    profile = Profile(case="case-0", on_device=True, kernels=kernels)
    full = result("one", "x" * 2000).model_copy(update={"cases": cases, "profile": profile})
    assert len(full.model_copy(update={"diagnostics": ""}).model_dump_json()) > MAX_LINE_BYTES
    log = open_log(path)
    log.write(full)
    log.write(result("two").model_copy(update={"profile": profile}))
    log.close(0)
    one, two = (message for message in parse_log(path.read_text()) if isinstance(message, Result))
    assert (one.cases, one.profile, one.summary) == (cases, None, "it fails")
    assert two.profile == profile


def test_one_candidate_never_gets_more_than_its_share(path: Path) -> None:
    log = open_log(path)
    for _ in range(10):
        log.write(result("one", "x" * 7000))
    log.close(0)
    lines = [line for line in path.read_bytes().split(b"\n") if b'"one"' in line]
    assert len(lines) == 10
    assert sum(map(len, lines)) <= MAX_CANDIDATE_BYTES + 10 * 1024


def test_artifacts_never_push_results_out_of_the_log(path: Path) -> None:
    log = open_log(path)
    for _ in range(20):
        for piece in to_artifacts("one", "kernel.so", os.urandom(200 * 1024)):
            log.write(piece)
    log.write(result("one"))
    log.close(0)
    assert path.stat().st_size <= MAX_LOG_BYTES
    assert any(isinstance(message, Result) for message in parse_log(path.read_text()))
