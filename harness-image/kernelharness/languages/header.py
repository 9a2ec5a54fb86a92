"""Writes `problem.h`: what a native candidate includes, and what the model is shown of the task.

First the part for readers (the call, the cases, every argument with its shape), then the declarations, and last the
plumbing that exports `forward` in TVM-FFI's calling convention. The fixed C++ lies beside this file in `native_abi.h`
and is copied in, so that one generated file is all that a kernel needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from kernelharness.languages.native import DTYPES
from kernelharness.languages.signature import Signature, TensorArgument, signature_of
from kernelharness.protocol import CaseFact

PLUMBING = "// ==== plumbing: nothing to read below this line"
"""A reader (or a prompt) may stop here."""


def render_header(facts: Sequence[CaseFact], dialect: str = "") -> str:
    """The text of problem.h. Raises UnsupportedArgument naming what a native kernel cannot take.

    `dialect`: a file beside this one that says what memory, streams and 16-bit floats are; C++ for a CPU without one.
    """
    signature = signature_of(facts)
    *own, machinery = _sections("native_abi.h")
    includes, narrow_floats, context, memory = _sections(dialect) if dialect else own
    narrow = any(tensor.dtype in ("float16", "bfloat16") for tensor in signature.tensors)
    parts = [
        _story(signature, facts),
        "#pragma once",
        includes,
        narrow_floats if narrow else "",
        context,
        _declarations(signature),
        PLUMBING,
        memory,
        machinery,
        _exports(signature),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def render_declarations(facts: Sequence[CaseFact]) -> str:
    """What the kernel must define, as problem.h declares it. Raises UnsupportedArgument as `render_header` does."""
    return _declarations(signature_of(facts)).strip()


def _sections(name: str) -> list[str]:
    return re.split(r"// ---- split: .* ----\n", files(__package__).joinpath(name).read_text())


# -- for readers ----------------------------------------------------------------------------------------------------


def _story(signature: Signature, facts: Sequence[CaseFact]) -> str:
    defined = "forward(), backward() and saved_size()" if signature.gradients else "forward()"
    lines = [f"problem.h, generated from the problem: include it and define {defined}.", ""]
    lines += [*_case_table(signature, facts), ""]
    shown = (*signature.tensors, *signature.cotangents, *signature.gradients)
    rows = [(t.name, t.dtype, _shape(t), _role(t)) for t in shown]
    for scalar in signature.scalars:
        if not scalar.is_size:
            values = dict.fromkeys(fact.scalars[scalar.argument] for fact in facts if not fact.hidden)
            rows.append((scalar.name, scalar.ctype, "", f"scalar, {' | '.join(values)}"))
    rows += [(name, "constant", "", text[:80]) for name, text in signature.constants.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    lines += [
        "",
        "Tensors are contiguous, row-major, 64-byte aligned, and do not overlap. Write every element of every output.",
        "Return 0, or context.fail(...). Scratch memory: context.workspace(bytes).",
    ]
    if signature.gradients:
        lines += _BACKWARD_STORY
    elif signature.parameters:
        lines += [
            "Parameters do not change between calls. To prepare them once, untimed: #define KERNEL_STATE before",
            "including this file, define state_size() and init() as well, and read context.state in forward().",
        ]
    return "".join(f"// {line}".rstrip() + "\n" for line in lines)


def _case_table(signature: Signature, facts: Sequence[CaseFact]) -> list[str]:
    header = ["case", *signature.sizes]
    visible = [fact for fact in facts if not fact.hidden]
    rows = [[fact.case, *(str(size_in(signature, fact, size)) for size in signature.sizes)] for fact in visible]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    if signature.sizes:
        lines.append(
            "One binary serves all cases. Other sizes are checked too, odd ones: take sizes from the arguments."
        )
    return lines


def size_in(signature: Signature, fact: CaseFact, size: str) -> int:
    """The value of a named size in this case."""
    shapes = [t.shape for t in (*fact.results, *fact.arguments, *fact.parameters)]
    for argument, shape in zip(signature.tensors, shapes, strict=True):
        for name, value in zip(argument.shape, shape, strict=True):
            if name == size:
                return value
    raise KeyError(size)


def _shape(tensor: TensorArgument) -> str:
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"


_ROLES = {
    "output": "output, to be written",
    "cotangent": "input of backward(): the gradient by an output",
    "gradient": "output of backward(), to be written",
}


def _role(tensor: TensorArgument) -> str:
    return _ROLES.get(tensor.role, tensor.role)


_BACKWARD_STORY = [
    "",
    "forward() and then backward() are timed together as one call. forward() must finish its outputs; backward() gets",
    "the gradients of a loss by them, any numbers, and sets every element of every gradient (it does not add).",
    "saved: saved_size() bytes that belong to this call, 64-byte aligned, null when 0, contents undefined before",
    "forward(): what it writes there, backward() reads. Nothing else may be kept between the two: many forward() calls",
    "come before the first backward(), and parameters change between calls, so they cannot be prepared in advance.",
]


# -- for the compiler -----------------------------------------------------------------------------------------------


def _declarations(signature: Signature) -> str:
    pointers = [_pointer(tensor) for tensor in signature.tensors]
    sizes = [f"int64_t {size}" for size in signature.sizes]
    scalars = [f"{scalar.ctype} {scalar.name}" for scalar in signature.scalars if not scalar.is_size]
    saved = ["void* saved"] if signature.gradients else []
    text = _function("int", "forward", [*pointers, *sizes, *scalars, *saved, "KernelContext& context"])
    if signature.gradients:
        pointers = [_pointer(tensor) for tensor in signature.backward_tensors]
        rest = [*sizes, *scalars, "const void* saved", "KernelContext& context"]
        text += _function("int", "backward", [*pointers, *rest])
        text += _function("int64_t", "saved_size", [*sizes, *scalars] or ["void"])
    elif signature.parameters:
        weights = [_pointer(tensor) for tensor in signature.parameters]
        weight_sizes = [f"int64_t {size}" for size in signature.parameter_sizes]
        text += "\n#ifdef KERNEL_STATE\n"
        text += _function("int64_t", "state_size", [*weights, *weight_sizes])
        text += _function("int", "init", [*weights, *weight_sizes, "void* state", "KernelContext& context"])
        text += "#endif\n"
    return text


def _function(returns: str, name: str, arguments: Sequence[str]) -> str:
    start = f'extern "C" {returns} {name}('
    lines = [start]
    for index, argument in enumerate(arguments):
        piece = argument + (");" if index == len(arguments) - 1 else ", ")
        if len(lines[-1]) + len(piece) > 110:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * len(start))
        lines[-1] += piece
    return "\n".join(lines) + "\n"


def _pointer(tensor: TensorArgument) -> str:
    return f"{tensor.ctype}* {tensor.name}" if tensor.is_written else f"const {tensor.ctype}* {tensor.name}"


def _exports(signature: Signature) -> str:
    values = [f"call.scalar<{each.ctype}>({at})" for at, each in enumerate(signature.scalars) if not each.is_size]
    rest = (signature.sizes, values, len(signature.scalars))
    if signature.gradients:
        saved = "void* saved = call.open(context, 0, 1);"
        return (
            _export("forward", signature.tensors, *rest, "return forward({}, saved, context);", saved)
            + _export("backward", signature.backward_tensors, *rest, "return backward({}, saved, context);", saved)
            + _export("saved_size", signature.tensors, *rest, "call.give(saved_size({}));", "", passes_tensors=False)
            + _refused_state("with backward, parameters change between calls: prepare them in forward()")
        )
    opening = "context.state = call.open(context, 0, 1);"
    text = _export("forward", signature.tensors, *rest, "return forward({}, context);", opening)
    if not signature.parameters:
        return text + _refused_state("this problem has no parameters to prepare")
    tensors, sizes = signature.parameters, signature.parameter_sizes
    size = _export("state_size", tensors, sizes, [], 0, "call.give(state_size({}));", "")
    act = "return init({}, state, context);"
    init = _export("init", tensors, sizes, [], 0, act, "void* state = call.open(context, 1, 0);")
    return f"{text}\n#ifdef KERNEL_STATE\n{size}{init}#endif\n"


def _refused_state(why: str) -> str:
    return f'\n#ifdef KERNEL_STATE\n#error "{why}"\n#endif\n'


def _export(
    name: str,
    tensors: Sequence[TensorArgument],
    sizes: Sequence[str],
    scalars: Sequence[str],
    scalar_count: int,
    act: str,
    opening: str,
    *,
    passes_tensors: bool = True,
) -> str:
    """One exported function: check the arguments against a table, then make the plain call."""
    order = {size: -1 - index for index, size in enumerate(sizes)}
    rank = max(1, max(len(tensor.shape) for tensor in tensors))
    rows = []
    for tensor in tensors:
        code, bits = DTYPES[tensor.dtype]
        shape = ", ".join(str(order[size] if isinstance(size, str) else size) for size in tensor.shape) or "0"
        rows.append(f'      {{"{tensor.name}", {code}, {bits}, {len(tensor.shape)}, {{{shape}}}}},')
    shown = tensors if passes_tensors else ()
    pointers = [f"call.pointer<{tensor.ctype}>({index})" for index, tensor in enumerate(shown)]
    arguments = [*pointers, *(f"call.sizes[{index}]" for index in range(len(sizes))), *scalars]
    names = ", ".join(f'"{size}"' for size in sizes) or "nullptr"
    body = [line for line in (opening, act.format(", ".join(arguments))) if line]
    if not act.startswith("return"):
        body.append("return 0;")
    return "\n".join(
        [
            f"KERNEL_EXPORT int __tvm_ffi_{name}(void*, const kernelsearch::Any* values, int32_t count,",
            f"{' ' * (len(name) + 29)}kernelsearch::Any* result) {{",
            f"  static const kernelsearch::Expected<{rank}> tensors[] = {{",
            *rows,
            "  };",
            f"  static const char* const size_names[] = {{{names}}};",
            f"  using Call = kernelsearch::Call<{rank}, {len(tensors)}, {max(1, len(sizes))}, {scalar_count}>;",
            "  Call call{tensors, size_names, values, count, result};",
            "  return kernelsearch::guarded([&](KernelContext& context) -> int {",
            "    if (!call.check(context)) return 1;",
            *(f"    {line}" for line in body),
            "  });",
            "}",
            "",
        ]
    )
