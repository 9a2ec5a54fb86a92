"""Flags that say how a right candidate came to its result. They advise, and are never part of a verdict.

Pure: from the language, the candidate's source and what its own process said of its kernels. The source is read as
text, with Python's parser, which K's compiler run has tried on it before; nothing of it is executed.
Neighbours: profiling.py (what ran), languages/base.py (how a language names its kernels), judge.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from kernelharness.languages.base import Language
from kernelharness.profiling import Seen
from kernelharness.protocol import MOST_NAME, KernelTime

LIBRARY_FALLBACK = "library_fallback"
COMPILE_INSIDE = "torch_compile_inside"
DECOY = "decoy_kernel"

_COMPILERS = ("torch.compile", "torch._dynamo", "torch._inductor", "torch.jit")
_LEAST_PERCENT = 5
"""Filling a result with zeros takes a library's kernel, too; below this nobody should care."""
_MOST_DECOYS = 4
_MOVES = ("Memcpy", "Memset")
"""Rows that are no kernels."""


def flags_of(language: Language, source: str, seen: Seen | None) -> list[str]:
    """`seen`: None where there is no profile; then the source alone can be flagged."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = _imported(tree)
    flags = [COMPILE_INSIDE] if _uses_compiler(tree, names) else []
    if not language.kernel_decorators or seen is None or not seen.profile.on_device:
        return flags
    kernels = [row for row in seen.rows if not row.name.startswith(_MOVES)]
    defined, used = _kernels(tree, names, language.kernel_decorators)
    share = sum(row.share for row in kernels if not any(_is(language, name, row) for name in defined))
    if (percent := round(100 * share)) >= _LEAST_PERCENT:
        flags.append(f"{LIBRARY_FALLBACK}:{min(percent, 100)}%")
    if seen.is_whole:
        idle = [name for name in defined if name not in used and not any(_is(language, name, row) for row in kernels)]
        flags += [f"{DECOY}:{name[:MOST_NAME]}" for name in idle[:_MOST_DECOYS]]
    return flags


def _is(language: Language, name: str, row: KernelTime) -> bool:
    """Whether this row is the function of this name: compilers put a prefix of theirs before it, and types behind."""
    begin = (language.kernel_prefix + name)[:MOST_NAME]
    rest = row.name.removeprefix(begin)
    return row.name.startswith(begin) and (len(begin) == MOST_NAME or rest[:1] in ("", "_"))


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the module's names stand for: {'tl': 'triton.language', 'jit': 'triton.jit'}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """'torch.compile' for whatever the source calls it; empty for anything but names and their attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    return ".".join([names[node.id], *reversed(parts)])


def _uses_compiler(tree: ast.Module, names: dict[str, str]) -> bool:
    said: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            said += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            said += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            said.append(_dotted(node, names))
    return any(name == compiler or name.startswith(f"{compiler}.") for name in said for compiler in _COMPILERS)


def _kernels(tree: ast.Module, names: dict[str, str], decorators: Sequence[str]) -> tuple[list[str], set[str]]:
    """Functions with one of these decorators, and the names that their bodies use: a helper is no kernel of its own."""
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(name in decorators for name in _decorators(node, names))
    ]
    used = {
        node.id
        for function in found
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and node.id != function.name
    }
    return list(dict.fromkeys(function.name for function in found)), used


def _decorators(function: ast.FunctionDef, names: dict[str, str]) -> Iterable[str]:
    for node in function.decorator_list:
        yield _dotted(node.func if isinstance(node, ast.Call) else node, names)
