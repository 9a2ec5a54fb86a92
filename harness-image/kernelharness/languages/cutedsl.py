"""CuTe DSL, NVIDIA's Python DSL of CUTLASS: a module with `ModelNew` whose kernels are compiled when first called.

The compiler is a library in the process (MLIR, and NVIDIA's assembler in it): it starts nothing, and the timed runner
compiles again what it does not find in the folder that the warm-up filled. Without a device the warm-up alone is run;
functions are then compiled for the profile's arch, and calling them does nothing.
Neighbours: triton.py (the same for Triton), ../warmup.py, stand_in.py (torch without a device).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kernelharness.languages.base import CompileError
from kernelharness.languages.pytorch import PyTorch

_FRAME = re.compile(r'^  File "kernel\.py", line (\d+)', re.MULTILINE)
_DEVICE_ERRORS = ("CudaDriverDependencyError", "DSLCudaRuntimeError")
_MADE = ".compiled"
"""Suffix of what the stand-in leaves for each function that it does not call: it is kept in memory alone."""
_SAID = re.compile(r"^(?:\w+\.)*(?P<name>DSL\w*Error|MLIRError|DSLOperationBuildError): (?P<message>.*)$", re.MULTILINE)


class CuteDsl(PyTorch):
    name = "cutedsl"
    needs_warmup = True
    package = "cutlass"
    comes_with = "pip install nvidia-cutlass-dsl"
    compile_failures = ("DSLRuntimeError", "DSLUserCodeError", "DSLAstPreprocessorError", "DSLNotImplemented", "MLIRError")

    def prepare_zygote(self, arch: str) -> None:
        """Import it once, which takes seconds, with its settings: it reads the environment when it is imported.

        Some versions ask the driver for the device then, which would open it before the fork.
        """
        os.environ["CUTE_DSL_ARCH"] = arch
        with contextlib.suppress(ImportError):
            import cuda.bindings.driver

            with patch.object(cuda.bindings.driver, "cuInit", _refuse):
                import cutlass.cute

            assert cutlass.cute is not None

    def is_compile_failure(self, text: str) -> bool:
        """Some versions wrap a missing driver into an error of the compiler."""
        return super().is_compile_failure(text) and not any(name in text for name in _DEVICE_ERRORS)

    def call_errors(self, text: str, source: str) -> list[CompileError]:
        """The DSL's last error, at the last line of the candidate that led to it."""
        said = list(_SAID.finditer(text))
        if not said:
            return []
        lines = [int(number) for number in _FRAME.findall(text)]
        return [CompileError(said[-1]["message"], lines[-1] if lines else 0)]

    def warmup_environment(self, folder: str, arch: str) -> dict[str, str]:
        return {"CUTE_DSL_CACHE_DIR": folder, "TMPDIR": folder}

    @contextlib.contextmanager
    def stand_in(self, arch: str) -> Iterator[None]:
        from cutlass.base_dsl.jit_executor import JitCompiledFunction

        from kernelharness.languages.stand_in import pretending

        def launch(function: Any, arguments: list[Any]) -> None:
            """In the place of loading the kernels and calling the host's part: note that it was compiled."""
            Path(os.environ["CUTE_DSL_CACHE_DIR"], f"{function.function_name[:100]}{_MADE}").touch()

        with pretending(arch), patch.object(JitCompiledFunction, "run_compiled_program", launch):
            yield

    def kernels_in(self, folder: Path) -> list[Path]:
        return sorted(folder.rglob(f"*{_MADE}"))


def _refuse(flags: int) -> None:
    raise RuntimeError("CUDA is not opened before the fork")


LANGUAGE = CuteDsl()
