"""Problems with `case.backward` and candidates for them, right and wrong; see test_backward.py."""

from __future__ import annotations

from kernelharness.protocol import Candidate, Case, File

LINEAR_GELU = """
import torch
import torch.nn as nn

ROWS, INNER, OUTER = 64, 96, 48


class Model(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.linear = nn.Linear(inner, outer)

    def forward(self, x):
        return nn.functional.gelu(self.linear(x), approximate="tanh")


def get_inputs():
    return [torch.randn(ROWS, INNER)]


def get_init_inputs():
    return [INNER, OUTER]
"""
"""Parameters with gradients, and something worth saving between the passes."""

GATHERED = """
import torch
import torch.nn as nn

ROWS, WIDTH, WORDS = 40, 64, 30


class Model(nn.Module):
    def forward(self, table, index, scale):
        return table[index] * scale, index + 1


def get_inputs():
    return [torch.randn(WORDS, WIDTH), torch.randint(0, WORDS, (ROWS,)), torch.randn(WIDTH)]
"""
"""An integer input and an integer output: neither has a gradient. Two floating inputs do."""

DIAGONAL_MANIFEST = """
apiVersion: kernelsearch.dev/v1alpha1
kind: KernelSearch
metadata: {name: diagonal}
spec:
  problem:
    source:
      inline:
      - path: reference.py
        content: |
          import torch
          ROWS, COLUMNS = 384, 512
          class Model(torch.nn.Module):
              def __init__(self, rows):
                  super().__init__()
                  self.d = torch.nn.Parameter(torch.rand(rows) + 0.5)
              def forward(self, x):
                  return torch.diag(self.d) @ x
          def get_inputs():
              return [torch.randn(ROWS, COLUMNS)]
          def get_init_inputs():
              return [ROWS]
    cases: [{name: train, dims: {ROWS: 384, COLUMNS: 512}, backward: true}]
    seeds:
    - language: cpp
      content: |
        #include "problem.h"
        constexpr int REPEATS = 2;  // tune: 1, 2
        extern "C" int64_t saved_size(int64_t ROWS, int64_t COLUMNS, int64_t rows) { return 0; }
        extern "C" int forward(float* out, const float* x, const float* d, int64_t ROWS, int64_t COLUMNS, int64_t rows,
                               void* saved, KernelContext& context) {
          for (int64_t i = 0; i < ROWS; ++i)
            for (int repeat = 0; repeat < REPEATS; ++repeat)
              for (int64_t j = 0; j < COLUMNS; ++j) out[i * COLUMNS + j] = d[i] * x[i * COLUMNS + j];
          return 0;
        }
        extern "C" int backward(float* grad_x, float* grad_d, const float* grad_out, const float* out, const float* x,
                                const float* d, int64_t ROWS, int64_t COLUMNS, int64_t rows, const void* saved,
                                KernelContext& context) {
          for (int64_t i = 0; i < ROWS; ++i) {
            double sum = 0;
            for (int64_t j = 0; j < COLUMNS; ++j) {
              const float g = grad_out[i * COLUMNS + j];
              grad_x[i * COLUMNS + j] = g * d[i];
              sum += (double)g * x[i * COLUMNS + j];
            }
            grad_d[i] = sum;
          }
          return 0;
        }
  targets: [{name: cpu, profile: x86-64-v3, language: cpp, batchSize: 2}]
  budget: {candidates: 2}
  verification: {repeats: 1}
"""
"""A whole search; the kernel wins by algebra, however busy the machine is."""

BACKWARD = [Case(name="train", backward=True)]

_LINEAR_HEAD = """
%s
#include "problem.h"
#include <cmath>
#include <cstring>

static const float kA = 0.7978845608028654f, kB = 0.044715f;
%s
"""
_LINEAR_FORWARD = """
extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t ROWS,
                       int64_t OUTER, int64_t INNER, int64_t inner, int64_t outer, void* saved,
                       KernelContext& context) {
  float* z = %(keep)s;
  for (int64_t r = 0; r < ROWS; ++r)
    for (int64_t o = 0; o < OUTER; ++o) {
      float sum = linear_bias[o];
      for (int64_t i = 0; i < INNER; ++i) sum += x[r * INNER + i] * linear_weight[o * INNER + i];
      z[r * OUTER + o] = sum;
      out[r * OUTER + o] = 0.5f * sum * (1 + std::tanh(kA * (sum + kB * sum * sum * sum)));
    }
  return 0;
}
"""
_LINEAR_BACKWARD = """
extern "C" int64_t saved_size(int64_t ROWS, int64_t OUTER, int64_t INNER, int64_t inner, int64_t outer) {
  return ROWS * OUTER * 4;
}

extern "C" int backward(float* grad_x, float* grad_linear_weight, float* grad_linear_bias, const float* grad_out,
                        const float* out, const float* x, const float* linear_weight, const float* linear_bias,
                        int64_t ROWS, int64_t OUTER, int64_t INNER, int64_t inner, int64_t outer, const void* saved,
                        KernelContext& context) {
  %(before)s
  const float* z = %(found)s;
  float* dz = (float*)context.workspace(ROWS * OUTER * 4);
  for (int64_t i = 0; i < ROWS * OUTER; ++i) {
    const float v = z[i], t = std::tanh(kA * (v + kB * v * v * v));
    dz[i] = %(cotangent)s * (0.5f * (1 + t) + 0.5f * v * (1 - t * t) * kA * (1 + 3 * kB * v * v));
  }
  memset(grad_x, 0, ROWS * INNER * 4);
  memset(grad_linear_weight, 0, OUTER * INNER * 4);
  memset(grad_linear_bias, 0, OUTER * 4);
  for (int64_t r = 0; r < ROWS; ++r)
    for (int64_t o = 0; o < OUTER; ++o) {
      const float d = dz[r * OUTER + o];
      grad_linear_bias[o] += d;
      for (int64_t i = 0; i < INNER; ++i) {
        grad_x[r * INNER + i] += d * linear_weight[o * INNER + i];
        grad_linear_weight[o * INNER + i] += d * x[r * INNER + i];
      }
    }
  %(after)s
  return 0;
}
"""


def linear_cpp(
    name: str,
    *,
    head: str = "",
    keep: str = "(float*)saved",
    found: str = "(const float*)saved",
    before: str = "",
    cotangent: str = "grad_out[i]",
    after: str = "",
    define: str = "",
    forward: str = _LINEAR_FORWARD,
    backward: str = _LINEAR_BACKWARD,
) -> Candidate:
    """A right kernel for LINEAR_GELU with something else in some places."""
    fields = {"found": found, "before": before, "cotangent": cotangent, "after": after}
    text = _LINEAR_HEAD % (define, head) + forward.replace("%(keep)s", keep) + backward % fields
    return Candidate(id=name, files=[File(path="kernel.cpp", content=text)])


_LINEAR_PYTHON = """
import torch
import torch.nn as nn
%(head)s

class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        z = torch.nn.functional.linear(x, weight, bias)
        t = torch.tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))
        ctx.save_for_backward(x, weight, z, t)
        out = 0.5 * z * (1 + t)
        %(made)s
        return out

    @staticmethod
    def backward(ctx, grad_out):
        x, weight, z, t = ctx.saved_tensors
        %(before)s
        dz = grad_out * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * z * z))
        grads = [dz @ weight, dz.t() @ x, dz.sum(0)]
        %(after)s
        return tuple(grads)


class ModelNew(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.linear = nn.Linear(inner, outer)

    def forward(self, x):
        return %(call)s
"""


def linear_python(
    name: str,
    *,
    head: str = "",
    made: str = "",
    before: str = "",
    after: str = "",
    call: str = "Fused.apply(x, self.linear.weight, self.linear.bias)",
    renamed: str = "linear",
) -> Candidate:
    """A right `ModelNew` for LINEAR_GELU with something else in some places."""
    text = _LINEAR_PYTHON % {"head": head, "made": made, "before": before, "after": after, "call": call}
    return Candidate(id=name, files=[File(path="kernel.py", content=text.replace("self.linear", f"self.{renamed}"))])


def gathered_cpp(name: str, *, scale: str = "grad_scale[w] += g * table[index[r] * WIDTH + w];") -> Candidate:
    """A kernel for GATHERED, right with the `scale` that it has by itself."""
    text = """
#include "problem.h"
#include <cstring>
extern "C" int64_t saved_size(int64_t ROWS, int64_t WIDTH, int64_t WORDS) { return 0; }
extern "C" int forward(float* out0, int64_t* out1, const float* table, const int64_t* index, const float* scale,
                       int64_t ROWS, int64_t WIDTH, int64_t WORDS, void* saved, KernelContext& context) {
  if (saved) return context.fail("nothing was asked for");
  for (int64_t r = 0; r < ROWS; ++r) {
    out1[r] = index[r] + 1;
    for (int64_t w = 0; w < WIDTH; ++w) out0[r * WIDTH + w] = table[index[r] * WIDTH + w] * scale[w];
  }
  return 0;
}
extern "C" int backward(float* grad_table, float* grad_scale, const float* grad_out0, const float* out0,
                        const int64_t* out1, const float* table, const int64_t* index, const float* scale,
                        int64_t ROWS, int64_t WIDTH, int64_t WORDS, const void* saved, KernelContext& context) {
  memset(grad_table, 0, WORDS * WIDTH * 4);
  memset(grad_scale, 0, WIDTH * 4);
  for (int64_t r = 0; r < ROWS; ++r)
    for (int64_t w = 0; w < WIDTH; ++w) {
      const float g = grad_out0[r * WIDTH + w];
      grad_table[(out1[r] - 1) * WIDTH + w] += g * scale[w];
      %s
    }
  return 0;
}
"""
    return Candidate(id=name, files=[File(path="kernel.cpp", content=text % scale)])
