"""KernelBench files, unchanged: cases, seeds, weights, and clear words for what cannot be judged."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from kernelharness.facts import describe
from kernelharness.hidden import derive_hidden_case, odd_sizes
from kernelharness.problem import (
    LoadedCase,
    UnsupportedProblem,
    adopt_state,
    cases_of,
    load_case,
    run_float64,
    run_model,
)
from kernelharness.protocol import Case, CaseFact, File, Problem, TensorFact
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[2] / "examples" / "problems"

LINEAR = """
import torch
import torch.nn as nn

BATCH, FEATURES = 16, 32
HALF = FEATURES // 2

class Model(nn.Module):
    def __init__(self, features, half):
        super().__init__()
        self.linear = nn.Linear(features, half)

    def forward(self, x, alpha):
        return alpha * self.linear(x)

def get_inputs():
    return [torch.randn(BATCH, FEATURES), 0.5]

def get_init_inputs():
    return [FEATURES, HALF]
"""


def problem(source: str, *cases: Case, **files: str) -> Problem:
    more = [File(path=f"{name}.py", content=content) for name, content in files.items()]
    return Problem(files=[File(path="reference.py", content=source), *more], cases=list(cases))


def load(source: str, **case: object) -> LoadedCase:
    known = Case(name="case", **case)  # type: ignore[arg-type]
    return load_case(problem(source, known), known)


def simple(forward: str, inputs: str = "torch.rand(4, 8)", init: str = "pass", arguments: str = "x") -> str:
    """A problem file around a forward() body."""
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


# -- cases ----------------------------------------------------------------------------------------------------------


def test_file_as_it_stands_is_one_case() -> None:
    stated = problem(LINEAR)
    (case,) = cases_of(stated)
    assert case.name == "default"
    inputs = load_case(stated, case).make_inputs(0)
    assert isinstance(inputs[0], Tensor)
    assert (inputs[0].shape, inputs[1]) == ((16, 32), 0.5)


def test_dims_replace_constants_and_derived_constants_follow() -> None:
    loaded = load(LINEAR, dims={"FEATURES": 64})
    assert loaded.constants == {"BATCH": 16, "FEATURES": 64, "HALF": 32}
    assert describe(loaded).outputs[0].shape == [16, 32]


def test_dims_replace_a_derived_constant_itself() -> None:
    assert load(LINEAR, dims={"HALF": 5}).constants == {"BATCH": 16, "FEATURES": 32, "HALF": 5}


def test_unknown_dimension_lists_the_names_there_are() -> None:
    with pytest.raises(
        UnsupportedProblem, match="no top-level constant is named 'TOKENS'; there are: BATCH, FEATURES, HALF"
    ):
        load(LINEAR, dims={"TOKENS": 3})


def test_dims_replace_integers_only() -> None:
    with pytest.raises(
        UnsupportedProblem, match=re.escape("'EPS' is 1e-06 in the file; dims can only replace integers")
    ):
        load("EPS = 1e-6\n" + LINEAR, dims={"EPS": 3})


def test_dtype_casts_floating_tensors_only() -> None:
    init = "self.scale = nn.Parameter(torch.ones(4)); self.register_buffer('n', torch.tensor(3))"
    source = simple("return x * self.scale + index", "torch.rand(4), torch.arange(4)", init, "x, index")
    loaded = load(source, dtype="bf16")
    x, index = loaded.make_inputs(0)
    model = loaded.make_model(0)
    assert isinstance(x, Tensor)
    assert isinstance(index, Tensor)
    assert (x.dtype, index.dtype) == (torch.bfloat16, torch.int64)
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == {
        "scale": torch.bfloat16,
        "n": torch.int64,
    }


def test_unknown_dtype_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedProblem, match="unknown dtype 'int4'; known: float32, fp32, "):
        load(LINEAR, dtype="int4")


def test_other_files_of_the_problem_can_be_imported() -> None:
    case = Case(name="case")
    source = "from scaling import FACTOR\n" + simple("return FACTOR * x")
    loaded = load_case(problem(source, case, scaling="FACTOR = 3\n"), case)
    (x,) = loaded.make_inputs(0)
    assert isinstance(x, Tensor)
    torch.testing.assert_close(loaded.reference(loaded.make_model(0), [x])[0], 3 * x)


def test_other_files_may_be_a_package_and_import_each_other() -> None:
    case = Case(name="case")
    source = "from parts.first import scaled\nfrom plain.second import TWO\n" + simple("return scaled(x) * TWO")
    files = {
        "reference.py": source,
        "parts/__init__.py": "",
        "parts/first.py": "from .third import THREE\n\ndef scaled(x):\n    return THREE * x\n",
        "parts/third.py": "THREE = 3\n",
        "plain/second.py": "TWO = 2\n",
    }
    loaded = load_case(Problem(files=[File(path=path, content=text) for path, text in files.items()]), case)
    (x,) = loaded.make_inputs(0)
    assert isinstance(x, Tensor)
    torch.testing.assert_close(loaded.reference(loaded.make_model(0), [x])[0], 6 * x)
    assert not {"parts", "parts.first", "plain", "plain.second"} & set(sys.modules)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "reference.py, line 1: invalid syntax"),
        ("import nothing_of_this_name\n", "reference.py cannot be executed: ModuleNotFoundError: "),
        ("x = 1\n", "reference.py defines no Model; a KernelBench file has Model and get_inputs"),
    ],
)
def test_file_that_is_no_problem_says_why(source: str, message: str) -> None:
    with pytest.raises(UnsupportedProblem, match=re.escape(message)):
        load(source)


def test_missing_entry_lists_the_files() -> None:
    stated = problem(LINEAR).model_copy(update={"entry": "model.py"})
    with pytest.raises(UnsupportedProblem, match=re.escape("the problem has no file 'model.py'; it has reference.py")):
        load_case(stated, Case(name="case"))


# -- seeds, weights, buffers ----------------------------------------------------------------------------------------


def test_inputs_and_weights_are_functions_of_the_seed() -> None:
    loaded = load(LINEAR)
    first, again, other = (loaded.make_inputs(seed)[0] for seed in (1, 1, 2))
    assert isinstance(first, Tensor)
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]
    weights = [loaded.make_model(seed).state_dict()["linear.weight"] for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_forward_draws_the_same_random_numbers() -> None:
    loaded = load(simple("return nn.functional.dropout(x, 0.5)"))
    model, inputs = loaded.make_model(0), loaded.make_inputs(0)
    assert torch.equal(loaded.reference(model, inputs)[0], loaded.reference(model, inputs)[0])
    assert not torch.equal(loaded.reference(model, inputs)[0], loaded.reference(model, inputs, seed=1)[0])


def test_changed_buffers_are_outputs_and_are_put_back() -> None:
    loaded = load(simple("return self.norm(x)", init="self.norm = nn.BatchNorm1d(8)"))
    model, inputs = loaded.make_model(0), loaded.make_inputs(0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    outputs, changed = run_model(model, inputs)
    assert list(changed) == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    torch.testing.assert_close(changed["norm.running_mean"], 0.1 * inputs[0].mean(0))  # type: ignore[union-attr]
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert [fact.name for fact in describe(loaded).outputs] == [
        "out", "norm.running_mean_out", "norm.running_var_out", "norm.num_batches_tracked_out",
    ]  # fmt: skip
    assert len(loaded.reference(model, inputs)) == 4
    assert len(outputs) == 1


def test_buffer_that_is_replaced_is_an_output_too() -> None:
    loaded = load(simple("self.total = self.total + x.sum(); return x * self.total",
                         init="self.register_buffer('total', torch.zeros(()))"))  # fmt: skip
    model, inputs = loaded.make_model(0), loaded.make_inputs(0)
    first, second = loaded.reference(model, inputs), loaded.reference(model, inputs)
    assert torch.equal(first[1], second[1])


def test_output_that_is_a_changed_buffer_keeps_its_value() -> None:
    loaded = load(
        simple("self.last.copy_(x); return self.last", init="self.register_buffer('last', torch.zeros(4, 8))")
    )
    model, inputs = loaded.make_model(0), loaded.make_inputs(0)
    out, last = loaded.reference(model, inputs)
    assert torch.equal(out, inputs[0])  # type: ignore[arg-type]
    assert torch.equal(out, last)


def test_new_model_gets_the_references_weights_when_they_fit() -> None:
    loaded = load(LINEAR)
    reference = loaded.make_model(0)
    same = loaded.make_model(1)
    assert adopt_state(same, reference.state_dict())
    assert torch.equal(same.state_dict()["linear.weight"], reference.state_dict()["linear.weight"])
    assert not adopt_state(nn.Linear(3, 4), reference.state_dict())


def test_float64_reference_is_exact_and_none_where_code_forbids_it() -> None:
    loaded = load(LINEAR)
    model, inputs = loaded.make_model(0), loaded.make_inputs(0)
    exact = run_float64(model, inputs, loaded.reference)
    assert exact is not None
    assert exact[0].dtype == torch.float64
    torch.testing.assert_close(exact[0].float(), loaded.reference(model, inputs)[0])
    fixed = load(simple("return x @ torch.ones(8, 8)"))
    assert run_float64(fixed.make_model(0), fixed.make_inputs(0), fixed.reference) is None


def test_products_are_in_full_precision() -> None:
    load(LINEAR)
    assert torch.get_float32_matmul_precision() == "highest"


# -- facts ----------------------------------------------------------------------------------------------------------


def test_facts_are_in_the_order_of_the_native_abi() -> None:
    fact = describe(load(LINEAR, dims={"BATCH": 4}))
    assert fact == CaseFact(
        case="case",
        inputs=[TensorFact(name="x", shape=[4, 32], dtype="float32")],
        parameters=[
            TensorFact(name="linear.weight", shape=[16, 32], dtype="float32"),
            TensorFact(name="linear.bias", shape=[16], dtype="float32"),
        ],
        outputs=[TensorFact(name="out", shape=[4, 16], dtype="float32")],
        returns="tensor",
        scalars={"alpha": "0.5", "features": "32", "half": "16"},
        dims={"BATCH": 4, "FEATURES": 32, "HALF": 16},
        bytes_min=4 * (4 * 32 + 16 * 32 + 16 + 4 * 16),
        flops=2 * 4 * 32 * 16,
    )


def test_several_outputs_are_numbered_and_lists_of_numbers_spread() -> None:
    fact = describe(load(simple("return x.mean(dims), x", "torch.rand(4, 8), (0, 1)", arguments="x, dims")))
    assert [output.name for output in fact.outputs] == ["out0", "out1"]
    assert fact.scalars == {"dims_0": "0", "dims_1": "1"}
    assert fact.returns == "tuple"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (simple("return x[0]", "[torch.rand(4)]"), "argument 'x' of forward() is a list of tensors; give each its own"),
        (simple("return x['a']", "{'a': torch.rand(4)}"), "argument 'x' of forward() is a dict; only tensors"),
        (simple("return {'a': x}"), "output 0 of forward() is a dict; it must be a tensor, or a tuple of tensors"),
        (simple("return x, 3"), "output 1 of forward() is a int; it must be a tensor"),
        (simple("return x.to_sparse()"), "output 0 of forward() is a torch.sparse_coo tensor; it must be dense"),
        (simple("return ()"), "forward() returns nothing; there is nothing to compare"),
        (simple("return x.add_(1)"), "forward() writes to its argument 'x'; clone it there first"),
        (simple("return x", "torch.rand(4), 3"), "takes 1 positional argument"),
        (simple("return a * x", "torch.rand(4), float(torch.rand(()))", arguments="x, a"),
         "argument 'a' of forward() is a random number ("),
        (simple("return x", "torch.rand(4, 4).to_sparse()"), "get_inputs() returns a torch.sparse_coo tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_named(source: str, message: str) -> None:
    with pytest.raises(
        UnsupportedProblem, match=re.escape(message) if "takes" not in message else "too many positional"
    ):
        describe(load(source))


# -- the hidden case ------------------------------------------------------------------------------------------------


def test_hidden_case_has_odd_sizes_of_the_given_dims() -> None:
    case = derive_hidden_case(problem(LINEAR, Case(name="a", dims={"BATCH": 64, "FEATURES": 128})), seed=3)
    assert case is not None
    assert (case.hidden, case.weight, set(case.dims)) == (True, 0, {"BATCH", "FEATURES"})
    assert all(size % 2 == 1 and size >= 3 for size in case.dims.values())


def test_hidden_case_without_dims_changes_constants_that_are_axes() -> None:
    case = derive_hidden_case(problem(LINEAR), seed=0)
    assert case is not None
    assert set(case.dims) == {"BATCH", "FEATURES", "HALF"}


def test_hidden_case_keeps_what_the_reference_refuses_to_change() -> None:
    source = "N, GROUPS = 64, 4\n" + simple("return nn.functional.group_norm(x, GROUPS)", "torch.rand(N, 32, 8)")
    case = derive_hidden_case(problem(source, Case(name="a", dims={"N": 64, "GROUPS": 4})), seed=1)
    assert case is not None
    assert case.dims["N"] % 2 == 1
    assert case.dims["GROUPS"] == 4


def test_no_hidden_case_when_nothing_can_change() -> None:
    assert derive_hidden_case(problem(simple("return x + 1")), seed=0) is None
    assert derive_hidden_case(problem(LINEAR, Case(name="own", hidden=True)), seed=0) is None


def test_odd_sizes_are_odd_different_and_secret() -> None:
    sizes = {"A": 64, "B": 64, "C": 2}
    found = odd_sizes(sizes, seed=1)
    assert all(size % 2 == 1 for size in found.values())
    assert len(set(found.values())) == 3
    assert found == odd_sizes(sizes, seed=1)
    assert found != odd_sizes(sizes, seed=2)


# -- the examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_problems_load_and_have_a_hidden_case(path: Path) -> None:
    stated = problem(path.read_text())
    fact = describe(load_case(stated, cases_of(stated)[0]))
    assert fact.inputs
    assert fact.returns in ("tensor", "tuple")
    assert derive_hidden_case(stated, seed=0) is not None
