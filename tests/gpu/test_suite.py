"""Every GPU candidate of the adversarial suite gets the verdict that its file asks for. Needs an NVIDIA GPU."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from kernelharness.profiling import launches_of
from kernelharness.protocol import Hello, Message, ProblemFact, Result, Verdict
from torch.autograd import profiler

from .judging import judge, suite

pytestmark = pytest.mark.timeout(900)


@cache
def _judged(problem: str, language: str) -> list[Message]:
    """One judge for all candidates of this problem and language."""
    group = suite.groups(suite.entries("gpu"))[problem, language]
    return judge(suite.batch("gpu", problem, language, [entry.candidate() for entry in group]))


def _results(problem: str, language: str) -> dict[str, Result]:
    return {message.candidate: message for message in _judged(problem, language) if isinstance(message, Result)}


ENTRIES = suite.entries("gpu")
DRIFT = 1.05
"""What one and the same kernel may differ by when one judge judges it twice, a minute apart."""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.problem}-{entry.id}")
def test_verdict_is_the_one_that_the_file_asks_for(entry: suite.Entry) -> None:  # type: ignore[name-defined]
    messages = _judged(entry.problem, entry.language)
    problem = next(message for message in messages if isinstance(message, ProblemFact))
    if problem.verdict is not Verdict.OK:
        assert problem.verdict.value in entry.expect, problem.reason
        return
    result = _results(entry.problem, entry.language)[entry.name]
    assert result.verdict.value in entry.expect, result.diagnostics


@pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.no_gain_over], ids=lambda entry: f"{entry.problem}-{entry.id}"
)
def test_cheat_is_not_faster_than_the_honest_kernel(entry: suite.Entry) -> None:  # type: ignore[name-defined]
    results = _results(entry.problem, entry.language)
    cheat, honest = results[entry.name], results[entry.no_gain_over]
    assert honest.high is not None
    assert cheat.low is None or cheat.low < DRIFT * honest.high, cheat.summary


def test_more_than_ten_times_as_fast_by_algebra_is_believed() -> None:
    assert (_results("diagonal_product", "pytorch")["diagonal_by_algebra"].speedup or 0) > 10


def test_eager_is_as_fast_as_itself() -> None:
    result = _results("matmul", "pytorch")["matmul_eager"]
    assert result.low is not None
    assert result.high is not None
    assert result.low <= 1.01
    assert result.high >= 0.99


def test_every_layer_of_isolation_is_stated() -> None:
    hello = next(message for message in _judged("matmul", "cuda") if isinstance(message, Hello))
    assert {"non-dumpable", "capabilities", "landlock", "seccomp", "rlimits", "subreaper"} <= hello.isolation.keys()
    assert hello.isolation["seccomp"].startswith("on")


def test_result_of_a_cuda_kernel_tells_registers() -> None:
    assert _results("matmul", "cuda")["matmul_tiled"].resources["registers"] > 16


def _torch_tells_of_launches() -> bool:
    with profiler.profile(use_cpu=False, use_device="cuda", use_kineto=True) as seen:
        torch.ones(1, device="cuda").add_(1)
        torch.cuda.synchronize()
    return bool(seen.kineto_results and launches_of(seen.kineto_results.events()))


def test_profile_of_a_triton_kernel_tells_registers_and_occupancy() -> None:
    if not _torch_tells_of_launches():
        pytest.skip(f"torch {torch.__version__} says nothing of registers (2.11 does not)")
    profile = _results("rmsnorm", "triton")["rmsnorm_triton"].profile
    assert profile is not None
    [rows] = [kernel for kernel in profile.kernels if kernel.name == "_rows"]
    assert 8 <= (rows.registers or 0) <= 255
    assert 0.1 < (rows.occupancy or 0) <= 1


def test_memory_fault_is_looked_at_again_by_compute_sanitizer() -> None:
    told = _results("rmsnorm", "cuda")["out_of_bounds"].diagnostics
    assert (
        "compute-sanitizer watched one call with made-up inputs:\n| invalid global access: write of 4 bytes at " in told
    )
    assert "far from every tensor of the call\n| in normalise(), line 17: " in told
    assert re.search(r"\n\| thread \(\d+,0,0\) of block \(\d+,0,0\)$", told), told
