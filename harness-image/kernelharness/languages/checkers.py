"""The two tools that say more of a memory fault than that it happened: AddressSanitizer, and compute-sanitizer.

Each turns the program of caller.py into commands, and what is printed then into a `MemoryFinding`. The program is the
candidate's: whatever it prints may be forged, so only words, numbers and names of a fixed form are taken from it.
Neighbours: cpp.py, cuda.py (who use them), ../closer_look.py (runs them in a sandbox), ../diagnose.py (the text).
"""

from __future__ import annotations

import os
import re
import shutil

from kernelharness.languages.base import MemoryCheck, MemoryFinding
from kernelharness.protocol import Toolchain

_ASAN_OPTIONS = (
    "detect_leaks=0:detect_odr_violation=0:color=never:print_legend=0:malloc_context_size=0:allow_user_segv_handler=0"
)
_ASAN_ERROR = re.compile(
    r"ERROR: AddressSanitizer: (?P<what>[A-Za-z-]{3,40})(?: on (?:unknown )?address 0x(?P<address>[0-9a-f]{1,16}))?"
)
_ASAN_ACCESS = re.compile(r"^(?P<access>READ|WRITE) of size (?P<size>\d{1,12}) at ", re.MULTILINE)
_ASAN_SIGNAL = re.compile(r"caused by a (?P<access>READ|WRITE) memory access")
_ASAN_FRAME = re.compile(
    r"^ {4}#\d+ 0x[0-9a-f]+ in (?P<function>[\w~:<>. ]+?)(?:\(.*\))?(?: \[clone [^\]]*\])? (?P<at>\S+)$", re.MULTILINE
)
_ASAN_REGION = re.compile(
    r"is located (?P<distance>\d{1,18}) bytes (?P<side>to the right of|to the left of|after|before|inside of) "
    r"(?P<size>\d{1,18})-byte region"
)
_ASAN_VARIABLE = re.compile(
    r"'(?P<name>\w{1,60})' \(line (?P<line>\d{1,6})\) <== Memory access at offset \d+ (?P<how>overflows|underflows|"
    r"is inside|partially overflows|partially underflows)"
    r"|(?:to the right of|to the left of|after|before) global variable '(?P<global>\w{1,60})'"
)
_SIDES = {"to the right of": "behind", "after": "behind", "to the left of": "before", "before": "before"}

_CUDA_TOOLS = "/usr/local/cuda/bin"
_CUDA_ACCESS = re.compile(
    r"(?P<what>Invalid|Misaligned) __(?P<space>\w{1,20})__ (?P<access>read|write|atomic) of "
    r"size (?P<size>\d{1,6}) bytes?"
)
_CUDA_AT = re.compile(
    r"^=+ +at (?:(?P<name>.+?)\+0x[0-9a-f]+ in (?P<file>\S+?):(?P<line>\d{1,6})$"
    r"|0x[0-9a-f]+ in (?P<old_file>\S+?):(?P<old_line>\d{1,6}):(?P<old_name>.+)$)",
    re.MULTILINE,
)
_CUDA_THREAD = re.compile(r"by thread \((?P<thread>\d+,\d+,\d+)\) in block \((?P<block>\d+,\d+,\d+)\)")
_CUDA_ADDRESS = re.compile(r"0x(?P<address>[0-9a-f]{1,16}) is (?:out of bounds|misaligned)")
_NAME = re.compile(r"[\w:]{1,60}")


def address_sanitizer(toolchain: Toolchain, text: str) -> MemoryCheck:
    """With -O1 and lines: what is found is the program's, not an optimiser's."""
    command = ["g++", "-std=c++17", "-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer", "-fopenmp"]
    command += [f"-march={toolchain.arch}", "-w", "-fdiagnostics-color=never", "-Iinclude", "check.cpp", "-o", "check"]
    options = {"ASAN_OPTIONS": _ASAN_OPTIONS}
    return MemoryCheck("AddressSanitizer", "check.cpp", text, command, ["./check"], options, read_address_sanitizer)


def compute_sanitizer(toolchain: Toolchain, text: str, nvcc: str) -> MemoryCheck:
    compute = toolchain.arch.replace("sm_", "compute_")
    command = [nvcc, "-std=c++17", "-O3", "-lineinfo", "-w", "--expt-relaxed-constexpr", "--extended-lambda"]
    command += ["-gencode", f"arch={compute},code={toolchain.arch}", "-Iinclude", "check.cu", "-o", "check"]
    tool = shutil.which("compute-sanitizer") or os.path.join(_CUDA_TOOLS, "compute-sanitizer")
    watch = [tool, "--tool", "memcheck", "--print-limit", "1", "--show-backtrace", "no", "./check"]
    name = "compute-sanitizer"
    return MemoryCheck(name, "check.cu", text, command, watch, {}, read_compute_sanitizer, cuda=True)


def read_address_sanitizer(text: str, source: str) -> MemoryFinding | None:
    """The first error; its place is the innermost frame in the candidate's own file."""
    if (error := _ASAN_ERROR.search(text)) is None:
        return None
    report = text[error.start() :]
    access = _ASAN_ACCESS.search(report) or _ASAN_SIGNAL.search(report)
    function, line = "", 0
    for frame in _ASAN_FRAME.finditer(report.partition("\n\n")[0]):
        file, _, number = frame["at"].rpartition(":")
        if file.rsplit("/", 1)[-1] == source and number.isdecimal():
            function, line = frame["function"][:60], int(number[:6])
            break
    return MemoryFinding(
        what=error["what"],
        access=access["access"].lower() if access else "",
        size=int(access.groupdict().get("size") or 0) if access else 0,
        address=int(error["address"] or "0", 16),
        function=function,
        line=line,
        place=_asan_place(report),
    )


def _asan_place(report: str) -> str:
    if (variable := _ASAN_VARIABLE.search(report)) is not None:
        return f"variable {variable['name'] or variable['global']}"
    if (region := _ASAN_REGION.search(report)) is not None:
        if region["side"] == "inside of":
            return f"byte {region['distance']} of a block of {region['size']} bytes"
        return f"{region['distance']} bytes {_SIDES[region['side']]} a block of {region['size']} bytes"
    return ""


def read_compute_sanitizer(text: str, source: str) -> MemoryFinding | None:
    if (access := _CUDA_ACCESS.search(text)) is None:
        return None
    report = text[access.start() :]
    function, line = "", 0
    if (at := _CUDA_AT.search(report)) is not None:
        name = _NAME.match(at["name"] or at["old_name"])
        function = name[0] if name else ""
        file = (at["file"] or at["old_file"]).rsplit("/", 1)[-1]
        line = int(at["line"] or at["old_line"]) if file == source else 0
    thread = _CUDA_THREAD.search(report)
    address = _CUDA_ADDRESS.search(report)
    return MemoryFinding(
        what=f"{access['what'].lower()} {access['space']} access",
        access=access["access"],
        size=int(access["size"]),
        address=int(address["address"], 16) if address else 0,
        function=function,
        line=line,
        thread=f"thread ({thread['thread']}) of block ({thread['block']})" if thread else "",
    )
