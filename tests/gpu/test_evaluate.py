"""`kernelsearch evaluate` with CUDA kernels, as a person runs it.

The reference multiplies by a diagonal matrix: a kernel that scales rows wins by algebra, however busy the machine is.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kernelsearch.cli.exits import Exit

from .judging import ROOT, kernelsearch

pytestmark = pytest.mark.timeout(300)

PROBLEM = (ROOT / "tests/gpu/problems/diagonal_product.py").read_text()
RIGHT = """
#include "problem.h"

__global__ void scale_rows(float* out, const float* d, const float* b, int64_t columns) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) out[row * columns + c] = d[row] * b[row * columns + c];
}

extern "C" int forward(float* out, const float* d, const float* b, int64_t ROWS, int64_t COLUMNS,
                       KernelContext& context) {
  scale_rows<<<ROWS, 256, 0, context.stream>>>(out, d, b, COLUMNS);
  return 0;
}
"""
LAMBDA = """
#include "problem.h"

template <class Work>
__global__ void for_each(int64_t count, Work work) {
  const int64_t index = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (index < count) work(index);
}

extern "C" int forward(float* out, const float* d, const float* b, int64_t ROWS, int64_t COLUMNS,
                       KernelContext& context) {
  const int64_t count = ROWS * COLUMNS;
  for_each<<<(count + 255) / 256, 256, 0, context.stream>>>(
      count, [=] __device__(int64_t index) { out[index] = d[index / COLUMNS] * b[index]; });
  return 0;
}
"""
WRONG = RIGHT.replace("= d[row] *", "= 1.5f * d[row] *")
BROKEN = RIGHT.replace("return 0;", "return zero;")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sources = {"problem.py": PROBLEM, "right.cu": RIGHT, "lambda.cu": LAMBDA, "wrong.cu": WRONG, "broken.cu": BROKEN}
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_right_kernel_is_told_with_its_speedup_and_the_shell_hears_success(folder: Path) -> None:
    done = kernelsearch(folder, "evaluate", "problem.py", "right.cu", "--profile", "nvidia-h100")
    assert (done.returncode, done.stderr) == (Exit.DONE, ""), done.stdout
    top, right, end = done.stdout.split("\n\n")
    assert top.startswith("problem problem.py: cuda for nvidia-h100, on this machine\ndevice: NVIDIA ")
    assert "seccomp on" in top
    assert "reference eager, case default:" in top
    assert right.startswith("right.cu: OK, ")
    assert "right and faster than the reference\n  case default: " in right
    assert end.startswith("1 of 1 right; ")


def test_with_json_each_kernel_has_its_verdict_and_the_shell_hears_of_the_wrong_ones(folder: Path) -> None:
    kernels = ("right.cu", "lambda.cu", "wrong.cu", "broken.cu")
    small = ("--case", "small=ROWS=1024,COLUMNS=2048")
    done = kernelsearch(folder, "evaluate", "problem.py", *kernels, "--json", "--profile", "nvidia-h100", *small)
    assert (done.returncode, done.stderr) == (Exit.REJECTED, ""), done.stdout
    document = json.loads(done.stdout)
    assert (document["exit_code"], document["profile"], document["language"]) == (6, "nvidia-h100", "cuda")
    assert document["judge"]["device"].startswith("NVIDIA ")
    assert document["problem"]["cases"][0]["dims"]["ROWS"] == 1024
    assert "cudaStream_t stream" in document["header"]
    right, by_lambda, wrong, broken = (each["result"] for each in document["candidates"])
    assert (right["verdict"], right["speedup"] > 2, right["low"] > 1) == ("OK", True, True)
    assert right["resources"]["registers"] >= 8
    assert by_lambda["verdict"] == "OK", "nvcc is told to allow lambdas for the device where it asks for that"
    assert (wrong["verdict"], wrong["speedup"]) == ("WRONG_VALUES", None)
    assert "pattern: constant factor: got = 1.5 x want" in wrong["diagnostics"]
    assert broken["verdict"] == "COMPILE_ERROR"
    assert 'identifier "zero" is undefined' in broken["diagnostics"]
