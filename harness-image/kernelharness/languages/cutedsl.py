"""CuTe DSL, NVIDIA's Python DSL of CUTLASS: a module with `ModelNew` whose kernels are compiled when first called.

The compiler is a library in the process (MLIR, and NVIDIA's assembler in it): it starts nothing, and the timed runner
compiles again what it does not find in the folder that the warm-up filled. Without a device the warm-up alone is run;
functions are then compiled for the profile's arch, and calling them does nothing.
Neighbours: traced.py (errors), ../warmup.py, stand_in.py (torch without a device).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kernelharness.languages.traced import TracedLanguage

_MADE = ".compiled"
"""Suffix of what the stand-in leaves for each function that it does not call: it is kept in memory alone."""


class CuteDsl(TracedLanguage):
    name = "cutedsl"
    package = "cutlass"
    comes_with = "pip install nvidia-cutlass-dsl"
    kernel_decorators = ("cutlass.cute.kernel",)
    kernel_prefix = "kernel_cutlass_"
    compiler = "/cutlass/base_dsl/"
    device_errors = ("CudaDriverDependencyError", "DSLCudaRuntimeError")

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
