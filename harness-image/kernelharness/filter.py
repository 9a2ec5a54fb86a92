"""Refuses problems that say nothing: whatever is fast would be right, or an answer needs no work.

Functions over outputs and inputs of the reference, which is run for some seeds, once per problem. Each returns the
reason or an empty text: `degenerate_reason` for DEGENERATE_PROBLEM, asked by reference.py; `randomness_reason` for
UNSUPPORTED_PROBLEM, asked by facts.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernelharness.compare import Comparer, rms_of
from kernelharness.protocol import Tolerance

NEAR_ZERO = 1e-20


def degenerate_reason(
    names: Sequence[str],
    inputs: Sequence[Sequence[Tensor]],
    outputs: Sequence[Sequence[Tensor]],
    tolerance: Tolerance,
) -> str:
    """Why nothing can be learnt from this case; empty when it is a real problem.

    `inputs` and `outputs` are those of at least two input sets from different seeds, in order; `names` the outputs'.
    A problem is degenerate when every one of its outputs is.
    """
    reasons = [
        _reason(names[index], [each[index] for each in outputs], inputs, tolerance) for index in range(len(names))
    ]
    if reasons and all(reasons):
        return "; ".join(reasons)
    return ""


def randomness_reason(first: Sequence[Tensor], other_seed: Sequence[Tensor], tolerance: Tolerance) -> str:
    """Why no kernel can answer: equal inputs, other outputs, because forward() draws random numbers.

    A seed that all arms set before every call would make a Python kernel's numbers equal, and known beforehand.
    """
    if Comparer(tolerance).compare(first, other_seed).ok:
        return ""
    return "forward() draws random numbers, which no kernel can draw again; call eval(), or make them an input"


def _reason(name: str, outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], tolerance: Tolerance) -> str:
    first = outputs[0]
    if first.numel() == 0:
        return f"output {name!r} is empty"
    if not any(bool(torch.isfinite(output.double()).any()) for output in outputs):
        return f"output {name!r} is never finite"
    if first.is_floating_point() and max(rms_of(outputs)) < NEAR_ZERO:
        return f"output {name!r} is zero"
    comparer = Comparer(tolerance)
    if all(comparer.compare([other], [first]).ok for other in outputs[1:]):
        return f"output {name!r} does not depend on the inputs: it is the same for different ones"
    if first.numel() > 1 and all(comparer.compare([_mean_everywhere(output)], [output]).ok for output in outputs):
        return f"output {name!r} is one number everywhere, within the tolerance"
    for position in range(len(inputs[0])):
        pairs = list(zip(outputs, (each[position] for each in inputs), strict=True))
        same_form = all(out.shape == given.shape and out.dtype == given.dtype for out, given in pairs)
        if same_form and all(comparer.compare([given], [out]).ok for out, given in pairs):
            return f"output {name!r} is input {position} unchanged"
    return ""


def _mean_everywhere(output: Tensor) -> Tensor:
    return torch.full_like(output, output.double().mean().item())
