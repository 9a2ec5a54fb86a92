"""FlyDSL, AMD's Python DSL of layouts: a module with `ModelNew` whose kernels are compiled when they are first called.

The compiler is a library in the process (MLIR, and LLVM for AMD's devices in it); its linker is ROCm's. It can compile
without launching, which is all that happens without a device. Nothing of this was ever run on one.
Neighbours: traced.py (errors), ../warmup.py, stand_in.py (torch without a device).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from kernelharness.languages.traced import TracedLanguage


class FlyDsl(TracedLanguage):
    name = "flydsl"
    package = "flydsl"
    comes_with = "pip install flydsl, and ROCm for its linker"
    kernel_decorators = ("flydsl.compiler.kernel",)
    compiler = "/flydsl/compiler/"

    def prepare_zygote(self, arch: str) -> None:
        """Import it once: a quarter of a gigabyte of libraries."""
        with contextlib.suppress(ImportError):
            import flydsl.compiler
            import flydsl.expr

            assert flydsl.expr is not None

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
