"""`case.backward` through the real command line: right and wrong gradients, what is timed, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernelharness.facts import describe
from kernelharness.gradients import make_cotangents
from kernelharness.languages.header import PLUMBING, render_header
from kernelharness.languages.signature import UnsupportedArgument
from kernelharness.problem import UnsupportedProblem, load_case
from kernelharness.protocol import Case, CaseFact, File, Problem, Purpose, Stage, Verdict

from .backward import BACKWARD, DIAGONAL_MANIFEST, GATHERED, LINEAR_GELU, gathered_cpp, linear_cpp, linear_python
from .judging import Judged, RunJudge

pytestmark = pytest.mark.timeout(1200)

STALE_CPP = "static float* last = nullptr; static int64_t calls = 0;"
KEEP_FIRST = """
  if (calls++ > 0) { memcpy(grad_x, last, ROWS * INNER * 4); }
  else { last = new float[ROWS * INNER]; memcpy(last, grad_x, ROWS * INNER * 4); }
"""
LAZY_FORWARD = """
extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias, int64_t ROWS,
                       int64_t OUTER, int64_t INNER, int64_t inner, int64_t outer, void* saved,
                       KernelContext& context) {
  return 0;
}
"""
FINISH_IN_BACKWARD = """
  float* all = (float*)saved;
  for (int64_t r = 0; r < ROWS; ++r)
    for (int64_t o = 0; o < OUTER; ++o) {
      float sum = linear_bias[o];
      for (int64_t i = 0; i < INNER; ++i) sum += x[r * INNER + i] * linear_weight[o * INNER + i];
      all[r * OUTER + o] = sum;
      ((float*)out)[r * OUTER + o] = 0.5f * sum * (1 + std::tanh(kA * (sum + kB * sum * sum * sum)));
    }
"""

NATIVE = {
    "right": (linear_cpp("right"), Verdict.OK, ""),
    "zero": (linear_cpp("zero", after="memset(grad_x, 0, ROWS * INNER * 4);"), Verdict.WRONG_VALUES, "grad_x"),
    "first_only": (
        linear_cpp("first_only", after="memset(grad_linear_weight, 0, OUTER * INNER * 4);"),
        Verdict.WRONG_VALUES,
        "grad_linear.weight",
    ),
    "unwritten": (linear_cpp("unwritten", before="if (ROWS) return 0;"), Verdict.WRONG_VALUES, "grad_x"),
    "stale": (linear_cpp("stale", head=STALE_CPP, after=KEEP_FIRST), Verdict.WRONG_VALUES, "grad_x"),
    "ones": (linear_cpp("ones", cotangent="1.0f"), Verdict.WRONG_VALUES, "grad_x"),
    "no_gelu": (
        linear_cpp("no_gelu", after="memcpy(grad_linear_bias, grad_out, OUTER * 4);"),
        Verdict.WRONG_VALUES,
        "grad_linear.bias",
    ),
    "one_place": (
        # Right when each backward follows its forward, which no model with two layers does.
        linear_cpp("one_place", head="static float kept[1 << 20];", keep="kept", found="kept"),
        Verdict.WRONG_VALUES,
        "grad_",
    ),
    "forward_in_backward": (
        linear_cpp("forward_in_backward", forward=LAZY_FORWARD, before=FINISH_IN_BACKWARD),
        Verdict.WRONG_VALUES,
        "output 'out'",
    ),
    "forward_wrong": (
        linear_cpp("forward_wrong", after="((float*)out)[0] += 1;"),
        Verdict.WRONG_VALUES,
        "output 'out'",
    ),
    "state": (
        linear_cpp("state", define="#define KERNEL_STATE"),
        Verdict.COMPILE_ERROR,
        "with backward, parameters change between calls: prepare them in forward()",
    ),
    "fails": (
        linear_cpp("fails", before='if (ROWS) return context.fail("no %d", 7);'),
        Verdict.RUNTIME_ERROR,
        "no 7",
    ),
    "no_backward": (
        linear_cpp("no_backward", backward=""),
        Verdict.COMPILE_ERROR,
        "'backward' is not defined: define it exactly as problem.h declares it",
    ),
}

PYTHON = {
    "right": (linear_python("right"), Verdict.OK, ""),
    "autograd": (
        linear_python("autograd", call="nn.functional.gelu(self.linear(x), approximate='tanh')"),
        Verdict.OK,
        "",
    ),
    "zero": (linear_python("zero", after="grads[0] = torch.zeros_like(x)"), Verdict.WRONG_VALUES, "grad_x"),
    "first_only": (
        linear_python("first_only", after="grads[1:] = [torch.zeros_like(g) for g in grads[1:]]"),
        Verdict.WRONG_VALUES,
        "grad_linear.weight",
    ),
    "stale": (
        linear_python(
            "stale",
            head="LAST = {}",
            after="grads[1] = LAST.setdefault(x.shape, grads[1].clone()).clone()",
        ),
        Verdict.WRONG_VALUES,
        "grad_linear.weight",
    ),
    "ones": (
        linear_python("ones", before="grad_out = torch.ones_like(grad_out)"),
        Verdict.WRONG_VALUES,
        "grad_x",
    ),
    "one_place": (
        linear_python("one_place", head="KEPT = {}", made="KEPT[0] = z, t", before="z, t = KEPT[0]"),
        Verdict.WRONG_VALUES,
        "grad_",
    ),
    "forward_in_backward": (
        linear_python(
            "forward_in_backward",
            made="ctx.out = out.clone(); ctx.later = out.zero_()",
            before="ctx.later.data.copy_(ctx.out)",
        ),
        Verdict.WRONG_VALUES,
        "output 'out'",
    ),
    "none": (
        linear_python("none", after="grads[2] = None"),
        Verdict.RUNTIME_ERROR,
        "backward() gives no gradient 'grad_linear.bias'; where a gradient is zero, return zeros",
    ),
    "detached": (
        linear_python("detached", call="nn.functional.gelu(self.linear(x), approximate='tanh').detach()"),
        Verdict.RUNTIME_ERROR,
        "output 0 of forward() has no gradient: make it differentiable by autograd",
    ),
    "renamed": (
        linear_python("renamed", renamed="other"),
        Verdict.LOAD_ERROR,
        "ModelNew has no parameter 'linear.weight' that requires a gradient; name its parameters like Model's",
    ),
}


@pytest.fixture(scope="module")
def native(run_judge: RunJudge) -> Judged:
    return run_judge([each for each, _, _ in NATIVE.values()], reference=LINEAR_GELU, cases=BACKWARD)


@pytest.fixture(scope="module")
def python(run_judge: RunJudge) -> Judged:
    candidates = [each for each, _, _ in PYTHON.values()]
    return run_judge(candidates, language="pytorch", reference=LINEAR_GELU, cases=BACKWARD)


@pytest.mark.parametrize("name", NATIVE)
def test_native_gradients(native: Judged, name: str) -> None:
    _, verdict, words = NATIVE[name]
    result = native.results[name]
    assert (result.verdict, words in result.diagnostics) == (verdict, True), result.diagnostics


@pytest.mark.parametrize("name", PYTHON)
def test_python_gradients(python: Judged, name: str) -> None:
    _, verdict, words = PYTHON[name]
    result = python.results[name]
    assert (result.verdict, words in result.diagnostics) == (verdict, True), result.diagnostics


def test_hidden_case_and_facts_are_with_backward(python: Judged) -> None:
    train, hidden = python.problem.cases
    assert [case.backward for case in (train, hidden)] == [True, True]
    assert hidden.hidden
    assert [tensor.name for tensor in train.inputs] == ["x", "grad_out"]
    assert [tensor.name for tensor in train.outputs] == ["out", "grad_x", "grad_linear.weight", "grad_linear.bias"]


def test_both_passes_are_timed_as_one_call(run_judge: RunJudge) -> None:
    cases = [Case(name="forward"), Case(name="train", backward=True)]
    judged = run_judge([linear_python("right")], language="pytorch", reference=LINEAR_GELU, cases=cases)
    times = {line.case: line.ns or 0 for line in judged.baselines if line.arm == "eager"}
    assert times["train"] > 1.5 * times["forward"]
    (result,) = judged.results.values()
    assert (result.verdict, result.stage) == (Verdict.OK, Stage.TIMING)
    forward, train = result.cases
    assert train.ns > 1.5 * forward.ns


def test_compiled_baseline_is_compiled_with_backward(run_judge: RunJudge) -> None:
    judged = run_judge(
        [linear_cpp("right")],
        reference=LINEAR_GELU,
        cases=BACKWARD,
        torch_compile="auto",
        purpose=Purpose.CONFIRM,
    )
    compiled = next(line for line in judged.baselines if line.arm == "compile")
    assert compiled.ns, compiled.note
    (result,) = judged.results.values()
    assert result.verdict is Verdict.OK, result.diagnostics
    assert result.cases[0].speedup_compile


def test_integer_inputs_and_outputs_have_no_gradient(run_judge: RunJudge) -> None:
    wrong = gathered_cpp("wrong", scale="grad_scale[w] = g * table[index[r] * WIDTH + w];")
    judged = run_judge([gathered_cpp("right"), wrong], reference=GATHERED, cases=BACKWARD)
    fact = judged.problem.cases[0]
    assert [tensor.name for tensor in fact.cotangents] == ["grad_out0"]
    assert [tensor.name for tensor in fact.gradients] == ["grad_table", "grad_scale"]
    assert judged.results["right"].verdict is Verdict.OK, judged.results["right"].diagnostics
    assert judged.results["wrong"].verdict is Verdict.WRONG_VALUES
    assert "output 'grad_scale'" in judged.results["wrong"].diagnostics


def test_run_publishes_a_kernel_that_trains(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(DIAGONAL_MANIFEST)
    kernelsearch = Path(sys.executable).with_name("kernelsearch")
    run = subprocess.run(
        [kernelsearch, "run", "search.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    bundle = tmp_path / "out" / "diagonal" / "bundle"
    check = [sys.executable, "kernel.py", "--check", "--seconds", "0.2"]
    done = subprocess.run(check, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "target cpu, case train: equal (max abs error " in done.stdout
    manifest = json.loads((bundle / "manifest.json").read_text())
    gradients = manifest["targets"][0]["cases"][0]["gradients"]
    assert [each["name"] for each in gradients] == ["grad_x", "grad_d"]


# -- what a case with backward is -----------------------------------------------------------------------------------


def module(forward: str, inputs: str = "torch.randn(8, 16)", init: str = "pass", arguments: str = "x") -> str:
    return f"""
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        {init}

    def forward(self, {arguments}):
        {forward}

def get_inputs():
    return [{inputs}]
"""


def fact_of(source: str, **case: object) -> CaseFact:
    known = Case(name="train", **{"backward": True, **case})  # type: ignore[arg-type]
    problem = Problem(files=[File(path="reference.py", content=source)], cases=[known])
    return describe(load_case(problem, known))


def test_what_takes_no_part_has_no_gradient() -> None:
    init = "self.used, self.idle = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16)); "
    init += "self.frozen = nn.Parameter(torch.ones(16), requires_grad=False)"
    source = module(
        "return x * self.used + self.frozen, x.argmax(-1)", "torch.randn(8, 16), torch.randn(3)", init, "x, y"
    )
    fact = fact_of(source)
    assert [tensor.name for tensor in fact.gradients] == ["grad_x", "grad_used"]
    assert [tensor.name for tensor in fact.cotangents] == ["grad_out0"]


def test_changed_buffers_stand_between_outputs_and_gradients() -> None:
    fact = fact_of(module("return self.norm(x)", init="self.norm = nn.BatchNorm1d(16)"))
    assert [tensor.name for tensor in fact.outputs] == [
        "out", "norm.running_mean_out", "norm.running_var_out", "norm.num_batches_tracked_out",
        "grad_x", "grad_norm.weight", "grad_norm.bias",
    ]  # fmt: skip


def test_operations_of_both_passes_are_counted() -> None:
    fact = fact_of(LINEAR_GELU)
    assert fact.flops == 3 * (fact_of(LINEAR_GELU, backward=False).flops or 0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (module("return x.argmax(-1)"), "no output of forward() depends differentiably on a floating input"),
        (module("return x + 1", "torch.arange(8)"), "no output of forward() depends differentiably"),
        (
            module(
                "return self.norm(self.linear(x))", init="self.linear = nn.Linear(16, 4); self.norm = nn.BatchNorm1d(4)"
            ),
            "the gradient of parameter 'linear.bias' is rounding error alone",
        ),
        (
            module("return self.table(x)", "torch.arange(8)", "self.table = nn.Embedding(10, 4, sparse=True)"),
            "the gradient of parameter 'table.weight' is torch.sparse_coo; only dense ones are judged",
        ),
    ],
)
def test_what_cannot_be_differentiated_is_refused_with_the_reason(source: str, message: str) -> None:
    with pytest.raises(UnsupportedProblem, match=re.escape(message)):
        fact_of(source)


def test_writing_to_an_input_is_refused_by_the_judge(run_judge: RunJudge) -> None:
    judged = run_judge([], reference=module("return x.view(-1).mul_(2)"), cases=BACKWARD)
    assert judged.problem.verdict is Verdict.UNSUPPORTED_PROBLEM
    assert judged.problem.reason == "forward() writes to its argument 'x'; clone it there first"


def test_batch_norm_in_training_is_judged_with_its_buffers(run_judge: RunJudge) -> None:
    source = module("return self.norm(x)", "torch.randn(32, 16)", "self.norm = nn.BatchNorm1d(16)")
    honest = linear_python("honest").model_copy(
        update={"files": [File(path="kernel.py", content=source.replace("class Model", "class ModelNew"))]}
    )
    judged = run_judge([honest], language="pytorch", reference=source, cases=BACKWARD)
    assert judged.results["honest"].verdict is Verdict.OK, judged.results["honest"].diagnostics


def test_header_declares_both_passes() -> None:
    shown = render_header([fact_of(LINEAR_GELU)]).split(PLUMBING)[0]
    assert shown.endswith(
        """\
extern "C" int forward(float* out, const float* x, const float* linear_weight, const float* linear_bias,
                       int64_t ROWS, int64_t OUTER, int64_t INNER, int64_t inner, int64_t outer, void* saved,
                       KernelContext& context);
extern "C" int backward(float* grad_x, float* grad_linear_weight, float* grad_linear_bias,
                        const float* grad_out, const float* out, const float* x, const float* linear_weight,
                        const float* linear_bias, int64_t ROWS, int64_t OUTER, int64_t INNER, int64_t inner,
                        int64_t outer, const void* saved, KernelContext& context);
extern "C" int64_t saved_size(int64_t ROWS, int64_t OUTER, int64_t INNER, int64_t inner, int64_t outer);

"""
    )
    assert "KERNEL_STATE" not in shown.split("struct KernelContext")[0]


def test_native_kernel_cannot_be_with_and_without_backward() -> None:
    facts = [fact_of(LINEAR_GELU), fact_of(LINEAR_GELU, backward=False)]
    with pytest.raises(
        UnsupportedArgument, match="some cases ask for backward and some do not; make them two searches"
    ):
        render_header(facts)


def test_cotangents_are_not_what_the_file_draws() -> None:
    source = module("return x + 0", "torch.manual_seed(0) and torch.randn(8, 16)")
    fact = fact_of(source)
    first, again, other = (make_cotangents(fact, seed, "cpu")[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    assert not torch.equal(first, torch.randn(8, 16))
