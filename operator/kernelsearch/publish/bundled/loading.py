"""Executes the bundle's Python: the problem's files, for one case or as they stand, and kernels written in Python."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def load_python(path: Path, name: str, dims: Mapping[str, int] | None = None) -> ModuleType:
    """Execute a file; each of `dims` is assigned right after the top-level statement that binds its name."""
    tree = ast.parse(path.read_text(), str(path))
    body: list[ast.stmt] = []
    for statement in tree.body:
        body.append(statement)
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            body += [ast.parse(f"{key} = {value}").body[0] for key, value in (dims or {}).items() if key in bound]
    tree.body = body
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)
    return module


def load_reference(folder: Path, problem: dict[str, Any], dims: Mapping[str, int], name: str) -> ModuleType:
    """The problem's entry file with these dims; its other files can be imported by it, as in the search."""
    files = {path: folder / file["file"] for path, file in problem["files"].items()}
    finder = _ProblemFiles({path[:-3].replace("/", "."): file for path, file in files.items() if path.endswith(".py")})
    sys.meta_path.insert(0, finder)
    try:
        return load_python(files[problem["entry"]], name, dims)
    finally:
        sys.meta_path.remove(finder)


class _ProblemFiles(importlib.abc.MetaPathFinder):
    """The problem's files lie here under flat names; this finds them under the names that they were given."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if (module := self._files.get(fullname)) is not None:
            return importlib.util.spec_from_file_location(fullname, module)
        if (package := self._files.get(f"{fullname}.__init__")) is not None:
            return importlib.util.spec_from_file_location(fullname, package, submodule_search_locations=[])
        if any(name.startswith(f"{fullname}.") for name in self._files):
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        return None
