"""What a loaded case is: names, shapes, dtypes, scalars, bytes and operations, as the `CaseFact` that travels.

The order here is the order of the native ABI (languages/README.md): inputs in forward() order, named_parameters then
named_buffers, outputs then changed buffers; with backward, gradients by outputs follow the inputs, and gradients by
inputs and parameters the outputs (gradients.py). Runs the reference twice, where `problem.py` runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kernelharness.channel import DTYPES
from kernelharness.filter import randomness_reason
from kernelharness.gradients import gradient_facts
from kernelharness.problem import LoadedCase, UnsupportedProblem, Value, bind_arguments, differs, run_model
from kernelharness.protocol import CaseFact, TensorFact, Tolerance
from kernelharness.slots import torch_dtype


def describe(loaded: LoadedCase, seed: int = 0) -> CaseFact:
    """Run the reference, under two seeds, and say what it is. Raises UnsupportedProblem naming what is at fault."""
    model = loaded.make_model(seed)
    inputs = loaded.make_inputs(seed)
    tensors = input_tensors(model, inputs)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    kinds: list[str] = []
    hook = model.register_forward_hook(lambda _module, _arguments, result: kinds.append(_kind_of(result)))
    with FlopCounterMode(display=False) as counter, hook:
        outputs, changed = run_model(model, inputs, seed)
    for name, tensor in tensors.items():
        if differs(tensor, before[name]):
            raise UnsupportedProblem(f"forward() writes to its argument {name!r}; clone it there first")
    _require_steady_scalars(loaded, model, inputs, seed)
    again, changed_again = run_model(model, inputs, seed + 1)
    if reason := randomness_reason([*outputs, *changed.values()], [*again, *changed_again.values()], Tolerance()):
        raise UnsupportedProblem(reason)
    parameters = parameter_tensors(model)
    single = len(outputs) == 1
    results = {"out" if single else f"out{index}": tensor for index, tensor in enumerate(outputs)}
    results |= {f"{name}_out": tensor for name, tensor in changed.items()}
    flops = counter.get_total_flops()
    inputs_of, outputs_of = list(_facts(tensors)), list(_facts(results))
    if loaded.case.backward:
        cotangents, gradients, flops = gradient_facts(loaded.case.name, model, inputs, tensors, list(results), seed)
        inputs_of, outputs_of = [*inputs_of, *cotangents], [*outputs_of, *gradients]
    everything = [*inputs_of, *_facts(parameters), *outputs_of]
    return CaseFact(
        case=loaded.case.name,
        hidden=loaded.case.hidden,
        weight=loaded.case.weight,
        inputs=inputs_of,
        parameters=list(_facts(parameters)),
        outputs=outputs_of,
        returns=kinds[-1] if kinds else "",
        scalars={name: repr(value) for name, value in scalar_values(loaded, model, inputs).items()},
        dims=loaded.constants,
        bytes_min=sum(math.prod(each.shape) * torch_dtype(each.dtype).itemsize for each in everything),
        flops=flops or None,
    )


def input_tensors(model: nn.Module, inputs: Sequence[Value]) -> dict[str, Tensor]:
    """The tensors among forward()'s arguments, by name, in its order."""
    return {name: value for name, value in _forward_arguments(model, inputs).items() if isinstance(value, Tensor)}


def parameter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """named_parameters() then named_buffers(), contiguous and detached."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().contiguous() for name, tensor in named}


def scalar_values(loaded: LoadedCase, model: nn.Module, inputs: Sequence[Value]) -> dict[str, Any]:
    """forward()'s arguments that are no tensors, then `Model.__init__`'s; lists of numbers are one entry for each.

    A name that both have gets an underscore the second time. Values that are no numbers are kept: whether a language
    can pass them is its own business.
    """
    args, kwargs = loaded.init_arguments()
    groups = (_forward_arguments(model, inputs), bind_arguments(type(model), args, kwargs))
    named: dict[str, Any] = {}
    for group in groups:
        for name, value in _spread(group):
            if isinstance(value, Tensor) and group is groups[0]:
                continue
            while name in named:
                name += "_"
            named[name] = f"<{value.dtype} tensor>" if isinstance(value, Tensor) else value
    return named


def _forward_arguments(model: nn.Module, inputs: Sequence[Value]) -> dict[str, Any]:
    arguments = bind_arguments(model.forward, inputs)
    for name, value in arguments.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter):
            raise UnsupportedProblem(f"argument {name!r} of forward() is a {type(value).__name__}; use a plain tensor")
        if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in parts):
            raise UnsupportedProblem(f"argument {name!r} of forward() is a list of tensors; give each its own argument")
        if not all(part is None or isinstance(part, Tensor | bool | int | float | str) for part in parts):
            raise UnsupportedProblem(
                f"argument {name!r} of forward() is a {type(value).__name__}; only tensors and numbers can be judged"
            )
    return arguments


def _spread(named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in named.items():
        if isinstance(value, list | tuple | torch.Size) and all(isinstance(part, int | float) for part in value):
            yield from ((f"{name}_{index}", part) for index, part in enumerate(value))
        else:
            yield name, value


def _require_steady_scalars(loaded: LoadedCase, model: nn.Module, inputs: Sequence[Value], seed: int) -> None:
    """A number that get_inputs() draws would have to travel with every input set; a tensor does, a number does not."""
    numbers = {
        name: value for name, value in _forward_arguments(model, inputs).items() if not isinstance(value, Tensor)
    }
    if not numbers:
        return
    again = _forward_arguments(model, loaded.make_inputs(seed + 1))
    for name, value in numbers.items():
        if again[name] != value:
            raise UnsupportedProblem(
                f"argument {name!r} of forward() is a random number ({value}, then {again[name]}); make it a tensor"
            )


def _kind_of(result: Any) -> str:
    if isinstance(result, Tensor):
        return "tensor"
    flat = type(result) in (tuple, list) and all(isinstance(part, Tensor) for part in result)
    return type(result).__name__ if flat else ""


def _facts(tensors: Mapping[str, Tensor]) -> Iterator[TensorFact]:
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UnsupportedProblem(f"tensor {name!r} is {dtype}; only {', '.join(DTYPES)} can be judged")
        yield TensorFact(name=name, shape=list(tensor.shape), dtype=dtype)
