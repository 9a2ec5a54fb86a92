"""The arguments of a native kernel, derived from what the reference is in every case.

Pure: from `CaseFact`s to names, C++ types and symbolic sizes, in the order that README.md fixes. `header.py` writes
them down as `problem.h`; whoever calls a kernel takes its scalar values from here (`scalar_arguments`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kernelharness.protocol import CaseFact, TensorFact

Scalar = int | float | bool

CTYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "half_t",
    "bfloat16": "bfloat16_t",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "bool": "bool",
}

_RESERVED = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr const_cast
continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto
if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast return short signed sizeof static static_assert static_cast struct switch template this
thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor
xor_eq context forward init state_size state backward saved_size saved
kernelsearch errno assert NULL EOF INFINITY NAN half_t bfloat16_t
KernelContext int8_t int16_t int32_t int64_t uint8_t size_t stdin stdout stderr unix linux
"""
"""Words that no argument may be called: C++ keywords, and what problem.h defines."""


class UnsupportedArgument(ValueError):
    """An argument of this problem has no form in the native ABI; the text names it."""


@dataclass(frozen=True)
class TensorArgument:
    name: str
    role: str
    """output | input | parameter; with backward also gradient | cotangent | result, an output that backward() reads"""
    dtype: str
    shape: tuple[int | str, ...]
    """A number where every case has the same, else the name of the size."""

    @property
    def ctype(self) -> str:
        return CTYPES[self.dtype]

    @property
    def is_written(self) -> bool:
        return self.role in ("output", "gradient")


@dataclass(frozen=True)
class ScalarArgument:
    name: str
    argument: str
    """What the problem calls it: its key in `CaseFact.scalars`."""
    ctype: str
    """int64_t | double | bool"""
    is_size: bool = False
    """Named like a size and equal to it in every case: `forward` gets it once, as the size."""


@dataclass(frozen=True)
class Signature:
    tensors: tuple[TensorArgument, ...]
    """Of forward()."""
    sizes: tuple[str, ...]
    scalars: tuple[ScalarArgument, ...]
    constants: dict[str, str]
    """Arguments that are text or None: shown, not passed."""
    gradients: tuple[TensorArgument, ...] = ()
    """Only with backward: what backward() writes."""
    cotangents: tuple[TensorArgument, ...] = ()

    @property
    def backward_tensors(self) -> tuple[TensorArgument, ...]:
        """Of backward(), in its order; none without it."""
        if not self.gradients:
            return ()
        read = [replace(tensor, role="result") if tensor.role == "output" else tensor for tensor in self.tensors]
        return (*self.gradients, *self.cotangents, *read)

    @property
    def parameters(self) -> tuple[TensorArgument, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.role == "parameter")

    @property
    def parameter_sizes(self) -> tuple[str, ...]:
        used = {size for tensor in self.parameters for size in tensor.shape}
        return tuple(size for size in self.sizes if size in used)


def signature_of(facts: Sequence[CaseFact]) -> Signature:
    """One signature for all cases, hidden ones included. Raises UnsupportedArgument naming what cannot be passed."""
    if len({fact.backward for fact in facts}) > 1:
        raise UnsupportedArgument("some cases ask for backward and some do not; make them two searches")
    taken = set(_RESERVED.split())
    groups = {
        "output": [fact.results for fact in facts],
        "input": [fact.arguments for fact in facts],
        "parameter": [fact.parameters for fact in facts],
        "gradient": [fact.gradients for fact in facts],
        "cotangent": [fact.cotangents for fact in facts],
    }
    named = [
        (role, _unique(tensor.name, taken), [_at(case, index, tensor.name) for case in per_case])
        for role, per_case in groups.items()
        for index, tensor in enumerate(per_case[0])
    ]
    sizes = _Sizes(facts, taken)
    tensors: list[TensorArgument] = []
    for role, name, variants in named:
        dtype, rank = _agree(variants, name)
        shape = tuple(sizes.of([v.shape[axis] for v in variants], f"{name}_{axis}") for axis in range(rank))
        tensors.append(TensorArgument(name, role, dtype, shape))
    scalars, texts = _scalars(facts, sizes.values, taken)
    of_forward = tuple(tensor for tensor in tensors if tensor.role in ("output", "input", "parameter"))
    gradients, cotangents = (tuple(t for t in tensors if t.role == role) for role in ("gradient", "cotangent"))
    return Signature(of_forward, tuple(sizes.values), tuple(scalars), texts, gradients, cotangents)


def scalar_arguments(fact: CaseFact) -> list[Scalar]:
    """The values of a case's numeric scalars, in the order in which a native kernel takes them."""
    values = [_literal(text) for text in fact.scalars.values()]
    return [value for value in values if isinstance(value, bool | int | float)]


class _Sizes:
    """Names for axis sizes, by their values in all cases."""

    def __init__(self, facts: Sequence[CaseFact], taken: set[str]) -> None:
        self.constants = {name: [fact.dims.get(name) for fact in facts] for name in facts[0].dims}
        self.taken = taken
        self.values: dict[str, list[int]] = {}

    def of(self, values: list[int], fallback: str) -> int | str:
        """The size's name: a known one, the first constant with these values, a plain number, or the fallback."""
        if (known := next((name for name, seen in self.values.items() if seen == values), None)) is not None:
            return known
        label = next((name for name, constant in self.constants.items() if constant == values), None)
        if label is None and len(set(values)) == 1:
            return values[0]
        name = _unique(label or fallback, self.taken)
        self.values[name] = values
        return name


def _scalars(
    facts: Sequence[CaseFact], sizes: dict[str, list[int]], taken: set[str]
) -> tuple[list[ScalarArgument], dict[str, str]]:
    scalars: list[ScalarArgument] = []
    texts: dict[str, str] = {}
    for name, text in facts[0].scalars.items():
        values = [_literal(fact.scalars.get(name, "None")) for fact in facts]
        if all(value is None or isinstance(value, str) for value in values):
            if not isinstance(values[0], str | None) or len(set(values)) > 1:
                raise UnsupportedArgument(f"argument {name!r} is different text in different cases")
            if _is_unmapped(text):
                raise UnsupportedArgument(
                    f"argument {name!r} is {text[:80]}; a native kernel takes numbers and tensors"
                )
            texts[name] = text
        elif not all(isinstance(value, bool | int | float) for value in values):
            raise UnsupportedArgument(f"argument {name!r} is a number in one case only")
        elif sizes.get(name) == values:
            scalars.append(ScalarArgument(name, name, "int64_t", is_size=True))
        else:
            scalars.append(ScalarArgument(_unique(name, taken), name, _ctype(values)))
    return scalars, texts


def _literal(text: str) -> Scalar | str | None:
    """The value of a scalar's text; anything but a number is returned as the text, None as None."""
    if text in ("inf", "-inf", "nan"):
        return float(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if value is None or isinstance(value, bool | int | float):
        return value
    return text


def _is_unmapped(text: str) -> bool:
    return text != "None" and text[:1] not in "'\""


def _ctype(values: Sequence[object]) -> str:
    if all(isinstance(value, bool) for value in values):
        return "bool"
    return "double" if any(isinstance(value, float) for value in values) else "int64_t"


def _at(tensors: Sequence[TensorFact], index: int, name: str) -> TensorFact:
    if index >= len(tensors) or tensors[index].name != name:
        raise UnsupportedArgument(f"tensor {name!r} is not there in every case")
    return tensors[index]


def _agree(variants: Sequence[TensorFact], name: str) -> tuple[str, int]:
    dtypes = {variant.dtype for variant in variants}
    ranks = {len(variant.shape) for variant in variants}
    if len(dtypes) > 1 or len(ranks) > 1:
        what = "dtypes" if len(dtypes) > 1 else "numbers of dimensions"
        raise UnsupportedArgument(f"tensor {name!r} has different {what} in different cases; make them two searches")
    dtype = dtypes.pop()
    if dtype not in CTYPES:
        raise UnsupportedArgument(f"tensor {name!r} is {dtype}; native kernels take {', '.join(CTYPES)}")
    return dtype, ranks.pop()


def _unique(name: str, taken: set[str]) -> str:
    identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
    if identifier[:1].isdigit():
        identifier = f"_{identifier}"
    while identifier in taken:
        identifier += "_"
    taken.add(identifier)
    return identifier
