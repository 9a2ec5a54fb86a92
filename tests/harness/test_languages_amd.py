"""Languages for devices that this machine does not have: compiled for real by the judge's own sandbox, and not run."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from kernelharness.devices import missing_device
from kernelharness.languages.base import CompileError, get_language
from kernelharness.languages.header import render_header
from kernelharness.protocol import (
    EXIT_DONE,
    Batch,
    Candidate,
    CaseFact,
    File,
    Problem,
    Purpose,
    Result,
    TensorFact,
    Toolchain,
    Verdict,
)

from .adversarial.suite import entries
from .judging import SCALED_ROWS, JudgeBatch, Judged

NOTES = "this machine has no {} device"
HONEST = {entry.name: entry.source for entry in entries("gpu") if entry.is_honest}
HIP = """
#include "problem.h"

constexpr int THREADS = 256;

__global__ __launch_bounds__(THREADS) void rows(float* out, const float* x, const float* weight, int64_t columns,
                                                float eps) {
  __shared__ float sums[THREADS / 64];
  const float* row = x + blockIdx.x * columns;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < columns; c += THREADS) sum += row[c] * row[c];
  for (int offset = 32; offset > 0; offset /= 2) sum += __shfl_down(sum, offset);
  if (threadIdx.x % 64 == 0) sums[threadIdx.x / 64] = sum;
  __syncthreads();
  sum = 0;
  for (int wave = 0; wave < THREADS / 64; ++wave) sum += sums[wave];
  const float scale = rsqrtf(sum / columns + eps);
  for (int64_t c = threadIdx.x; c < columns; c += THREADS) out[blockIdx.x * columns + c] = row[c] * scale * weight[c];
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS,
                       int64_t columns, double eps, KernelContext& context) {
  rows<<<ROWS, THREADS, 0, context.stream>>>(out, x, weight, COLUMNS, (float)eps);
  return 0;
}
"""
FLYDSL = """
import flydsl.compiler as flyc
import flydsl.expr as fx
import torch
import torch.nn as nn


@flyc.kernel
def scale_kernel(x: fx.Tensor, weight: fx.Tensor, out: fx.Tensor):
    index = fx.block_idx.x * 256 + fx.thread_idx.x
    out[index] = x[index] * weight[fx.thread_idx.x]


@flyc.jit
def scale(x: fx.Tensor, weight: fx.Tensor, out: fx.Tensor, n: fx.Int32, stream: fx.Stream = fx.Stream(None)):
    scale_kernel(x, weight, out).launch(grid=(n // 256, 1, 1), block=(256, 1, 1), stream=stream)


class ModelNew(nn.Module):
    def __init__(self, columns, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(columns) + 0.5)

    def forward(self, x):
        out = torch.empty_like(x)
        scale(x.view(-1), self.weight.detach(), out.view(-1), x.numel())
        return out
"""

no_amd = pytest.mark.skipif(missing_device("amd") != NOTES.format("AMD"), reason="this machine has an AMD device")
no_nvidia = pytest.mark.skipif(not missing_device("nvidia"), reason="this machine has an NVIDIA device")
with_hipcc = pytest.mark.skipif(
    not (shutil.which("hipcc") or Path("/opt/rocm/bin/hipcc").exists()),
    reason="hipcc is not installed: ROCm has it, or dev/hip-toolchain makes one of Debian's packages",
)


def with_package(name: str, distribution: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed: pip install {distribution}")


def judge(
    judge_batch: JudgeBatch, language: str, arch: str, *sources: str, purpose: Purpose = Purpose.SEARCH
) -> Judged:
    vendor = "amd" if arch.startswith("gfx") else "nvidia"
    batch = Batch(
        id="batch",
        purpose=purpose,
        problem=Problem(files=[File(path="reference.py", content=SCALED_ROWS)]),
        toolchain=Toolchain(language=language, arch=arch, vendor=vendor),
        candidates=[Candidate(id=f"c{n}", files=[File(path="k", content=text)]) for n, text in enumerate(sources)],
    )
    judged = judge_batch(batch)
    assert judged.exit_code == EXIT_DONE, judged.stderr
    return judged


def assert_compiled(result: Result, vendor: str) -> None:
    assert result.verdict is Verdict.COMPILED, result.diagnostics
    assert result.summary.startswith(f"compiled, not run: this machine has no {vendor} device")
    assert result.verdict.is_infrastructure, "the same kernel is to be judged where the device is"
    assert result.speedup is None
    assert result.cases == []


def compiled_in(result: Result) -> int:
    return int(result.summary.rsplit(" ", 1)[1])


# -- every language ----


@no_amd
def test_without_a_device_the_problem_is_described_and_says_that_nothing_is_run(judge_batch: JudgeBatch) -> None:
    judged = judge(judge_batch, "pytorch", "gfx942", purpose=Purpose.PROBE)
    assert judged.problem.verdict is Verdict.OK
    assert judged.problem.not_run == "this machine has no AMD device"
    assert judged.problem.cases[0].outputs[0].dtype == "float32"
    assert judged.problem.cases[0].t_min_ns is None, "the CPU's ceilings are none of the device's"
    assert judged.baselines == []
    assert judged.hello.device == "none: this machine has no AMD device"


@no_nvidia
def test_a_missing_compiler_is_named_and_no_candidates_fault(judge_batch: JudgeBatch) -> None:
    if not get_language("cuda").missing(Toolchain(language="cuda", arch="sm_90a")):
        pytest.skip("this machine has nvcc")
    judged = judge(judge_batch, "cuda", "sm_90a", "int forward();")
    assert judged.problem.verdict is Verdict.HARNESS_ERROR
    assert "nvcc is not installed: it comes with the CUDA toolkit and the image harness-cuda" in judged.problem.reason
    assert judged.results == {}


@pytest.mark.parametrize(
    ("language", "lacks"),
    [("hip", "hipcc is not installed: it comes with ROCm"), ("cpp", "g++ is not installed: install GCC")],
)
def test_what_is_missing_comes_with_where_to_get_it(language: str, lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("kernelharness.languages.hip._TOOLKIT", "hipcc")
    assert lacks in get_language(language).missing(Toolchain(language=language, arch="any"))


# -- hip ----


@no_amd
@with_hipcc
@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_hip_compiles_in_the_sandbox_and_says_what_it_needs(judge_batch: JudgeBatch, arch: str) -> None:
    result = judge(judge_batch, "hip", arch, HIP).results["c0"]
    assert_compiled(result, "AMD")
    assert 0 < result.resources["registers"] <= 128
    assert result.resources["spilled_registers"] == 0
    assert result.resources["shared_bytes"] == 16


@no_amd
@with_hipcc
def test_what_hip_does_not_compile_is_told_at_its_line(judge_batch: JudgeBatch) -> None:
    wrong, unnamed = HIP.replace("* row[c];\n  for", "* rowz[c];\n  for"), HIP.replace("int forward(", "int forwards(")
    results = judge(judge_batch, "hip", "gfx942", wrong, unnamed).results
    assert results["c0"].verdict is Verdict.COMPILE_ERROR
    assert "use of undeclared identifier 'rowz'" in results["c0"].diagnostics
    assert ">  11 |" in results["c0"].diagnostics
    assert results["c1"].summary == "'forward' is not defined: define it exactly as problem.h declares it"


def test_hips_16_bit_floats_are_declared_where_the_problem_has_them() -> None:
    half = TensorFact(name="x", shape=[8], dtype="bfloat16")
    header = render_header([CaseFact(case="a", inputs=[half], outputs=[half])], "native_hip.h")
    assert "using bfloat16_t = __bf16;" in header
    assert "hipStream_t stream" in header


def test_clangs_remarks_and_the_device_linkers_errors_are_read() -> None:
    hip = get_language("hip")
    remarks = "".join(
        f"kernel.hip:3:1: remark:     {said} [-Rpass-analysis=kernel-resource-usage]\n"
        for said in (
            "VGPRs: 13",
            "VGPRs: 40",
            "VGPRs Spill: 2",
            "LDS Size [bytes/block]: 64",
            "Occupancy [waves/SIMD]: 8",
        )
    )
    assert hip.resources(remarks) == {"registers": 40, "spilled_registers": 2, "shared_bytes": 64}
    assert hip.compile_errors("lld: error: undefined symbol: f(float)\n", "kernel.hip") == [
        CompileError("undefined symbol: f(float)")
    ]


# -- triton ----

TRITON = HONEST["rmsnorm_triton"]
with_triton = with_package("triton", "triton")


@no_amd
@no_nvidia
@with_triton
@pytest.mark.parametrize(("arch", "vendor"), [("gfx942", "AMD"), ("gfx950", "AMD"), ("sm_90a", "NVIDIA")])
def test_triton_compiles_what_its_calls_launch(judge_batch: JudgeBatch, arch: str, vendor: str) -> None:
    asks = "        assert x.is_cuda and x.device.type == 'cuda' and torch.zeros(1, device=x.device).cuda().is_cuda\n"
    asking = TRITON.replace("        out = torch.empty_like(x)\n", f"{asks}        out = torch.empty_like(x)\n")
    results = judge(judge_batch, "triton", arch, TRITON, asking, HONEST["rmsnorm_triton_autotuned"]).results
    for result in results.values():
        assert_compiled(result, vendor)
    assert f"; kernels that its calls compiled for {arch}: " in results["c0"].summary
    assert ("registers" in results["c0"].resources) == (vendor == "AMD")
    assert compiled_in(results["c2"]) > compiled_in(results["c0"]) > 0, "every configuration is compiled"


@no_amd
@with_triton
def test_what_triton_cannot_compile_is_told_at_its_line_and_a_plain_mistake_as_such(judge_batch: JudgeBatch) -> None:
    unknown = TRITON.replace("tl.sum(", "tl.summ(")
    mistake = TRITON.replace("rows, columns = x.shape", "rows, columns = shape")
    large = TRITON.replace("tl.store(", "tl.static_assert(BLOCK < 64, 'too wide')\n    tl.store(")
    no_kernel = TRITON.replace("_rows[(rows,)]", "(lambda *a, **k: None)")
    results = judge(judge_batch, "triton", "gfx942", unknown, mistake, large, no_kernel).results
    assert results["c0"].verdict is Verdict.COMPILE_ERROR
    assert "module 'triton.language' has no attribute 'summ'" in results["c0"].summary
    assert ">  16 |     scale = tl.rsqrt(tl.summ(values * values) / columns + eps)" in results["c0"].diagnostics
    assert results["c1"].verdict is Verdict.RUNTIME_ERROR
    assert "name 'shape' is not defined" in results["c1"].diagnostics
    assert results["c2"].verdict is Verdict.COMPILE_ERROR
    assert "too wide" in results["c2"].diagnostics
    assert results["c3"].summary.endswith("compiled for gfx942: 0")


@no_amd
@with_triton
def test_a_call_that_only_a_device_can_answer_is_no_fault_of_the_candidate(judge_batch: JudgeBatch) -> None:
    asking = TRITON.replace("rows, columns = x.shape", "rows, columns = x.shape; torch.cuda.memory_allocated_by_me()")
    result = judge(judge_batch, "triton", "gfx942", asking).results["c0"]
    assert result.verdict is Verdict.HARNESS_ERROR
    assert "cannot be compiled without a device, because its call failed: AttributeError" in result.summary


# -- cutedsl, flydsl ----


@no_nvidia
@with_package("cutlass", "nvidia-cutlass-dsl")
def test_cutedsl_compiles_without_a_device(judge_batch: JudgeBatch) -> None:
    right = HONEST["rmsnorm_cutedsl"]
    results = judge(
        judge_batch, "cutedsl", "sm_90a", right, right.replace("cute.math.rsqrt", "cute.math.rsqrtt")
    ).results
    assert_compiled(results["c0"], "NVIDIA")
    assert compiled_in(results["c0"]) > 0
    assert results["c1"].verdict is Verdict.COMPILE_ERROR
    assert "rsqrtt" in results["c1"].diagnostics


@no_amd
@with_hipcc
@with_package("flydsl", "flydsl")
@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_flydsl_compiles_without_a_device(judge_batch: JudgeBatch, arch: str) -> None:
    wrong = FLYDSL.replace("fx.thread_idx.x\n", "fx.thread_idx.xx\n")
    results = judge(judge_batch, "flydsl", arch, FLYDSL, wrong).results
    assert_compiled(results["c0"], "AMD")
    assert compiled_in(results["c0"]) > 0
    assert results["c1"].verdict is Verdict.COMPILE_ERROR
