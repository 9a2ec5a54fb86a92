"""What a model is told of a CUDA kernel that reads on behind a tensor: compute-sanitizer watches it in the sandbox."""

from __future__ import annotations

import re

import pytest
from kernelharness.protocol import Case, Verdict

from .judging import judge_sources

pytestmark = pytest.mark.timeout(300)

READS_ON = """
#include "problem.h"

__global__ void sum_squares(float* out, const float* x, int64_t count) {
  float sum = 0;
  for (int64_t i = count + threadIdx.x; i < (int64_t(1) << 44); i *= 2)
    sum += x[i] * x[i];
  out[threadIdx.x] = sum;
}

extern "C" int forward(float* out, const float* x, const float* weight, int64_t ROWS, int64_t COLUMNS, int64_t columns,
                       double eps, KernelContext& context) {
  sum_squares<<<1, 256, 0, context.stream>>>(out, x, ROWS * COLUMNS);
  return 0;
}
"""
"""Its first read of each thread is just behind x, which a device lets pass; the later ones no device has memory for."""
ODD = Case(name="odd", dims={"ROWS": 1001, "COLUMNS": 4096})
"""Its 16.4 MB end within one of CUDA's pages of 2 MiB, so that nothing else begins where x ends."""


def test_access_behind_a_tensor_is_told_with_kernel_line_tensor_and_offset() -> None:
    result = judge_sources("rmsnorm", "cuda", {"reads_on": READS_ON}, ODD)["reads_on"]
    assert result.verdict is Verdict.MEMORY_FAULT, result.diagnostics
    assert result.diagnostics.startswith("MEMORY_FAULT in case 'odd': It touches memory that is not its own: ")
    found = re.search(
        r"compute-sanitizer watched one call with made-up inputs:\n"
        r"\| invalid global access: read of 4 bytes at 0x[0-9a-f]+: "
        r"(?P<offset>\d+) bytes behind the end of x \(16400384 bytes\)\n"
        r"\| in sum_squares\(\), line 7: sum \+= x\[i\] \* x\[i\];\n"
        r"\| thread \((?P<thread>\d+),0,0\) of block \(0,0,0\)$",
        result.diagnostics,
    )
    assert found, result.diagnostics
    assert int(found["offset"]) == 4 * int(found["thread"])
