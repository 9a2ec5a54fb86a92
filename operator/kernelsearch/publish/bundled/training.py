"""A native kernel with backward as a step of autograd.

What backward needs belongs to the call: outputs, inputs and parameters as they were, and the block that the kernel
saved. So calls may overlap as they do in any model. Gradients of gradients are refused: they would be silently missing.
"""

from __future__ import annotations

from typing import Any

import torch

PREFIX = "grad_"
_ONCE = "create_graph=True asks for gradients of gradients, which this kernel does not have; use the reference's Model"


def wanted(case: dict[str, Any], kind: str) -> list[str]:
    """The names of the inputs, parameters or outputs (`kind` without s) whose gradients were verified."""
    listed = case["cotangents"] if kind == "output" else case["gradients"]
    return [fact["name"].removeprefix(PREFIX) for fact in listed if fact["gradient_of"] == kind]


class Step(torch.autograd.Function):
    """`Step.apply(kernel, case, number of inputs, *inputs, *parameters and buffers)`: all outputs, new buffers too."""

    @staticmethod
    def forward(ctx: Any, kernel: Any, case: dict[str, Any], count: int, *tensors: torch.Tensor) -> Any:
        operands, outputs, saved = kernel.forward(case, list(tensors[:count]), list(tensors[count:]))
        # The model's changed buffers are written over right after this, and backward wants them as they were.
        changed = {fact["name"].removesuffix("_out") for fact in case["outputs"]}
        names = [None] * count + [fact["name"] for fact in case["parameters"]]
        kept = [tensor.clone() if name in changed else tensor for name, tensor in zip(names, operands, strict=True)]
        ctx.save_for_backward(*outputs, *kept)
        ctx.kernel, ctx.case, ctx.count, ctx.block = kernel, case, count, saved
        differentiable = wanted(case, "output")
        ctx.mark_non_differentiable(
            *(out for fact, out in zip(case["outputs"], outputs, strict=True) if fact["name"] not in differentiable)
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *by_outputs: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(_ONCE)
        case = ctx.case
        roots = set(wanted(case, "output"))
        cotangents = [each for fact, each in zip(case["outputs"], by_outputs, strict=True) if fact["name"] in roots]
        found = ctx.kernel.backward(case, cotangents, list(ctx.saved_tensors), ctx.block)
        gradients = {
            (fact["gradient_of"], fact["name"].removeprefix(PREFIX)): gradient
            for fact, gradient in zip(case["gradients"], found, strict=True)
        }
        asked = [("input", fact["name"]) for fact in case["inputs"]]
        asked += [("parameter", fact["name"]) for fact in case["parameters"]]
        return (None, None, None, *(gradients.get(key) for key in asked))
