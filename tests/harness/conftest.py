"""The fixtures that run a real judge through its command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kernelharness.protocol import (
    Batch,
    Candidate,
    Case,
    File,
    LogError,
    Problem,
    Purpose,
    Tolerance,
    Toolchain,
    parse_log,
)

from .judging import NOBODY, SCALED_ROWS, SCALED_ROWS_CASES, JudgeBatch, Judged, RunJudge


@pytest.fixture(scope="session")
def judge_batch(tmp_path_factory: pytest.TempPathFactory) -> JudgeBatch:
    """Run a real judge on a batch; compiled code is kept for the session."""
    cache = tmp_path_factory.mktemp("cache")

    def run(batch: Batch, torch_compile: str = "never", arguments: tuple[str, ...] = ()) -> Judged:
        folder = tmp_path_factory.mktemp("batch")
        path = folder / "batch.json"
        path.write_text(batch.to_json())
        command = [*NOBODY, sys.executable, "-m", "kernelharness", "judge", "--batch", str(path)]
        command += ["--cache", str(cache), "--torch-compile", torch_compile]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=folder, check=False)
        try:
            messages = parse_log(done.stdout) if done.stdout else []
        except LogError as error:
            pytest.fail(f"{error}; exit code {done.returncode}; it said: {done.stderr[-3000:]}")
        return Judged(messages, done.returncode, done.stderr)

    return run


@pytest.fixture(scope="session")
def run_judge(judge_batch: JudgeBatch) -> RunJudge:
    """The same for candidates, of SCALED_ROWS when nothing else is said."""

    def run(
        candidates: list[Candidate],
        *,
        language: str = "cpp",
        reference: str = SCALED_ROWS,
        cases: list[Case] | None = None,
        purpose: Purpose = Purpose.SEARCH,
        tolerance: Tolerance | None = None,
        run_timeout_seconds: int = 20,
        torch_compile: str = "never",
        compile_ratios: dict[str, float] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> Judged:
        batch = Batch(
            id="batch",
            purpose=purpose,
            problem=Problem(
                files=[File(path="reference.py", content=reference)],
                cases=SCALED_ROWS_CASES if cases is None else cases,
                tolerance=tolerance or Tolerance(),
            ),
            toolchain=Toolchain(language=language, arch="x86-64-v3", run_timeout_seconds=run_timeout_seconds),
            candidates=candidates,
            compile_ratios=compile_ratios,
        )
        return judge_batch(batch, torch_compile, arguments)

    return run
