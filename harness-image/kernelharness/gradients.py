"""What `case.backward` adds: cotangents among the inputs, gradients among the outputs, and a call that is both passes.

To whoever fills slots, compares and times, a case with backward is one function with more inputs and outputs. Here is
what knows better: which tensors have gradients, and how autograd is asked for them; of references and of `ModelNew`
alike. Runs where `problem.py` runs. Neighbours: facts.py (describes), torch_arms.py (calls), docs/decisions/0009.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kernelharness.channel import Failure
from kernelharness.deferred import Deferred
from kernelharness.problem import (
    UnsupportedProblem,
    Value,
    buffers_put_back,
    flatten_outputs,
    run_float64,
    seed_everything,
)
from kernelharness.protocol import CaseFact, TensorFact
from kernelharness.runner import ArmError
from kernelharness.slots import torch_dtype

PREFIX = "grad_"


def gradient_facts(
    case: str,
    model: nn.Module,
    arguments: Sequence[Value],
    tensors: Mapping[str, Tensor],
    outputs: Sequence[str],
    seed: int,
) -> tuple[list[TensorFact], list[TensorFact], int]:
    """(cotangents, gradients, operations of both passes). `tensors`: those of `arguments`, by name.

    A floating input or parameter that autograd leaves without a gradient takes no part and gets none here. Raises
    UnsupportedProblem when there is nothing to differentiate, or a gradient that nobody could be compared with.
    """
    kinds = [("input", name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point()]
    kinds += [("parameter", name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    for _, _, tensor in kinds:
        tensor.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        results, found = _gradients(model, arguments, seed)
    if not results:
        raise UnsupportedProblem(
            f"case {case!r} asks for backward, but no output of forward() depends differentiably on a floating input "
            "or on a parameter; judge it without backward"
        )
    gradients = []
    exact = run_float64(model, arguments, lambda wide, values: _gradients(wide, values, seed)[1])
    for index, ((kind, name, _), gradient) in enumerate(zip(kinds, found, strict=True)):
        if gradient is None:
            continue
        if gradient.layout != torch.strided:
            raise UnsupportedProblem(
                f"the gradient of {kind} {name!r} is {gradient.layout}; only dense ones are judged"
            )
        if exact is not None and _is_rounding_alone(gradient, exact[index]):
            raise UnsupportedProblem(
                f"the gradient of {kind} {name!r} is rounding error alone, for in float64 it is next to nothing; "
                "take that tensor out of the problem, or judge it without backward"
            )
        gradients.append(_fact(name, gradient, kind))
    names = zip(outputs, results, strict=False)
    cotangents = [_fact(name, output, "output") for name, output in names if output.requires_grad]
    return cotangents, gradients, counter.get_total_flops()


def _gradients(model: nn.Module, arguments: Sequence[Value], seed: int) -> tuple[list[Tensor], list[Tensor | None]]:
    """(outputs, gradients by floating arguments and then by parameters); no outputs when none is differentiable."""
    leaves = [value for value in (*arguments, *model.parameters()) if isinstance(value, Tensor) and value.requires_grad]
    seed_everything(seed)
    with buffers_put_back(model), torch.enable_grad():
        outputs = flatten_outputs(model(*arguments))
        roots = [output for output in outputs if output.requires_grad]
        if not roots:
            return [], []
        generator = torch.Generator(roots[0].device).manual_seed(seed)
        drawn = [torch.randn(root.shape, device=root.device, generator=generator).to(root.dtype) for root in roots]
        torch.autograd.backward(roots, drawn, inputs=leaves)
    gradients = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return outputs, gradients


def _is_rounding_alone(gradient: Tensor, exact: Tensor | None) -> bool:
    """True when the reference's own error is as large as what it should compute; all zeros are no error."""
    if exact is None or not bool(gradient.isfinite().all()) or not bool(exact.isfinite().all()):
        return False
    error = float((gradient.double() - exact).square().sum())
    return error > 0.25 * float(exact.square().sum())


def make_cotangents(fact: CaseFact, seed: int, device: str) -> list[Tensor]:
    """Normally distributed, a function of the seed, whatever get_inputs() does to torch's own random numbers."""
    generator = torch.Generator(device).manual_seed(seed + 1)  # the seed itself is what get_inputs() drew from
    return [
        torch.randn(each.shape, dtype=torch_dtype(each.dtype), device=device, generator=generator)
        for each in fact.cotangents
    ]


def leaf_names(fact: CaseFact) -> set[str]:
    """forward()'s arguments whose gradients are asked for."""
    return {tensor.name.removeprefix(PREFIX) for tensor in fact.gradients if tensor.gradient_of == "input"}


class TrainingCall:
    """Both passes of a model: from forward()'s arguments and the cotangents to outputs, changed buffers, gradients."""

    def __init__(self, model: Callable[..., object], owner: nn.Module, fact: CaseFact, arguments: int) -> None:
        """`owner`: the module with the parameters and buffers, when `model` wraps it. Raise ArmError."""
        self._model = model
        self._owner = owner
        self._arguments = arguments
        named = dict(owner.named_parameters())
        asked = [tensor.name.removeprefix(PREFIX) for tensor in fact.gradients if tensor.gradient_of == "parameter"]
        if missing := [name for name in asked if name not in named or not named[name].requires_grad]:
            text = (
                f"ModelNew has no parameter {missing[0]!r} that requires a gradient; name its parameters like Model's"
            )
            raise ArmError(Failure.LOAD, text)
        self._parameters = [named[name] for name in asked]
        self._names = [tensor.name for tensor in fact.gradients]
        roots = {tensor.name.removeprefix(PREFIX) for tensor in fact.cotangents}
        self._roots = [index for index, tensor in enumerate(fact.results) if tensor.name in roots]
        self._changes_buffers = any(tensor.name.endswith("_out") for tensor in fact.results)

    def __call__(self, values: Sequence[Value], deferred: Deferred | None = None) -> list[Tensor]:
        """`values`: arguments, those with a gradient being leaves that require one; then cotangents.

        With `deferred` the gradients come later, and outputs are copied now: backward must not be what finishes them.
        """
        arguments, cotangents = values[: self._arguments], values[self._arguments :]
        leaves = [value for value in arguments if isinstance(value, Tensor) and value.requires_grad]
        leaves += self._parameters
        if self._changes_buffers:
            seed_everything(0)
            with buffers_put_back(self._owner) as changes:
                outputs = self._forward(arguments)
                changed = changes()
                kept = [output.detach().clone() for output in outputs]  # one may be a buffer that is put back now
                # Not deferred: what autograd kept may be the very buffers that are put back.
                return [*kept, *changed.values(), *self._backward(outputs, cotangents, leaves)]
        outputs = self._forward(arguments)
        if deferred is None:
            return [*(output.detach() for output in outputs), *self._backward(outputs, cotangents, leaves)]
        result = [output.detach().clone() for output in outputs]
        deferred.add(result, lambda: self._backward(outputs, cotangents, leaves))
        return result

    def _forward(self, arguments: Sequence[Value]) -> list[Tensor]:
        with torch.enable_grad():
            outputs = flatten_outputs(self._model(*arguments))
        for index in self._roots:
            if index < len(outputs) and not outputs[index].requires_grad:
                text = f"output {index} of forward() has no gradient: make it differentiable by autograd"
                raise ArmError(Failure.ERROR, f"{text}, for instance by a torch.autograd.Function with a backward()")
        return outputs

    def _backward(self, outputs: list[Tensor], cotangents: Sequence[Value], leaves: list[Tensor]) -> list[Tensor]:
        torch.autograd.backward([outputs[index] for index in self._roots], cotangents, inputs=leaves)  # type: ignore[arg-type]
        gradients: list[Tensor] = []
        for name, leaf in zip(self._names, leaves, strict=True):
            gradient, leaf.grad = leaf.grad, None
            if gradient is None:
                text = f"backward() gives no gradient {name!r}; where a gradient is zero, return zeros"
                raise ArmError(Failure.ERROR, text)
            gradients.append(gradient)
        return gradients


def _fact(name: str, tensor: Tensor, kind: str) -> TensorFact:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorFact.model_validate(
        {"name": f"{PREFIX}{name}", "shape": list(tensor.shape), "dtype": dtype, "gradient_of": kind}
    )
