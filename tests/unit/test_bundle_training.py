"""A bundle of a case with backward: its kernel trains, and says why where it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kernelharness.protocol import Case, CaseFact, File, Problem, TensorFact
from kernelsearch.publish.bundle import VerifiedKernel, build_bundle
from kernelsearch.publish.folder import write_folder

from .test_bundle import Check, Say, check, compiled, python, serve, verified

__all__ = ["check", "python", "serve"]  # fixtures

REFERENCE = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(width))
        self.register_buffer("seen", torch.ones(1))

    def forward(self, x, index):
        self.seen += 1
        return torch.exp(x * self.weight)[index] * (self.seen - 1), index + 1

def get_inputs():
    return [torch.randn(6, 16), torch.randint(0, 6, (9,))]

def get_init_inputs():
    return [16]
"""
KERNEL = """
#include "problem.h"
#include <cmath>

extern "C" int64_t saved_size(int64_t width) { return 6 * 16 * 4; }

extern "C" int forward(float* out0, int64_t* out1, float* seen_out, const float* x, const int64_t* index,
                       const float* weight, const float* seen, int64_t width, void* saved, KernelContext& context) {
  float* powers = (float*)saved;
  for (int i = 0; i < 6 * 16; ++i) powers[i] = std::exp(x[i] * weight[i % 16]);
  for (int r = 0; r < 9; ++r) {
    out1[r] = index[r] + 1;
    for (int c = 0; c < 16; ++c) out0[r * 16 + c] = powers[index[r] * 16 + c] * seen[0];
  }
  seen_out[0] = seen[0] + 1;
  return 0;
}

extern "C" int backward(float* grad_x, float* grad_weight, const float* grad_out0, const float* out0,
                        const int64_t* out1, const float* seen_out, const float* x, const int64_t* index,
                        const float* weight, const float* seen, int64_t width, const void* saved,
                        KernelContext& context) {
  const float* powers = (const float*)saved;
  if (grad_out0[0] == 1234.0f) return context.fail("no such gradient");
  for (int i = 0; i < 6 * 16; ++i) grad_x[i] = 0;
  for (int c = 0; c < 16; ++c) grad_weight[c] = 0;
  for (int r = 0; r < 9; ++r)
    for (int c = 0; c < 16; ++c) {
      const int at = index[r] * 16 + c;
      const float d = grad_out0[r * 16 + c] * seen[0] * powers[at];
      grad_x[at] += d * weight[c];
      grad_weight[c] += d * x[at];
    }
  return 0;
}
"""
PYTHON_KERNEL = REFERENCE.replace("class Model(", "class ModelNew(")


def tensor(name: str, *shape: int, dtype: str = "float32", of: str = "") -> TensorFact:
    return TensorFact.model_validate({"name": name, "shape": list(shape), "dtype": dtype, "gradient_of": of})


FACT = CaseFact(
    case="default",
    inputs=[tensor("x", 6, 16), tensor("index", 9, dtype="int64"), tensor("grad_out0", 9, 16, of="output")],
    parameters=[tensor("weight", 16), tensor("seen", 1)],
    outputs=[
        tensor("out0", 9, 16),
        tensor("out1", 9, dtype="int64"),
        tensor("seen_out", 1),
        tensor("grad_x", 6, 16, of="input"),
        tensor("grad_weight", 16, of="parameter"),
    ],
    returns="tuple",
    scalars={"width": "16"},
)


def written(kernel: VerifiedKernel, folder: Path) -> Path:
    timed = kernel.result.cases[0].model_copy(update={"case": "default"})
    result = kernel.result.model_copy(update={"cases": [timed]})
    stated = Problem(files=[File(path="reference.py", content=REFERENCE)], cases=[Case(name="default", backward=True)])
    bundle = build_bundle(
        name="n", uid="u", problem=stated, problem_digest="d", harness="0", kernels=[replace(kernel, result=result)]
    )
    write_folder(bundle, folder)
    return folder


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    kernel = verified(*compiled(folder, (FACT,), KERNEL), facts=(FACT,), source=KERNEL)
    return written(kernel, folder / "bundle")


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kernel = verified(b"", language="pytorch", suffix=".py", source=PYTHON_KERNEL, facts=(FACT,))
    kernel = replace(kernel, result=kernel.result.model_copy(update={"binary_hash": ""}))
    return written(kernel, tmp_path_factory.mktemp("training") / "bundle")


TWO_CALLS_THEN_BACKWARD = """
reference = kernel.ModelNew.__bases__[0](16)
model = kernel.ModelNew(16)
model.load_state_dict(reference.state_dict())
index = torch.randint(0, 6, (9,))
draws = [torch.randn(6, 16) for _ in range(2)], [torch.randn(9, 16) for _ in range(2)]
found = []
for each in (reference, model):
    leaves = [x.clone().requires_grad_() for x in draws[0]]
    total = sum((each(x, index)[0] * g.t().contiguous().t()).sum() for x, g in zip(leaves, draws[1]))
    total.backward()
    found.append([each.weight.grad, each.seen, *(leaf.grad for leaf in leaves)])
for want, got in zip(*found):
    torch.testing.assert_close(got, want)
print(model.explain(leaves[0], index))
"""


@pytest.mark.parametrize("form", ["native", "module"])
def test_gradients_of_overlapping_calls_are_the_references(
    form: str, request: pytest.FixtureRequest, serve: Say
) -> None:
    said = serve(request.getfixturevalue(form), TWO_CALLS_THEN_BACKWARD)
    assert said == "target cpu, case default\n"


@pytest.mark.parametrize("form", ["native", "module"])
def test_check_compares_gradients(form: str, request: pytest.FixtureRequest, check: Check) -> None:
    done = check(request.getfixturevalue(form))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "case default: equal (max abs error " in done.stdout


def test_check_finds_a_wrong_gradient(tmp_path: Path, check: Check) -> None:
    wrong = KERNEL.replace("d * weight[c]", "d")
    kernel = verified(*compiled(tmp_path, (FACT,), wrong), facts=(FACT,), source=wrong)
    done = check(written(kernel, tmp_path / "bundle"))
    assert done.returncode == 1
    assert "NOT EQUAL" in done.stdout


def test_a_training_kernel_serves_without_gradients_too(native: Path, serve: Say) -> None:
    said = serve(
        native,
        """
model, x, index = kernel.ModelNew(16), torch.randn(6, 16), torch.arange(6).repeat(2)[:9]
with torch.inference_mode():
    torch.testing.assert_close(model(x, index)[0], torch.exp(x * model.weight)[index])
    print(model.explain(x, index))
""",
    )
    assert said == "target cpu, case default\n"


def test_what_backward_reads_is_guarded_by_autograd(native: Path, serve: Say) -> None:
    said = serve(
        native,
        """
model, x, index = kernel.ModelNew(16), torch.randn(6, 16, requires_grad=True), torch.zeros(9, dtype=torch.int64)
out, plus = model(x, index)
assert not plus.requires_grad
with torch.no_grad():
    model.weight.mul_(2)
try:
    out.sum().backward()
except RuntimeError as error:
    print("modified by an inplace operation" in str(error))
out = model(x, index)[0]
try:
    torch.autograd.grad(torch.autograd.grad(out.sum(), x, create_graph=True)[0].sum(), x)
except RuntimeError as error:
    print(str(error).split(",")[0])
try:
    model(x, index)[0].backward(torch.full((9, 16), 1234.0))
except kernel.NotApplicable as error:
    print(error)
""",
    )
    assert said == "True\ncreate_graph=True asks for gradients of gradients\nits backward() failed: no such gradient\n"


def test_reference_runs_where_another_gradient_is_wanted(native: Path, serve: Say) -> None:
    said = serve(
        native,
        """
for case in kernel.MANIFEST["targets"][0]["cases"]:
    del case["gradients"][1]
model, index = kernel.ModelNew(16), torch.zeros(9, dtype=torch.int64)
model(torch.randn(6, 16), index)[0].sum().backward()
print(model.weight.grad.shape)
""",
    )
    assert said.startswith("torch.Size([16])\n")
    assert "target cpu: it was verified without the gradient of parameter weight" in said


def test_frozen_parameters_stay_frozen(module: Path, serve: Say) -> None:
    said = serve(
        module,
        """
model, index = kernel.ModelNew(16).requires_grad_(False), torch.zeros(9, dtype=torch.int64)
x = torch.randn(6, 16, requires_grad=True)
model(x, index)[0].sum().backward()
print(model.weight.requires_grad, model.weight.grad, x.grad.shape)
""",
    )
    assert said == "False None torch.Size([6, 16])\n"
