"""Python with torch: a module that defines `ModelNew`, called like the reference's `Model`.

Compiling is a syntax check. Running it needs torch and happens in the candidate's process: `load_model` and `run`.
This module imports torch only inside those two, so that naming the language costs nothing.
"""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from kernelharness.languages.base import CompileError, Language, fill_command, python_syntax_command
from kernelharness.protocol import CaseFact, Toolchain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kernelharness.problem import LoadedCase

_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_ERROR = re.compile(r"^(?P<message>\w*(?:Error|Exception|Warning|Interrupt)\b.*)$", re.MULTILINE)
_MODULE = "kernelsearch_candidate"


class CandidateError(Exception):
    """The module is Python, but holds no `ModelNew` that can be constructed like `Model`."""


class PyTorch(Language):
    name = "pytorch"
    suffix = ".py"
    is_native = False

    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        return {}

    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        if toolchain.command:
            return fill_command(toolchain.command, toolchain, source, output, include)
        return python_syntax_command(source)

    def compile_errors(self, text: str, source_name: str) -> list[CompileError]:
        """The last error of a traceback, at the last line of the candidate's own file."""
        messages = _ERROR.findall(text)
        lines = [int(m["line"]) for m in _FRAME.finditer(text) if m["file"].rsplit("/", 1)[-1] == source_name]
        return [CompileError(messages[-1], lines[-1] if lines else 0)] if messages else []

    def output_name(self) -> str:
        return "kernel.py"


def load_model(source: str, filename: str, loaded: LoadedCase, seed: int, state: Mapping[str, Tensor]) -> nn.Module:
    """Run the candidate's module, construct `ModelNew` like `Model` and give it the reference's weights if they fit.

    Raises CandidateError when there is no such class; whatever the candidate's own code raises passes through.
    """
    from torch import nn

    from kernelharness.problem import adopt_state

    module = ModuleType(_MODULE)
    module.__file__ = filename
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules[_MODULE] = module
    exec(compile(source, filename, "exec"), module.__dict__)
    cls = getattr(module, "ModelNew", None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise CandidateError(
            "the module defines no class ModelNew(nn.Module): define one that is constructed and called like Model"
        )
    model = loaded.construct(cls, seed)
    adopt_state(model, state)
    return model


LANGUAGE = PyTorch()
