"""What Python DSLs share that trace a kernel when it is called: any error from inside the compiler is a compile error.

Their compilers are libraries in the process and run the kernel's Python line by line, so a wrong name or type raises
what it raises everywhere; only the frames of the compiler below it tell it from an error of the call itself.
Neighbours: cutedsl.py, flydsl.py; triton.py parses instead, and has errors of its own.
"""

from __future__ import annotations

import re

from kernelharness.languages.base import CompileError
from kernelharness.languages.pytorch import PyTorch

_FRAME = re.compile(r'^  File "kernel\.py", line (\d+)', re.MULTILINE)
_SAID = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|NotImplemented): .*)$", re.MULTILINE)


class TracedLanguage(PyTorch):
    needs_warmup = True
    compiler: str
    """A piece of the path of every file of the compiler."""
    device_errors: tuple[str, ...] = ()
    """Errors from inside the compiler that speak of the device, not of the kernel."""

    def is_compile_failure(self, text: str) -> bool:
        return self.compiler in text and not any(name in text for name in self.device_errors)

    def call_errors(self, text: str, source: str) -> list[CompileError]:
        """The last error, at the last line of the candidate that led to it."""
        said, lines = _SAID.findall(text), [int(number) for number in _FRAME.findall(text)]
        return [CompileError(said[-1], lines[-1] if lines else 0)] if said else []
