"""Triton: a Python module with `ModelNew` whose kernels are compiled when they are first called.

That needs a C compiler, ptxas and a folder to write to, and autotuning needs the device: so a warm-up runner, which may
all that but is shown decoys only, fills a folder of its own. The folder is then frozen, and the timed runner may read
it and start nothing. Neighbours: pytorch.py (loads the module), ../warmup.py (the two runners).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from kernelharness.languages.pytorch import PyTorch


class Triton(PyTorch):
    name = "triton"
    needs_warmup = True

    def prepare_zygote(self) -> None:
        """Import Triton and let it find out about its tools, for which it starts processes."""
        os.environ["TRITON_CACHE_AUTOTUNING"] = "1"
        with contextlib.suppress(ImportError):
            import triton
            import triton.language
            from triton.backends.nvidia.compiler import get_ptxas_version
            from triton.runtime.build import platform_key

            platform_key()
            get_ptxas_version(90)
            os.environ["TRITON_LIBCUDA_PATH"] = _driver_folder()
            assert triton is not None

    def warmup_environment(self, folder: str) -> dict[str, str]:
        return {"TRITON_CACHE_DIR": folder, "TMPDIR": folder}


def _driver_folder() -> str:
    """Where libcuda.so.1 lies, so that Triton need not start ldconfig to find it."""
    from triton.backends.nvidia.driver import libcuda_dirs

    folders: Sequence[str] = libcuda_dirs()
    return folders[0]


LANGUAGE = Triton()
