"""FlyDSL, AMD's Python DSL of layouts: a module with `ModelNew` whose kernels are compiled when they are first called.

The compiler is a library in the process (MLIR, and LLVM for AMD's devices in it). It can compile without launching,
which is all that happens without a device. Neighbours: triton.py, ../warmup.py, stand_in.py (torch without a device).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from kernelharness.languages.base import CompileError
from kernelharness.languages.pytorch import PyTorch

_FRAME = re.compile(r'^  File "kernel\.py", line (\d+)', re.MULTILINE)
_SAID = re.compile(r"^(?:[\w]+\.)*(?:DSLCompileError|MLIRError|\w*Error): (?P<message>.*)$", re.MULTILINE)


class FlyDsl(PyTorch):
    name = "flydsl"
    needs_warmup = True
    package = "flydsl"
    comes_with = "pip install flydsl"
    compile_failures = ("DSLCompileError", "MLIRError")

    def prepare_zygote(self, arch: str) -> None:
        """Import it once: a quarter of a gigabyte of libraries."""
        with contextlib.suppress(ImportError):
            import flydsl.compiler
            import flydsl.expr

            assert flydsl.compiler is not None and flydsl.expr is not None

    def call_errors(self, text: str, source: str) -> list[CompileError]:
        """The last error, at the last line of the candidate that led to it."""
        said, lines = _SAID.findall(text), [int(number) for number in _FRAME.findall(text)]
        return [CompileError(said[-1], lines[-1] if lines else 0)] if said else []

    def warmup_environment(self, folder: str, arch: str) -> dict[str, str]:
        return {"FLYDSL_RUNTIME_CACHE_DIR": folder, "FLYDSL_GPU_ARCH": arch, "ARCH": arch, "TMPDIR": folder}

    @contextlib.contextmanager
    def stand_in(self, arch: str) -> Iterator[None]:
        from kernelharness.languages.stand_in import pretending

        with pretending(arch), patch.dict(os.environ, COMPILE_ONLY="1"):
            yield

    def kernels_in(self, folder: Path) -> list[Path]:
        return sorted(folder.rglob("*.pkl"))


LANGUAGE = FlyDsl()
