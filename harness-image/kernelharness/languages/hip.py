"""HIP C++ for an AMD device: one source against `problem.h`, compiled by hipcc to a plain library.

The same ABI as CUDA's. hipcc is clang, so its errors are read like g++'s; what the kernels need of the device is told
by clang's remarks on them. Neighbours: cuda.py, cpp.py (errors), header.py with native_hip.h (the header).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from kernelharness.languages.base import CompileError, Language, fill_command
from kernelharness.languages.cpp import LANGUAGE as CPP
from kernelharness.languages.header import render_header
from kernelharness.protocol import CaseFact, Toolchain

COMMAND = (
    *(
        "-x",
        "hip",
        "--offload-arch={arch}",
        "-std=c++17",
        "-O3",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        "-I{include}",
    ),
    *("-Rpass-analysis=kernel-resource-usage", "-fno-color-diagnostics", "-fno-caret-diagnostics", "-ferror-limit=20"),
    # Undefined symbols are errors here, not crashes at load.
    *("{source}", "-o", "{output}", "-Wl,-z,defs", "-Wl,--build-id=none"),
)
_TOOLKIT = "/opt/rocm/bin/hipcc"

_COUNT = re.compile(r": remark:\s+(?P<what>[A-Za-z ]+?)(?: \[bytes/(?P<per>lane|block)\])?: (?P<count>\d+)")
_COUNTED = {
    "VGPRs": "registers",
    "AGPRs": "accumulator_registers",
    "ScratchSize": "scratch_bytes",
    "VGPRs Spill": "spilled_registers",
    "LDS Size": "shared_bytes",
}
"""Clang's words -> the names of protocol.Result.resources."""
_LINK = re.compile(r"^lld: error: (?P<message>.*)$")


class Hip(Language):
    name = "hip"
    suffix = ".hip"
    is_native = True
    comes_with = "it comes with ROCm and the image harness-rocm; on Debian, see docs/decisions/0011"

    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        return {"problem.h": render_header(facts, "native_hip.h")}

    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        own = (shutil.which("hipcc") or _TOOLKIT, *COMMAND)
        return fill_command(toolchain.command or own, toolchain, source, output, include)

    def compile_errors(self, text: str, source_name: str) -> list[CompileError]:
        """Errors of clang, for the device and then for the host, and of both linkers."""
        errors = CPP.compile_errors(text, source_name)
        linked = (_LINK.match(row) for row in text.splitlines())
        return errors or [CompileError(match["message"]) for match in linked if match is not None]

    def resources(self, text: str) -> dict[str, float]:
        """The largest of what clang counted over all kernels: registers of a lane, spilled ones, LDS, scratch."""
        found: dict[str, float] = {}
        for row in text.splitlines():
            count = _COUNT.search(row)
            if count is not None and (name := _COUNTED.get(count["what"], "")):
                found[name] = max(found.get(name, 0.0), float(count["count"]))
        return found


LANGUAGE = Hip()
