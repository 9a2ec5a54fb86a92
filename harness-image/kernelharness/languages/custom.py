"""A language that this harness has never heard of: a profile's compile command makes a library of one source file.

The command compiles against the same `problem.h` as C++ does, for whatever device the profile's vendor has. Its errors
are read in the form that most compilers write, `file:line:column: error: text`; others are quoted as they were printed.
Neighbours: base.py (`language_of` comes here), README.md (what the compiler must do), devices/accelerator.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kernelharness.languages.base import CompileError, Language, fill_command
from kernelharness.languages.header import render_header
from kernelharness.protocol import CaseFact, Toolchain

_ERROR = re.compile(r"^(?P<file>[^:\s][^:]*):(?P<line>\d+):(?:(?P<column>\d+):)? *(?:fatal )?error: *(?P<message>.*)$")


class Custom(Language):
    """`suffix` comes from the profile too."""

    is_native = True

    def __init__(self, name: str, suffix: str) -> None:
        self.name = name
        self.suffix = suffix

    def headers(self, facts: Sequence[CaseFact]) -> dict[str, str]:
        return {"problem.h": render_header(facts)}

    def compile_command(self, toolchain: Toolchain, source: str, output: str, include: str) -> list[str]:
        return fill_command(toolchain.command, toolchain, source, output, include)

    def compile_errors(self, text: str, source_name: str) -> list[CompileError]:
        """Those in the candidate's own file have its line; another file is named in the message."""
        errors: list[CompileError] = []
        for row in text.splitlines():
            if (place := _ERROR.match(row.strip())) is None:
                continue
            file = place["file"].rsplit("/", 1)[-1]
            if file == source_name:
                errors.append(CompileError(place["message"], int(place["line"]), int(place["column"] or 0)))
            else:
                errors.append(CompileError(f"{place['message']} (in {file})"))
        return list(dict.fromkeys(errors))
