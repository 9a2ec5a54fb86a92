"""Writes a program that calls a native kernel once, on inputs that it makes up: what a memory checker can watch.

It includes the candidate's source as it stands, so line numbers stay the candidate's, and knows nothing that is secret:
shapes come from the facts, floating inputs are fixed numbers in [0, 1), all other inputs zeros (an index of 0 is one).
It prints where each tensor lies. Neighbours: native_caller.h (the fixed part), checkers.py (who watches), header.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files

from kernelharness.languages.header import size_in
from kernelharness.languages.signature import Scalar, Signature, TensorArgument, scalar_arguments, signature_of
from kernelharness.protocol import CaseFact, TensorFact


def render_caller(facts: Sequence[CaseFact], case: int, source: str) -> str:
    """The program for `facts[case]` around the file `source`. Raises UnsupportedArgument as `signature_of` does."""
    signature, fact = signature_of(facts), facts[case]
    lines, names = _tensors(signature, fact)
    sizes = {size: _integer(size_in(signature, fact, size)) for size in signature.sizes}
    values = [
        _literal(value)
        for scalar, value in zip(signature.scalars, scalar_arguments(fact), strict=True)
        if not scalar.is_size
    ]
    rest = [*sizes.values(), *values]
    forward = [names[tensor.name] for tensor in signature.tensors]
    if signature.gradients:
        backward = [names[tensor.name] for tensor in signature.backward_tensors]
        lines += [
            f'void* saved = kernelcheck::take("saved", saved_size({", ".join(rest)}));',
            _call("forward", [*forward, *rest, "saved", "context"]),
            _call("backward", [*backward, *rest, "saved", "context"]),
        ]
    else:
        if signature.parameters:
            weights = [names[tensor.name] for tensor in signature.parameters]
            weights += [sizes[size] for size in signature.parameter_sizes]
            lines += [
                "#ifdef KERNEL_STATE",
                f'void* state = kernelcheck::take("state", state_size({", ".join(weights)}));',
                _call("init", [*weights, "state", "context"]),
                "context.state = state;",
                "#endif",
            ]
        lines.append(_call("forward", [*forward, *rest, "context"]))
    body = "\n".join(line if line.startswith("#") else f"  {line}" for line in lines)
    fixed = files(__package__).joinpath("native_caller.h").read_text()
    return f'#include "{source}"\n\n{fixed}\nint main() {{\n  KernelContext context;\n{body}\n}}\n'


def _tensors(signature: Signature, fact: CaseFact) -> tuple[list[str], dict[str, str]]:
    """Lines that make them, and by their names the variables that hold them: numbered, for a candidate's macros."""
    arguments = [*signature.tensors, *signature.gradients, *signature.cotangents]
    shapes = [*fact.results, *fact.arguments, *fact.parameters, *fact.gradients, *fact.cotangents]
    lines, names = [], {}
    for number, (argument, tensor) in enumerate(zip(arguments, shapes, strict=True)):
        names[argument.name] = f"kernelcheck_{number}"
        lines.append(_tensor(f"kernelcheck_{number}", argument, tensor))
    return lines, names


def _tensor(variable: str, argument: TensorArgument, tensor: TensorFact) -> str:
    content = "kUnwritten" if argument.is_written else "kNumbers" if "float" in argument.dtype else "kZeros"
    made = (
        f'kernelcheck::tensor<{argument.ctype}>("{argument.name}", {math.prod(tensor.shape)}, kernelcheck::{content})'
    )
    return f"{argument.ctype}* {variable} = {made};"


def _call(name: str, arguments: Sequence[str]) -> str:
    return f'kernelcheck::expect_success("{name}", {name}({", ".join(arguments)}));'


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return _integer(value)
    if math.isnan(value):
        return "double(NAN)"
    if math.isinf(value):
        return "double(INFINITY)" if value > 0 else "-double(INFINITY)"
    return repr(value)


def _integer(value: int) -> str:
    return f"int64_t({value})"
