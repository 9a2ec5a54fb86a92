"""CUDA C++ for an NVIDIA device: one source against `problem.h`, compiled by nvcc to a plain library.

The same ABI as C++ on a CPU, with tensors on the device and a stream in the context. The runtime is linked shared: it
is in every process that has a context, and a static copy would be a megabyte in every published kernel.
Neighbours: cpp.py (the host compiler's errors), header.py with native_cuda.h (the header).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from kernelharness.languages.base import CompileError, Language, MemoryCheck, fill_command
from kernelharness.languages.caller import render_caller
from kernelharness.languages.checkers import compute_sanitizer
from kernelharness.languages.cpp import LANGUAGE as CPP
from kernelharness.languages.header import render_declarations, render_header
from kernelharness.protocol import CaseFact, Toolchain

COMMAND = (
    *("-std=c++17", "-O3", "--shared", "--cudart=shared", "-gencode", "arch={compute},code={arch}"),
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fdiagnostics-color=never,-fno-diagnostics-show-caret",
    *("-Xptxas=-v", "--expt-relaxed-constexpr", "-I{include}", "{source}", "-o", "{output}"),
    # Undefined symbols are errors here, not crashes at load.
    *("-Xlinker=-z,defs", "-Xlinker=--build-id=none"),
)
_EXTENDED_LAMBDA = "--extended-lambda"
"""Lambdas for the device. A third of a compile's time is what this flag includes in every source."""
_TOOLKIT = "/usr/local/cuda/bin/nvcc"

_PLACE = re.compile(r"^(?P<file>[^()\s][^()]*)\((?P<line>\d+)\): (?P<kind>catastrophic error|error)(?: #\d+(?:-D)?)?: ")
_PTXAS = re.compile(
    r"^ptxas (?:fatal|error)\s*:\s*(?P<message>.*)$|^ptxas (?P<file>\S+), line \d+; error\s*: (?P<at>.*)$"
)
_SPILLS = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill"
)
_USED = re.compile(r"Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?")


class Cuda(Language):
    name = "cuda"
    suffix = ".cu"
    is_native = True
    comes_with = "it comes with the CUDA toolkit and the image harness-cuda"

    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        return {"problem.h": render_header(facts, "native_cuda.h")}

    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        compute = toolchain.arch.replace("sm_", "compute_")
        own = (_nvcc(), *(word.replace("{compute}", compute) for word in COMMAND))
        return fill_command(toolchain.command or own, toolchain, source, output, include)

    def lacking_flags(self, toolchain: Toolchain, text: str) -> list[str]:
        return [_EXTENDED_LAMBDA] if _EXTENDED_LAMBDA in text and not toolchain.command else []

    def declarations(self, facts: Sequence[CaseFact]) -> str:
        return render_declarations(facts)

    def memory_check(self, toolchain: Toolchain, facts: Sequence[CaseFact], case: int) -> MemoryCheck | None:
        if toolchain.command:
            return None  # another compiler, of which nothing is known
        return compute_sanitizer(toolchain, render_caller(facts, case, self.source_name(toolchain)), _nvcc())

    def compile_errors(self, text: str, source_name: str) -> list[CompileError]:
        """Errors of nvcc's front end, of ptxas, and of the host compiler and linker."""
        errors: list[CompileError] = []
        rows = text.splitlines()
        for row in rows:
            if (place := _PLACE.match(row)) is not None:
                file = place["file"].rsplit("/", 1)[-1]
                message = row[place.end() :]
                here = file == source_name
                errors.append(CompileError(message if here else f"{message} (in {file})", int(place["line"]) * here))
            elif (found := _PTXAS.match(row)) is not None:
                errors.append(CompileError(f"ptxas: {found['message'] or found['at']}"))
        return list(dict.fromkeys(errors)) or CPP.compile_errors(text, source_name)

    def resources(self, text: str) -> dict[str, float]:
        """The largest of what ptxas counted over all kernels: registers, spilled bytes, static shared memory."""
        found: dict[str, float] = {}
        for row in text.splitlines():
            if (spills := _SPILLS.search(row)) is not None:
                _keep_largest(found, "spill_bytes", int(spills["stores"]) + int(spills["loads"]))
            if (used := _USED.search(row)) is not None:
                _keep_largest(found, "registers", int(used["registers"]))
                _keep_largest(found, "shared_bytes", int(used["shared"] or 0))
        return found


def _nvcc() -> str:
    return shutil.which("nvcc") or _TOOLKIT


def _keep_largest(found: dict[str, float], name: str, value: int) -> None:
    found[name] = max(found.get(name, 0.0), float(value))


LANGUAGE = Cuda()
