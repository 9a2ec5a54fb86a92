"""Triton: a Python module with `ModelNew` whose kernels are compiled when they are first called.

That needs a C compiler, ptxas and a folder to write to, and autotuning needs the device: so a warm-up runner, which may
all that but is shown decoys only, fills a folder of its own. The folder is then frozen, and the timed runner may read
it and start nothing. Without a device the warm-up alone is run, with a driver in Triton's place of the device's which
loads and launches nothing: every kernel that is launched is compiled for the profile's arch, NVIDIA's or AMD's.
Neighbours: pytorch.py (loads the module), ../warmup.py (the two runners), stand_in.py (torch without a device).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kernelharness.languages.base import CompileError
from kernelharness.languages.pytorch import PyTorch

_AT = re.compile(
    r"^(?:\w+\.)*(?:CompilationError|UnsupportedLanguageConstruct|CompileTimeAssertionFailure): at \d+:\d+:$"
)
_OTHER = re.compile(r"^(?:\w+\.)*(?P<message>(?:\w*Error|OutOfResources): .*)$", re.MULTILINE)
_COUNTS = {
    "registers": re.compile(r"^\s*\.vgpr_count:\s*(\d+)", re.MULTILINE),
    "shared_bytes": re.compile(r"^\s*\.group_segment_fixed_size:\s*(\d+)", re.MULTILINE),
    "spilled_registers": re.compile(r"^\s*\.vgpr_spill_count:\s*(\d+)", re.MULTILINE),
}
_BINARIES = (".cubin", ".hsaco")


class Triton(PyTorch):
    name = "triton"
    needs_warmup = True
    package = "triton"
    comes_with = "it comes with torch for GPUs, and with the images harness-cuda and harness-rocm"
    kernel_decorators = ("triton.jit",)
    compile_failures = ("CompilationError", "CompileTimeAssertionFailure", "PTXASError", "OutOfResources")

    def prepare_zygote(self, arch: str) -> None:
        """Import Triton and let it find out about its tools, for which it starts processes."""
        os.environ["TRITON_CACHE_AUTOTUNING"] = "1"
        with contextlib.suppress(ImportError):
            import triton
            import triton.experimental.gluon
            import triton.language
            from triton.backends.nvidia.compiler import get_ptxas_version
            from triton.runtime.build import platform_key

            platform_key()
            get_ptxas_version(90)
            _hash_package()
            with contextlib.suppress(AssertionError):  # no driver: nothing will be launched
                os.environ["TRITON_LIBCUDA_PATH"] = _driver_folder()
                _driver_stub()
            assert triton is not None

    def prepared_folder(self) -> Path | None:
        return _driver_stub() if "TRITON_LIBCUDA_PATH" in os.environ else None

    def call_errors(self, text: str, source: str) -> list[CompileError]:
        """Triton's last error, at the line that it quotes; its own numbers count from the kernel's start."""
        rows = text.splitlines()
        starts = [number for number, row in enumerate(rows) if _AT.match(row)]
        if not starts:
            others = _OTHER.findall(text)
            return [CompileError(others[-1])] if others else []
        quoted = rows[starts[-1] + 1 :]
        caret = next((number for number, row in enumerate(quoted) if row.strip() == "^"), None)
        if not caret:
            return [CompileError(" ".join(quoted)[:300])]
        code = quoted[caret - 1].strip()
        lines = [number for number, row in enumerate(source.splitlines(), 1) if row.strip() == code]
        message = " ".join(row.strip() for row in quoted[caret + 1 :] if row.strip())
        return [CompileError(message or f"does not compile: {code}", lines[0] if lines else 0)]

    def warmup_environment(self, folder: str, arch: str) -> dict[str, str]:
        return {"TRITON_CACHE_DIR": folder, "TMPDIR": folder}

    @contextlib.contextmanager
    def stand_in(self, arch: str) -> Iterator[None]:
        from triton.runtime import driver

        from kernelharness.languages.stand_in import pretending

        with pretending(arch):
            driver.set_active(_make_driver(arch))
            yield

    def kernels_in(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.suffix in _BINARIES)

    def resources_of(self, kernels: Sequence[Path]) -> dict[str, float]:
        """The largest of AMD's assembly, which says what the code object needs; NVIDIA's binaries say it elsewhere."""
        texts = [path.with_suffix(".amdgcn").read_text() for path in kernels if path.suffix == ".hsaco"]
        found = {name: [int(n) for text in texts for n in count.findall(text)] for name, count in _COUNTS.items()}
        return {name: float(max(values)) for name, values in found.items() if values}


def _hash_package() -> None:
    """What every cache key begins with: the whole package is read for it, once for all later runners."""
    for name in ("triton.runtime.cache", "triton.compiler.compiler"):  # by version
        if (key := getattr(import_module(name), "triton_key", None)) is not None:
            key()
            return


def _driver_folder() -> str:
    """Where libcuda.so.1 lies, so that Triton need not start ldconfig to find it."""
    from triton.backends.nvidia.driver import libcuda_dirs

    folders: Sequence[str] = libcuda_dirs()
    return folders[0]


@functools.cache
def _driver_stub() -> Path:
    """A cache that holds what Triton compiles to reach the driver, whatever the kernel."""
    from triton.backends.nvidia.driver import CudaUtils

    folder, before = tempfile.mkdtemp(prefix="triton-"), os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = folder
    with contextlib.suppress(Exception):  # it fails again, and is told, when a candidate needs it
        CudaUtils()
    del os.environ["TRITON_CACHE_DIR"]
    if before is not None:
        os.environ["TRITON_CACHE_DIR"] = before
    return Path(folder)


def _make_driver(arch: str) -> Any:
    """What Triton asks a device's driver, answered without one; loading gives no handle and launching does nothing."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    from kernelharness.languages.stand_in import limits_of

    limits = limits_of(arch)
    if arch.startswith("gfx"):
        target = GPUTarget("hip", arch, limits.warp_size)
    else:
        target = GPUTarget("cuda", int(arch.removeprefix("sm_").rstrip("af")), limits.warp_size)

    class Utils:
        def get_device_properties(self, device: int) -> dict[str, int]:
            return {
                "max_shared_mem": limits.shared_bytes,
                "max_num_regs": 65536,
                "multiprocessor_count": limits.units,
                "warpSize": limits.warp_size,
                "cooperativeLaunch": 1,
            }

        def load_binary(self, *kernel: object) -> tuple[object, int, int, int, int]:
            """(module, function, registers, spills, threads of the largest block)"""
            return object(), 0, 0, 0, 1024

        def unload_module(self, module: object) -> None:
            pass

    class Driver(DriverBase):  # type: ignore[misc]
        utils = Utils()

        @staticmethod
        def launcher_cls(src: object, metadata: object) -> Any:
            return lambda *launch: None

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> GPUTarget:
            return target

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> Any:
            return torch.device("cuda", 0)

        def get_benchmarker(self) -> Any:
            """Autotuning compiles every configuration; all take equally long."""

            def benchmark(call: Any, quantiles: Any = None, **options: object) -> Any:
                call()
                return [1.0] * len(quantiles) if quantiles else 1.0

            return benchmark

        def get_device_interface(self) -> Any:
            return torch.cuda

    return Driver()


LANGUAGE = Triton()
