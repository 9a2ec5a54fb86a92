"""Do the cases' dims name constants that the reference has? Told before a pod is started for nothing.

The judge has the last word (kernelharness.problem replaces the constants); this only reads the same names out of the
file, without running it. A file that is not Python is left to the judge, who says so better.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from kernelsearch.api.search_spec import Case


def unknown_dimension(reference: str, cases: Iterable[Case]) -> str:
    """What is wrong with the dims, listing the names there are; '' when nothing is."""
    try:
        names = top_level_names(reference)
    except (SyntaxError, ValueError):
        return ""
    for case in cases:
        for dim in case.dims:
            if dim not in names:
                known = ", ".join(sorted(names)) or "none"
                return f"case {case.name}: the reference has no top-level constant {dim}; it has {known}"
    return ""


def top_level_names(source: str) -> set[str]:
    """Every name that a statement outside functions and classes assigns to."""
    return {
        node.id
        for statement in ast.parse(source).body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
