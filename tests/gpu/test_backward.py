"""`case.backward` on a GPU: a CUDA kernel with both passes, and a Triton one that autograd calls; right and wrong."""

from __future__ import annotations

import pytest
from kernelharness.protocol import Case, Result, Stage, Verdict

from .judging import judge_sources

pytestmark = pytest.mark.timeout(300)

TRAIN = Case(name="train", backward=True, dims={"ROWS": 32768, "COLUMNS": 2048})
CUDA = """
#include "problem.h"

constexpr float kA = 0.7978845608028654f, kB = 0.044715f;
constexpr int kThreads = 128, kRows = 64;

__global__ void gelu(float* out, const float* x, const float* scale, int64_t count, int64_t columns) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float v = x[i] * scale[i % columns];
  out[i] = 0.5f * v * (1 + tanhf(kA * (v + kB * v * v * v)));
}

// A block has kThreads columns and kRows rows.
__global__ void gelu_backward(float* grad_x, float* grad_scale, const float* grad_out, const float* x,
                              const float* scale, int64_t rows, int64_t columns) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= columns) return;
  const float s = scale[c];
  const int64_t first = int64_t(blockIdx.y) * kRows;
  float sum = 0;
  for (int64_t r = first; r < min(rows, first + kRows); ++r) {
    const int64_t i = r * columns + c;
    const float v = x[i] * s, t = tanhf(kA * (v + kB * v * v * v));
    const float dv = grad_out[i] * (0.5f * (1 + t) + 0.5f * v * (1 - t * t) * kA * (1 + 3 * kB * v * v));
    grad_x[i] = dv * s;
    sum += dv * x[i];
  }
  atomicAdd(grad_scale + c, sum);
}

extern "C" int64_t saved_size(int64_t ROWS, int64_t COLUMNS, int64_t columns) { return 0; }

extern "C" int forward(float* out, const float* x, const float* scale, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       void* saved, KernelContext& context) {
  const int64_t count = ROWS * COLUMNS;
  gelu<<<(count + 255) / 256, 256, 0, context.stream>>>(out, x, scale, count, COLUMNS);
  return 0;
}

extern "C" int backward(float* grad_x, float* grad_scale, const float* grad_out, const float* out, const float* x,
                        const float* scale, int64_t ROWS, int64_t COLUMNS, int64_t columns, const void* saved,
                        KernelContext& context) {
  cudaMemsetAsync(grad_scale, 0, COLUMNS * sizeof(float), context.stream);
  const dim3 blocks((COLUMNS + kThreads - 1) / kThreads, (ROWS + kRows - 1) / kRows);
  gelu_backward<<<blocks, kThreads, 0, context.stream>>>(grad_x, grad_scale, grad_out, x, scale, ROWS, COLUMNS);
  return 0;
}
"""
TRITON = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

ROWS_PER_BLOCK = 64


@triton.jit
def _derived(v):
    # GELU by tanh, and its derivative; tanh(u) = 2 * sigmoid(2u) - 1.
    u = 0.7978845608028654 * (v + 0.044715 * v * v * v)
    t = 2 * tl.sigmoid(2 * u) - 1
    inner = 0.7978845608028654 * (1 + 3 * 0.044715 * v * v)
    return 0.5 * v * (1 + t), 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * inner


@triton.jit
def _gelu(out, x, scale, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < columns
    values = tl.load(x + row * columns + at, mask=mask) * tl.load(scale + at, mask=mask)
    result, _ = _derived(values)
    tl.store(out + row * columns + at, result, mask=mask)


@triton.jit
def _gelu_backward(grad_x, partial, grad_out, x, scale, rows, columns, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    part = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(scale + at, mask=at < columns)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(COUNT):
        row = part * COUNT + step
        mask = (at < columns) & (row < rows)
        value = tl.load(x + row * columns + at, mask=mask, other=0.0)
        _, slope = _derived(value * s)
        grad = tl.load(grad_out + row * columns + at, mask=mask, other=0.0) * slope
        tl.store(grad_x + row * columns + at, grad * s, mask=mask)
        total += grad * value
    tl.store(partial + part * columns + at, total, mask=at < columns)


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        out = torch.empty_like(x)
        rows, columns = x.shape
        _gelu[(rows, triton.cdiv(columns, 1024))](out, x, scale, columns, BLOCK=1024)
        return out

    @staticmethod
    def backward(ctx, grad_out):
        x, scale = ctx.saved_tensors
        rows, columns = x.shape
        parts = triton.cdiv(rows, ROWS_PER_BLOCK)
        grad_x, partial = torch.empty_like(x), x.new_empty(parts, columns)
        grid = (parts, triton.cdiv(columns, 256))
        _gelu_backward[grid](
            grad_x, partial, grad_out.contiguous(), x, scale, rows, columns, COUNT=ROWS_PER_BLOCK, BLOCK=256
        )
        return grad_x, partial.sum(0)


class ModelNew(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(columns) + 0.5)

    def forward(self, x):
        return Fused.apply(x, self.scale)
"""


def expect_right_and_timed(result: Result) -> None:
    assert (result.verdict, result.stage) == (Verdict.OK, Stage.TIMING), result.diagnostics
    assert result.diagnostics.startswith("OK: Correct in every case.\ncase 'train' (")
    [train] = result.cases
    assert train.case == "train"
    assert train.speedup > 1, "the reference needs a dozen kernels for what takes two here"


def test_cuda() -> None:
    halved = CUDA.replace("sum += dv * x[i];", "sum += 0.5f * dv * x[i];")
    results = judge_sources("scaled_gelu", "cuda", {"right": CUDA, "halved": halved}, TRAIN)
    expect_right_and_timed(results["right"])
    told = results["halved"].diagnostics
    assert results["halved"].verdict is Verdict.WRONG_VALUES, told
    assert "output 'grad_scale'" in told
    assert "pattern: constant factor: got = 0.5 x want" in told


def test_triton() -> None:
    unscaled = TRITON.replace("at, grad * s, mask=mask)", "at, grad, mask=mask)")
    results = judge_sources("scaled_gelu", "triton", {"right": TRITON, "unscaled": unscaled}, TRAIN)
    expect_right_and_timed(results["right"])
    told = results["unscaled"].diagnostics
    assert results["unscaled"].verdict is Verdict.WRONG_VALUES, told
    assert "output 'grad_x'" in told
